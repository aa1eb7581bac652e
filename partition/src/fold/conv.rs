//! Scales and shifts per channel into the weights and bias of the convolution or matrix product before them.

use super::affine::{Affine, per_channel};
use crate::graph::{Alias, Network, Node};
use crate::onnx::proto::TensorProto;
use crate::onnx::tensor_of;
use crate::tensor::{DType, Tensor};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// How much was folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// BatchNormalization nodes that became part of the weights before them.
    pub batch_norms: usize,
    /// Additions and multiplications by a constant per channel that did.
    pub biases: usize,
}

/// Folds BatchNormalization, and adding, subtracting, multiplying or dividing by a constant per output channel, into
/// the Conv, ConvTranspose or Gemm before it.
///
/// Only where that operation's result has no other reader and is no output, and all numbers are 32-bit floats. The
/// arithmetic is done in double precision and rounded once, so results may differ from the file's in the last bits.
pub fn fold(network: &mut Network) -> Folded {
    let mut folded = Folded::default();
    let outputs: HashSet<String> = network.outputs.iter().cloned().collect();
    let mut gone = vec![false; network.nodes.len()];
    // Folding changes neither which nodes read a product's result nor the order, only the result's name.
    let mut reader: HashMap<String, Option<usize>> = HashMap::new();
    for (name, nodes) in network.readers() {
        let once = nodes.len() == 1 && network.nodes[nodes[0]].reads().filter(|n| *n == name).count() == 1;
        reader.insert(name.to_owned(), once.then(|| nodes[0]));
    }
    for index in 0..network.nodes.len() {
        if gone[index] {
            continue;
        }
        while let Some(product) = Product::of(network, index) {
            let [output] = network.nodes[index].proto.output.as_slice() else { break };
            let output = output.clone();
            let next = match reader.get(&output) {
                Some(Some(next)) if !outputs.contains(&output) => *next,
                _ => break,
            };
            let node = &network.nodes[next];
            let Product { rank, axis, channels, .. } = product;
            let Some(affine) = Affine::of(network, node, &output, rank, axis, channels) else { break };
            let is_norm = node.op() == "BatchNormalization";
            let Some(result) = node.proto.output.first().filter(|n| !n.is_empty()).cloned() else { break };
            if !product.apply(network, index, &affine, &result) {
                break;
            }
            network.nodes[index].proto.output[0].clone_from(&result);
            network.aliases.insert(output, Alias::Absorbed(result));
            gone[next] = true;
            if is_norm { folded.batch_norms += 1 } else { folded.biases += 1 }
        }
    }
    let mut gone = gone.into_iter();
    network.nodes.retain(|_| !gone.next().unwrap_or(false));
    network.drop_dead();
    folded
}

/// A node that multiplies its input by constant weights.
struct Product {
    weights: String,
    bias: Option<String>,
    /// Dimensions of the result, the one that counts channels, and how many there are.
    rank: usize,
    axis: usize,
    channels: usize,
    /// Elements of the weights form runs of this length that belong to one channel each …
    run: usize,
    /// … and the channels of one group repeat this often (once, except for transposed weights).
    repeat: usize,
    /// Channels of one group.
    group: usize,
}

impl Product {
    fn of(network: &Network, index: usize) -> Option<Self> {
        let node = &network.nodes[index];
        let weights = node.proto.input.get(1)?;
        let tensor = network.initializers.get(weights)?;
        // With elements at all, no product of dimensions exceeds their number.
        if tensor.raw_data().is_empty() {
            return None;
        }
        let dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
        let bias = node.proto.input.get(2).filter(|n| !n.is_empty()).cloned();
        let groups = usize::try_from(node.int("group", 1)).ok().filter(|&g| g > 0)?;
        let weights = weights.clone();
        match (node.op(), dims.as_slice()) {
            ("Conv", [channels, _, rest @ ..]) => {
                let run = dims[1] * rest.iter().product::<usize>();
                let channels = *channels;
                Some(Self { weights, bias, rank: dims.len(), axis: 1, channels, run, repeat: 1, group: channels })
            }
            ("ConvTranspose", [inputs, group, rest @ ..]) if *group > 0 && *inputs > 0 && inputs % groups == 0 => {
                let (group, run) = (*group, rest.iter().product());
                let repeat = inputs / groups;
                Some(Self { weights, bias, rank: dims.len(), axis: 1, channels: group * groups, run, repeat, group })
            }
            ("Gemm", [rows, columns]) => {
                // With beta 0 the bias is not read; with another beta it is scaled. Both are rare: left alone.
                if bias.is_some() && node.float("beta", 1.0) != 1.0 {
                    return None;
                }
                let transposed = node.int("transB", 0) != 0;
                let (channels, run, repeat) = if transposed { (*rows, *columns, 1) } else { (*columns, 1, *rows) };
                Some(Self { weights, bias, rank: 2, axis: 1, channels, run, repeat, group: channels })
            }
            _ => None,
        }
    }

    /// Writes weights and bias with `affine` in them. `false`, and nothing done, if they cannot hold it exactly enough.
    fn apply(&self, network: &mut Network, index: usize, affine: &Affine, result: &str) -> bool {
        let Some((weights, bias)) = self.folded(network, affine) else { return false };
        let is_scaled = affine.scale.iter().any(|s| *s != 1.0);
        if is_scaled {
            let dims = network.initializers.get(&self.weights).map(|t| t.dims.clone()).unwrap_or_default();
            let name = own_name(network, index, &self.weights, &format!("{result}/weights"));
            let raw_data = Some(Bytes::from(weights));
            let data_type = Some(DType::Fp32.onnx());
            let tensor = TensorProto { name: Some(name.clone()), dims, data_type, raw_data, ..Default::default() };
            network.initializers.insert(name.clone(), tensor);
            network.nodes[index].proto.input[1] = name;
        }
        let name = format!("{result}/bias");
        let name = match &self.bias {
            Some(known) => own_name(network, index, known, &name),
            None => network.free_name(&name),
        };
        let Some(bias) = Tensor::from_f32(vec![self.channels], &bias) else { return false };
        network.initializers.insert(name.clone(), tensor_of(&name, bias));
        let proto = &mut network.nodes[index].proto;
        proto.input.resize(3, String::new());
        proto.input[2] = name;
        true
    }

    /// New weights, as bytes (empty if nothing scales them), and bias.
    fn folded(&self, network: &Network, affine: &Affine) -> Option<(Vec<u8>, Vec<f32>)> {
        if !affine.is_finite() {
            return None;
        }
        let tensor = network.initializers.get(&self.weights)?;
        if tensor.data_type() != DType::Fp32.onnx() {
            return None;
        }
        let old_bias = match &self.bias {
            // A bias is a vector, or broadcasts against the matrix that Gemm makes.
            Some(name) => per_channel(network.initializers.get(name)?, 2, 1, self.channels)?,
            None => vec![0.0; self.channels],
        };
        let bias: Vec<f32> =
            (0..self.channels).map(|c| (old_bias[c] * affine.scale[c] + affine.shift[c]) as f32).collect();
        let mut raw = Vec::new();
        if affine.scale.iter().any(|s| *s != 1.0) {
            let (values, _) = tensor.raw_data().as_chunks::<4>();
            raw.reserve_exact(values.len() * 4);
            // Runs go through the channels of a group, `repeat` times, then on to the next group.
            let block = self.group * self.repeat;
            for (run, values) in values.chunks(self.run.max(1)).enumerate() {
                let channel = run / block * self.group + run % self.group;
                let scale = affine.scale[channel];
                for value in values {
                    let value = (f64::from(f32::from_le_bytes(*value)) * scale) as f32;
                    if !value.is_finite() {
                        return None;
                    }
                    raw.extend_from_slice(&value.to_le_bytes());
                }
            }
        }
        bias.iter().all(|b| b.is_finite()).then_some((raw, bias))
    }
}

/// The name under which node `index` keeps its own version of constant `name`: the same if nobody else reads it.
fn own_name(network: &Network, index: usize, name: &str, other: &str) -> String {
    let reads = |node: &Node| node.reads().filter(|n| *n == name).count();
    let shared = network.nodes.iter().enumerate().any(|(i, node)| reads(node) > usize::from(i == index));
    if shared { network.free_name(other) } else { name.to_owned() }
}
