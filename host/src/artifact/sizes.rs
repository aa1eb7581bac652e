//! Sizes that a graph's attributes give. Engines compute with them before they doubt them: a negative padding or an absurd
//! number of heads has them write beyond their memory, or count for ever.

use defer_partition::onnx::proto::{GraphProto, ModelProto, NodeProto};

/// No kernel, stride or number of groups is larger.
const MOST: i64 = 1 << 20;

/// Attributes that are sizes, and the least that each may be.
const SIZES: [(&str, i64); 16] = [
    ("blocksize", 1),
    ("dilations", 1),
    ("group", 1),
    ("groups", 1),
    ("hidden_size", 1),
    ("kernel_shape", 1),
    ("num_groups", 1),
    ("num_heads", 1),
    ("output_height", 1),
    ("output_padding", 0),
    ("output_shape", 1),
    ("output_width", 1),
    ("pads", 0),
    ("pooled_shape", 1),
    ("sampling_ratio", 0),
    ("strides", 1),
];

/// Refuses sizes that no network has.
pub(super) fn check(model: &ModelProto) -> Result<(), String> {
    let functions = model.functions.iter().flat_map(|function| &function.node);
    functions.chain(model.graph.iter().flat_map(|graph| &graph.node)).try_for_each(check_node)
}

fn check_graph(graph: &GraphProto) -> Result<(), String> {
    graph.node.iter().try_for_each(check_node)
}

fn check_node(node: &NodeProto) -> Result<(), String> {
    for attribute in &node.attribute {
        attribute.g.iter().chain(&attribute.graphs).try_for_each(check_graph)?;
        let Some((name, least)) = SIZES.iter().find(|(name, _)| *name == attribute.name()) else { continue };
        // `Pad` crops with negative numbers.
        if *name == "pads" && node.op_type() == "Pad" {
            continue;
        }
        if let Some(value) = attribute.i.iter().chain(&attribute.ints).find(|value| !(*least..=MOST).contains(value)) {
            let (op_type, label) = (node.op_type(), node.name());
            return Err(format!("node \"{label}\" ({op_type}) has {name} {value}; it must be from {least} to {MOST}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::onnx::proto::AttributeProto;
    use defer_partition::testing::op;

    fn refusal(op_type: &str, name: &str, values: &[i64]) -> Option<String> {
        let mut node = op(op_type, &["x"], &["y"]);
        node.attribute = vec![AttributeProto { name: Some(name.into()), ints: values.to_vec(), ..Default::default() }];
        let inner = GraphProto { node: vec![node], ..Default::default() };
        let mut outer = op("If", &["c"], &["y"]);
        outer.attribute = vec![AttributeProto { g: Some(inner), ..Default::default() }];
        let graph = GraphProto { node: vec![outer], ..Default::default() };
        check(&ModelProto { graph: Some(graph), ..Default::default() }).err()
    }

    #[test]
    fn sizes_of_networks_pass_and_nonsense_is_named() {
        for (op_type, name, values) in [
            ("Conv", "strides", &[1, 2][..]),
            ("Conv", "pads", &[0, 0, 3, 3]),
            ("Pad", "pads", &[-1, 0]),
            ("Conv", "group", &[1024]),
            ("TopK", "axis", &[-1]),
            ("RoiAlign", "sampling_ratio", &[0]),
        ] {
            assert_eq!(refusal(op_type, name, values), None);
        }
        for (op_type, name, values, bad) in [
            ("Conv", "strides", &[1, 0][..], "0"),
            ("Conv", "group", &[0], "0"),
            ("MaxPool", "pads", &[-1, 0, 0, 0], "-1"),
            ("Attention", "num_heads", &[i64::MAX], "9223372036854775807"),
            ("MaxPool", "kernel_shape", &[i64::MIN, 1], "-9223372036854775808"),
        ] {
            let refusal = refusal(op_type, name, values).expect("it is refused");
            assert!(refusal.contains(&format!("({op_type}) has {name} {bad};")), "{refusal}");
        }
    }
}
