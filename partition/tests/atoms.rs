//! Fusion groups: what stays together, and that the groups can be computed in order.

#![allow(clippy::unwrap_used)]

mod support;

use defer_partition::{Atoms, Network, testing};
use std::collections::HashSet;
use support::*;

/// Operators of each group.
fn groups(inputs: &[&str], outputs: &[&str], nodes: Vec<defer_partition::onnx::proto::NodeProto>) -> Vec<String> {
    let constants = vec![floats("w", &[1], &[1.0]), floats("k", &[1], &[1.0]), ints("i", &[0])];
    let net = Network::new(model(inputs, outputs, nodes, constants)).unwrap();
    let join = |atom: &defer_partition::Atom| {
        atom.nodes.iter().map(|&n| net.nodes()[n].proto.op_type()).collect::<Vec<_>>().join(" ")
    };
    Atoms::new(&net).atoms.iter().map(join).collect()
}

#[test]
fn bias_norm_and_activation_stay_with_their_convolution() {
    let nodes = vec![
        op("Conv", &["x", "w"], &["c"]),
        op("Add", &["c", "k"], &["b"]),
        op("BatchNormalization", &["b", "k", "k", "k", "k"], &["n"]),
        op("Clip", &["n", "", "k"], &["r"]),
        op("MaxPool", &["r"], &["p"]),
        op("Conv", &["p", "w"], &["y"]),
    ];
    assert_eq!(groups(&["x"], &["y"], nodes), ["Conv Add BatchNormalization Clip", "MaxPool", "Conv"]);
}

#[test]
fn a_residual_sum_joins_the_last_convolution_before_it() {
    let nodes = vec![
        op("Relu", &["x"], &["r"]),
        op("Conv", &["r", "w"], &["a"]),
        op("Conv", &["r", "w"], &["side"]),
        op("Add", &["a", "side"], &["s"]),
        op("Relu", &["s"], &["t"]),
        op("Conv", &["t", "w"], &["b"]),
        op("Add", &["b", "t"], &["u"]),
        op("Relu", &["u"], &["y"]),
    ];
    assert_eq!(groups(&["x"], &["y"], nodes), ["Relu", "Conv", "Conv Add Relu", "Conv Add Relu"]);
}

#[test]
fn activations_and_norms_written_out_stay_whole() {
    let silu = vec![op("Conv", &["x", "w"], &["c"]), op("Sigmoid", &["c"], &["g"]), op("Mul", &["c", "g"], &["y"])];
    assert_eq!(groups(&["x"], &["y"], silu), ["Conv Sigmoid Mul"]);
    let gelu = vec![
        op("MatMul", &["x", "w"], &["m"]),
        op("Add", &["m", "k"], &["b"]),
        op("Div", &["b", "k"], &["d"]),
        op("Erf", &["d"], &["e"]),
        op("Add", &["e", "k"], &["f"]),
        op("Mul", &["b", "f"], &["h"]),
        op("Mul", &["h", "k"], &["y"]),
    ];
    assert_eq!(groups(&["x"], &["y"], gelu), ["MatMul Add Div Erf Add Mul Mul"]);
    // A layer norm whose input is needed again after it, as before an attention block.
    let norm = vec![
        op("MatMul", &["x", "w"], &["m"]),
        op("ReduceMean", &["m"], &["mean"]),
        op("Sub", &["m", "mean"], &["d"]),
        op("Pow", &["d", "k"], &["q"]),
        op("ReduceMean", &["q"], &["v"]),
        op("Add", &["v", "k"], &["ve"]),
        op("Sqrt", &["ve"], &["sd"]),
        op("Div", &["d", "sd"], &["n"]),
        op("Mul", &["n", "k"], &["s"]),
        op("Add", &["s", "k"], &["l"]),
        op("MatMul", &["l", "w"], &["o"]),
        op("Add", &["o", "m"], &["y"]),
    ];
    let want = ["MatMul", "ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add", "MatMul Add"];
    assert_eq!(groups(&["x"], &["y"], norm), want);
}

#[test]
fn shapes_quantisation_and_padding_go_with_what_needs_them() {
    let reshape = vec![
        op("Conv", &["x", "w"], &["c"]),
        op("Shape", &["c"], &["s"]),
        op("Gather", &["s", "i"], &["g"]),
        op("Unsqueeze", &["g", "i"], &["u"]),
        op("Concat", &["u", "i"], &["t"]),
        op("Reshape", &["c", "t"], &["y"]),
    ];
    assert_eq!(groups(&["x"], &["y"], reshape), ["Conv Shape Gather Unsqueeze Concat Reshape"]);
    let quantised = vec![
        op("DequantizeLinear", &["x", "k"], &["d"]),
        op("DequantizeLinear", &["w", "k"], &["dw"]),
        op("Conv", &["d", "dw"], &["c"]),
        op("QuantizeLinear", &["c", "k"], &["q"]),
        op("DequantizeLinear", &["q", "k"], &["d2"]),
        op("Pad", &["d2", "i"], &["p"]),
        op("MaxPool", &["p"], &["y"]),
    ];
    let want = ["DequantizeLinear DequantizeLinear Conv QuantizeLinear", "DequantizeLinear Pad MaxPool"];
    assert_eq!(groups(&["x"], &["y"], quantised), want);
}

#[test]
fn values_that_cannot_travel_stay_in_one_group_with_all_between() {
    let nodes = vec![
        op("Relu", &["x"], &["r"]),
        op("SplitToSequence", &["r"], &["seq"]),
        op("SequenceAt", &["seq", "i"], &["a"]),
        op("MaxPool", &["a"], &["m"]),
        op("SequenceInsert", &["seq", "m"], &["seq2"]),
        op("ConcatFromSequence", &["seq2"], &["y"]),
    ];
    let all = "SplitToSequence SequenceAt MaxPool SequenceInsert ConcatFromSequence";
    assert_eq!(groups(&["x"], &["y"], nodes), ["Relu", all]);
}

#[test]
fn groups_of_random_networks_hold_every_node_once_and_can_run_in_order() {
    for seed in 0..300 {
        let net = Network::new(testing::random_model(seed)).unwrap();
        let atoms = Atoms::new(&net);
        assert_eq!(atoms, Atoms::new(&net), "deterministic");
        let mut known: HashSet<&str> = net.inputs().iter().map(|i| i.name.as_str()).collect();
        known.extend(net.initializers().keys().map(String::as_str));
        let mut count = 0;
        for (index, atom) in atoms.atoms.iter().enumerate() {
            assert!(atom.nodes.is_sorted() && !atom.nodes.is_empty());
            for &node in &atom.nodes {
                assert_eq!(atoms.of_node(node), index);
                let node = &net.nodes()[node];
                assert!(node.reads().all(|name| known.contains(name)), "seed {seed}: {}", node.label());
                known.extend(node.writes());
                count += 1;
            }
        }
        assert_eq!(count, net.nodes().len());
    }
}
