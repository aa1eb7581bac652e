//! Tensors whose shape depends on what is *in* the inputs, not only on the inputs' shapes. Two runs need not show it.

use defer_partition::Network;
use defer_partition::graph::Node;
use std::collections::HashSet;
use std::ops::Range;

/// Names of all tensors of `network` whose shape may depend on values. Too many rather than too few: what is computed
/// from such a tensor counts as well.
pub(super) fn shapes(network: &Network) -> HashSet<&str> {
    let mut values: HashSet<&str> = network.inputs().iter().map(|input| input.name.as_str()).collect();
    let mut shapes: HashSet<&str> = HashSet::new();
    for node in network.nodes() {
        let open = node.reads().any(|name| shapes.contains(name));
        let decided = match node.op() {
            "NonZero" | "Unique" | "Compress" | "NonMaxSuppression" | "If" | "Loop" | "Scan" | "StringSplit" => {
                node.reads().any(|name| values.contains(name))
            }
            _ => inputs(node, shaping(node.op())).any(|name| values.contains(name)),
        };
        let computed = match node.op() {
            // All of the values in these come from shapes.
            "Shape" | "Size" | "ConstantOfShape" => open,
            _ => node.reads().any(|name| values.contains(name)),
        };
        for name in node.writes() {
            if computed || open || decided {
                values.insert(name);
            }
            if open || decided {
                shapes.insert(name);
            }
        }
    }
    shapes
}

/// Inputs whose values say what shape the result has.
fn shaping(op: &str) -> Range<usize> {
    match op {
        "Reshape" | "Expand" | "Tile" | "TopK" | "OneHot" | "Split" | "SplitToSequence" | "Squeeze" | "Unsqueeze"
        | "CenterCropPad" | "AffineGrid" | "Upsample" | "ReduceL1" | "ReduceL2" | "ReduceLogSum"
        | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum"
        | "ReduceSumSquare" => 1..2,
        "ConstantOfShape" | "HannWindow" | "HammingWindow" | "BlackmanWindow" => 0..1,
        "Range" => 0..3,
        "Slice" => 1..5,
        "Resize" | "Pad" | "MaxUnpool" | "DFT" | "STFT" => 1..4,
        "MelWeightMatrix" => 0..5,
        _ => 0..0,
    }
}

fn inputs(node: &Node, which: Range<usize>) -> impl Iterator<Item = &str> {
    let count = which.len();
    node.proto.input.iter().skip(which.start).take(count).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto};
    use defer_partition::testing::op;
    use defer_partition::{DType, Dim, InputInfo};

    #[test]
    fn values_that_become_shapes_are_told_from_shapes_that_do() {
        let input = InputInfo { name: "x".into(), dtype: DType::Fp32, dims: vec![Dim::Symbol("n".into())] };
        let outputs = ["flat", "where", "wide", "tail", "filled"];
        let output = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
        let graph = GraphProto {
            name: Some("g".into()),
            node: vec![
                op("Shape", &["x"], &["s"]),
                op("Reshape", &["x", "s"], &["flat"]),
                op("NonZero", &["x"], &["where"]),
                op("Shape", &["where"], &["count"]),
                op("ConstantOfShape", &["count"], &["wide"]),
                op("Slice", &["x", "where", "where"], &["tail"]),
                op("ConstantOfShape", &["s"], &["filled"]),
            ],
            input: vec![input.value_info()],
            output: outputs.iter().map(|name| output(name)).collect(),
            ..Default::default()
        };
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
            graph: Some(graph),
            ..Default::default()
        };
        let network = Network::new(model).unwrap();
        assert_eq!(shapes(&network), HashSet::from(["where", "count", "wide", "tail"]));
    }
}
