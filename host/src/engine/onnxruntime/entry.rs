//! Residual sums over a slice's inputs, made such that onnxruntime fuses them.
//!
//! On x86-64 onnxruntime computes convolutions in a blocked layout, and adds a residual within the convolution if both
//! operands are in that layout. A slice's input is not: the convolution's result is then brought back, added and
//! activated apart, and so is every later sum of the slice that the input reaches through identity paths. A pooling of one
//! by one pixel is an operation of the blocked layout that changes no value; behind it the input is in that layout for
//! all readers, at the cost of one conversion, which the convolutions need anyway. ResNet-50 in 8 slices: about 1 % less in
//! all, and the slices' results become equal to the whole's to the last bit.

use defer_partition::DType;
use defer_partition::onnx::proto::attribute_proto::AttributeType;
use defer_partition::onnx::proto::tensor_shape_proto::dimension::Value as Dim;
use defer_partition::onnx::proto::type_proto::Value as Type;
use defer_partition::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use prost::Message as _;
use std::collections::HashSet;

/// Slices are small, their weights lie beside them; a larger model is a whole network with its weights inside.
const LARGEST: usize = 8 << 20;
/// Channels in a block of the layout; only multiples of it are blocked. 8 with AVX2.
const BLOCK: i64 = 16;

/// The model with such inputs pooled; `None` if there are none.
pub(super) fn ease(model: &[u8]) -> Option<Vec<u8>> {
    if !cfg!(target_arch = "x86_64") || model.len() > LARGEST {
        return None;
    }
    // What does not decode is for onnxruntime to refuse.
    let mut model = ModelProto::decode(model).ok()?;
    let graph = model.graph.as_mut()?;
    let residuals: Vec<String> = residuals(graph).into_iter().map(ToOwned::to_owned).collect();
    for name in &residuals {
        pool(graph, name);
    }
    (!residuals.is_empty()).then(|| model.encode_to_vec())
}

/// Inputs that are added to what a convolution makes.
fn residuals(graph: &GraphProto) -> Vec<&str> {
    let is_onnx = |node: &&NodeProto| matches!(node.domain(), "" | "ai.onnx");
    let nodes = || graph.node.iter().filter(is_onnx);
    let convolved: HashSet<&str> =
        nodes().filter(|node| node.op_type() == "Conv").flat_map(|node| &node.output).map(String::as_str).collect();
    let added = |input: &&ValueInfoProto| {
        nodes().filter(|node| node.op_type() == "Add").any(|node| {
            node.input.iter().any(|name| name == input.name())
                && node.input.iter().any(|name| convolved.contains(name.as_str()))
        })
    };
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let inputs = graph.input.iter().filter(|input| is_blocked(input) && !constants.contains(input.name()));
    inputs.filter(added).map(|input| input.name()).collect()
}

/// Whether the layout has such tensors: FP32, four dimensions, whole blocks of channels.
fn is_blocked(input: &ValueInfoProto) -> bool {
    let Some(Type::TensorType(tensor)) = input.r#type.as_ref().and_then(|kind| kind.value.as_ref()) else {
        return false;
    };
    let dims = tensor.shape.as_ref().map(|shape| shape.dim.as_slice()).unwrap_or_default();
    let channels = dims.get(1).and_then(|dim| match dim.value {
        Some(Dim::DimValue(channels)) => Some(channels),
        _ => None,
    });
    let whole = channels.is_some_and(|channels| channels > 0 && channels % BLOCK == 0);
    tensor.elem_type() == DType::Fp32.onnx() && dims.len() == 4 && whole
}

/// Puts a pooling behind the input `name`, for all that read it.
fn pool(graph: &mut GraphProto, name: &str) {
    let inputs = graph.input.iter().map(|input| input.name());
    let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    let taken: HashSet<&str> = inputs.chain(made).chain(graph.initializer.iter().map(|t| t.name())).collect();
    let mut pooled = format!("{name}_blocked");
    while taken.contains(pooled.as_str()) {
        pooled.push('_');
    }
    // Subgraphs go on reading the input itself.
    for read in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|read| *read == name) {
        read.clone_from(&pooled);
    }
    // Of one value, the mean is the value, whatever it is; the maximum is not, for what is no number.
    let kernel = AttributeProto {
        name: Some("kernel_shape".to_owned()),
        r#type: Some(AttributeType::Ints as i32),
        ints: vec![1, 1],
        ..Default::default()
    };
    let node = NodeProto {
        input: vec![name.to_owned()],
        output: vec![pooled.clone()],
        name: Some(pooled),
        op_type: Some("AveragePool".to_owned()),
        attribute: vec![kernel],
        ..Default::default()
    };
    graph.node.insert(0, node);
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use defer_partition::testing::op;
    use defer_partition::{Dim, InputInfo};

    fn model(inputs: &[(&str, DType, &[i64])], nodes: Vec<NodeProto>) -> ModelProto {
        let input = |(name, dtype, shape): &(&str, DType, &[i64])| {
            let dim = |dim: &i64| usize::try_from(*dim).map_or(Dim::Unknown, Dim::Fixed);
            InputInfo { name: (*name).to_owned(), dtype: *dtype, dims: shape.iter().map(dim).collect() }.value_info()
        };
        let graph = GraphProto { node: nodes, input: inputs.iter().map(input).collect(), ..Default::default() };
        ModelProto { graph: Some(graph), ..Default::default() }
    }

    #[test]
    fn only_residuals_of_whole_blocks_are_pooled() {
        let block =
            || vec![op("Conv", &["x", "w"], &["c"]), op("Relu", &["c"], &["r"]), op("Conv", &["r", "v"], &["d"])];
        let with = |last: NodeProto| [block(), vec![last]].concat();
        let add = || with(op("Add", &["d", "x"], &["y"]));
        type Case<'a> = (&'a str, DType, &'a [i64], Vec<NodeProto>, bool);
        let cases: [Case<'_>; 7] = [
            ("a residual sum", DType::Fp32, &[-1, 64, 56, 56], add(), true),
            ("open height and width", DType::Fp32, &[-1, 64, -1, -1], add(), true),
            ("half a block", DType::Fp32, &[-1, 24, 56, 56], add(), false),
            ("open channels", DType::Fp32, &[1, -1, 56, 56], add(), false),
            ("another type", DType::Fp16, &[1, 64, 56, 56], add(), false),
            ("no sum", DType::Fp32, &[1, 64, 56, 56], block(), false),
            (
                "a sum with what no convolution made",
                DType::Fp32,
                &[1, 64, 56, 56],
                with(op("Add", &["r", "x"], &["y"])),
                false,
            ),
        ];
        for (what, dtype, shape, nodes, want) in cases {
            let eased = ease(&model(&[("x", dtype, shape)], nodes).encode_to_vec());
            assert_eq!(eased.is_some(), want, "{what}");
        }
    }

    #[test]
    fn all_that_reads_the_input_reads_the_pooled_one() {
        let nodes = vec![
            op("Conv", &["x", "w"], &["c"]),
            op("Add", &["c", "x"], &["x_blocked"]),
            op("Relu", &["x_blocked"], &["y"]),
        ];
        let eased = ease(&model(&[("x", DType::Fp32, &[1, 32, 7, 7])], nodes).encode_to_vec()).unwrap();
        let graph = ModelProto::decode(eased.as_slice()).unwrap().graph.unwrap();
        let nodes: Vec<_> = graph.node.iter().map(|n| (n.op_type(), n.input.join(" "), n.output.join(" "))).collect();
        let want = [
            ("AveragePool", "x", "x_blocked_"),
            ("Conv", "x_blocked_ w", "c"),
            ("Add", "c x_blocked_", "x_blocked"),
            ("Relu", "x_blocked", "y"),
        ];
        assert_eq!(nodes, want.map(|(op, reads, makes)| (op, reads.to_owned(), makes.to_owned())));
    }
}
