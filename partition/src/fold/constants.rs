//! Constants into constants: what depends on nothing but constants is computed at build time.

use crate::graph::{Network, Node};
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto, tensor_proto::DataType};
use crate::onnx::tensor_of;
use crate::tensor::Tensor;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Results beyond this many bytes are folded only if they are no larger than the constants they come from.
const LARGE: u64 = 1 << 20;

/// Operators that give another result each time.
const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"];

/// Outputs of a model by name.
pub type Results = Vec<(String, Tensor)>;

/// Computes every tensor that depends only on constants, and makes it a constant. Gives the number of nodes that went.
///
/// `eval` runs a model without inputs and gives its outputs by name; a result that it leaves out stays a node, as do
/// results over 1 MiB that are larger than the constants they come from, random ones, and dequantised weights (an
/// engine runs quantised operators only if it sees the quantised weights). On an error the network is unchanged.
pub fn fold_constants<E>(
    network: &mut Network,
    eval: &mut dyn FnMut(&ModelProto) -> Result<Results, E>,
) -> Result<usize, E> {
    let foldable = foldable(network);
    let results = results(network, &foldable);
    if results.is_empty() {
        return Ok(0);
    }
    let mut computed: HashMap<String, Tensor> = eval(&model(network, &foldable, &results))?.into_iter().collect();
    let sizes = source_bytes(network, &results);
    for (name, source) in results.iter().zip(sizes) {
        let Some(tensor) = computed.remove(name) else { continue };
        let len = tensor.data.len() as u64;
        if len <= LARGE || len <= source {
            network.initializers.insert(name.clone(), tensor_of(name, tensor));
        }
    }
    let before = network.nodes.len();
    drop_replaced(network);
    network.materialise_outputs();
    network.drop_dead();
    Ok(before.saturating_sub(network.nodes.len()))
}

/// Nodes that depend only on constants and may be computed ahead.
fn foldable(network: &Network) -> BTreeSet<usize> {
    let functions: HashSet<(&str, &str)> = network.header.functions.iter().map(|f| (f.domain(), f.name())).collect();
    let mut constant: HashSet<&str> = HashSet::new();
    let mut foldable = BTreeSet::new();
    for (index, node) in network.nodes.iter().enumerate() {
        let known = |name: &str| constant.contains(name) || network.initializers.get(name).is_some_and(is_dense);
        let is_function = functions.contains(&(node.proto.domain(), node.proto.op_type()));
        if is_repeatable(node) && !is_function && node.reads().all(known) {
            constant.extend(node.writes());
            foldable.insert(index);
        }
    }
    foldable
}

/// Whether `node` is one of ONNX's own operators and gives the same tensor of numbers for the same inputs.
fn is_repeatable(node: &Node) -> bool {
    const LEFT_ALONE: [&str; 5] = ["DequantizeLinear", "Identity", "If", "Loop", "Scan"];
    let op = node.op();
    let is_string = op == "Cast" && node.int("to", 0) == i64::from(DataType::String as i32);
    let is_container = op.contains("Sequence") || op.starts_with("Optional");
    node.is_onnx() && !is_string && !is_container && !RANDOM.contains(&op) && !LEFT_ALONE.contains(&op)
}

fn is_dense(tensor: &TensorProto) -> bool {
    tensor.data_type() != DataType::String as i32
}

/// Tensors that foldable nodes give to the others or as outputs of the network.
fn results(network: &Network, foldable: &BTreeSet<usize>) -> Vec<String> {
    let mut wanted: HashSet<&str> = network.outputs.iter().map(String::as_str).collect();
    let others = network.nodes.iter().enumerate().filter(|(i, _)| !foldable.contains(i));
    wanted.extend(others.flat_map(|(_, node)| node.reads()));
    let made = foldable.iter().flat_map(|&i| network.nodes[i].writes());
    made.filter(|name| wanted.contains(name)).map(str::to_owned).collect()
}

/// A model of the nodes that lead to `results`, with the constants they read.
fn model(network: &Network, foldable: &BTreeSet<usize>, results: &[String]) -> ModelProto {
    let nodes: Vec<&Node> = foldable.iter().map(|&i| &network.nodes[i]).collect();
    let reads: BTreeSet<&str> = nodes.iter().flat_map(|n| n.reads()).collect();
    network.with_graph(GraphProto {
        name: Some(format!("{}_constants", network.graph_name)),
        node: nodes.iter().map(|n| n.proto.clone()).collect(),
        initializer: reads.iter().filter_map(|name| network.initializers.get(*name)).cloned().collect(),
        output: results.iter().map(|n| ValueInfoProto { name: Some(n.clone()), ..Default::default() }).collect(),
        ..Default::default()
    })
}

/// For each of `results`, the bytes of all constants that it comes from.
fn source_bytes(network: &Network, results: &[String]) -> Vec<u64> {
    let producers = network.producers();
    let bytes = |result: &String| {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut next = vec![result.as_str()];
        let mut sum = 0;
        while let Some(name) = next.pop() {
            if !seen.insert(name) {
                continue;
            }
            match (network.initializers.get(name), producers.get(name)) {
                (Some(tensor), _) => sum += tensor.raw_data().len() as u64,
                (None, Some(&node)) => next.extend(network.nodes[node].reads()),
                (None, None) => {}
            }
        }
        sum
    };
    results.iter().map(bytes).collect()
}

/// Removes nodes all of whose results became constants, and frees the names of single ones.
fn drop_replaced(network: &mut Network) {
    let constants = &network.initializers;
    network.nodes.retain(|node| !node.writes().all(|name| constants.contains_key(name)));
    for node in &mut network.nodes {
        for name in node.proto.output.iter_mut().filter(|n| network.initializers.contains_key(*n)) {
            // Another result of the node was not folded: the node goes on producing this one, under a name of its own.
            name.push_str("/unfolded");
        }
    }
}
