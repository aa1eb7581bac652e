//! MobileNetV2: Sandler et al., 2018 (<https://arxiv.org/abs/1801.04381>), width 1: depthwise convolutions between
//! pointwise ones, ReLU6, and sums around blocks that keep their shape.

use super::builder::{Builder, Value};
use super::maps::Window;
use std::io::{self, Write};

const SEED: u64 = 2;
const SIDE: usize = 224;
/// Side of the pictures that are measured on: enough that the deepest layers still see 3 × 3 positions.
const MEASURED: usize = 96;
const CLASSES: usize = 1000;
const STEM: usize = 32;
const LAST: usize = 1280;
/// Per sequence of blocks: factor of the channels inside a block, channels that come out, blocks, stride of the first.
const SEQUENCES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
/// Scale of the last BatchNormalization of a block that is added to its input, as in ResNet-50.
const BRANCH_SCALE: f64 = 0.5;
const LOGIT_DEVIATION: f64 = 0.5;

/// Writes the network: input `input` FP32 \[N,3,224,224\], output `logits` FP32 \[N,1000\]. What is inside block N is
/// `block_N_…`, and `add_N` the sum around it where there is one.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    let mut net = Builder::new("mobilenetv2", SEED);
    let input = net.picture("input", 3, SIDE, MEASURED);
    let mut x = unit(&mut net, "stem", &input, STEM, Window { size: 3, stride: 2, padding: 1 });
    let mut number = 0;
    for (factor, channels, blocks, first_stride) in SEQUENCES {
        for block in 0..blocks {
            number += 1;
            x = inverted_residual(&mut net, number, &x, factor, channels, if block == 0 { first_stride } else { 1 });
        }
    }
    let x = unit(&mut net, "last", &x, LAST, Window::POINT);
    let x = net.average_and_flatten("pool", "flatten", &x);
    net.dense("fc", "logits", &x, CLASSES, LOGIT_DEVIATION);
    net.write("MobileNetV2 with random weights. It was never trained: its answers mean nothing.", out)
}

/// Convolution, BatchNormalization, ReLU6.
fn unit(net: &mut Builder, name: &str, input: &Value, channels: usize, window: Window) -> Value {
    let x = net.conv(&format!("{name}_conv"), input, channels, window);
    let x = net.batch_norm(&format!("{name}_bn"), x, 1.0);
    net.relu6(&format!("{name}_relu6"), x)
}

fn inverted_residual(
    net: &mut Builder,
    number: usize,
    input: &Value,
    factor: usize,
    channels: usize,
    stride: usize,
) -> Value {
    let name = |part: &str| format!("block_{number}_{part}");
    let inside = input.channels() * factor;
    let expanded = (factor > 1).then(|| unit(net, &name("expand"), input, inside, Window::POINT));
    let window = Window { size: 3, stride, padding: 1 };
    let x = net.depthwise(&name("depthwise_conv"), expanded.as_ref().unwrap_or(input), window);
    let x = net.batch_norm(&name("depthwise_bn"), x, 1.0);
    let x = net.relu6(&name("depthwise_relu6"), x);
    let x = net.conv(&name("project_conv"), &x, channels, Window::POINT);
    if stride == 1 && input.channels() == channels {
        let branch = net.batch_norm(&name("project_bn"), x, BRANCH_SCALE);
        net.add(&format!("add_{number}"), branch, input)
    } else {
        net.batch_norm(&name("project_bn"), x, 1.0)
    }
}
