//! VGG: Simonyan and Zisserman, 2014 (<https://arxiv.org/abs/1409.1556>), configurations D and E: convolutions in a row
//! without normalisation, and a fully connected layer that holds three quarters of all weights.

use super::builder::Builder;
use super::maps::Window;
use std::io::{self, Write};

const CLASSES: usize = 1000;
/// Spread of the hidden fully connected layers over the made-up pictures, which the convolutions see much alike; small,
/// so that pictures of another kind do not run away.
const HIDDEN_DEVIATION: f64 = 0.5;
/// Spread of the logits, as [`resnet50`](super::resnet50) has it.
const LOGIT_DEVIATION: f64 = 0.5;

/// One of the family.
pub(super) struct Vgg {
    name: &'static str,
    seed: u64,
    /// Side of the input; a multiple of 32.
    side: usize,
    /// Side of the pictures that are measured on; a multiple of 16.
    measured: usize,
    /// Convolutions in each block and their channels; a block ends by halving the sides.
    blocks: [(usize, usize); 5],
    /// Channels of the two hidden fully connected layers.
    hidden: usize,
}

pub(super) const VGG16: Vgg = Vgg {
    name: "vgg16",
    seed: 16,
    side: 224,
    measured: 48,
    blocks: [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)],
    hidden: 4096,
};

pub(super) const VGG19: Vgg =
    Vgg { name: "vgg19", seed: 19, blocks: [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)], ..VGG16 };

/// Writes the network: input `input` FP32 \[N,3,224,224\], output `logits` FP32 \[N,1000\]; in between `conv_B_L`,
/// `relu_B_L`, `pool_B`, `fc1` and `fc2`.
pub(super) fn write(vgg: &Vgg, out: &mut dyn Write) -> io::Result<()> {
    let mut net = Builder::new(vgg.name, vgg.seed);
    let mut x = net.picture("input", 3, vgg.side, vgg.measured);
    for (block, &(layers, channels)) in (1..).zip(&vgg.blocks) {
        for layer in 1..=layers {
            let window = Window { size: 3, stride: 1, padding: 1 };
            x = net.fitted_conv(&format!("conv_{block}_{layer}"), &x, channels, window);
            x = net.relu(&format!("relu_{block}_{layer}"), x);
        }
        x = net.max_pool(&format!("pool_{block}"), &x, Window { size: 2, stride: 2, padding: 0 });
    }
    x = net.flatten("flatten", &x, vgg.side >> vgg.blocks.len());
    for layer in ["fc1", "fc2"] {
        x = net.fitted_dense(layer, &x, vgg.hidden, HIDDEN_DEVIATION);
        x = net.relu(&format!("{layer}_relu"), x);
    }
    net.dense("fc3", "logits", &x, CLASSES, LOGIT_DEVIATION);
    let about = format!("{} with random weights. It was never trained: its answers mean nothing.", vgg.name);
    net.write(&about, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::onnx::proto::ModelProto;
    use prost::Message;

    /// The full size takes half a gigabyte; its structure is the same.
    #[test]
    fn a_small_one_has_all_layers_and_values_in_range() {
        let small =
            Vgg { side: 64, measured: 32, blocks: [(2, 4), (2, 8), (3, 8), (3, 16), (3, 16)], hidden: 32, ..VGG16 };
        let mut file = Vec::new();
        write(&small, &mut file).unwrap();
        let mut again = Vec::new();
        write(&small, &mut again).unwrap();
        assert!(file == again, "the same bytes every time");
        let graph = ModelProto::decode(&file[..]).unwrap().graph.unwrap();
        let count = |operator| graph.node.iter().filter(|node| node.op_type() == operator).count();
        assert_eq!(["Conv", "Relu", "MaxPool", "Flatten", "Gemm"].map(count), [13, 15, 5, 1, 3]);
        let shapes: Vec<_> =
            graph.initializer.iter().filter(|t| t.name().starts_with("fc1")).map(|t| &t.dims).collect();
        assert_eq!(shapes, [&vec![32, 16 * 2 * 2], &vec![32]]);
        for tensor in &graph.initializer {
            let values = tensor.raw_data().as_chunks().0.iter().copied().map(f32::from_le_bytes);
            assert!(values.into_iter().all(|v| v.abs() < 100.0), "{}", tensor.name());
        }
    }
}
