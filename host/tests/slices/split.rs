//! Layers in parts compute what they compute whole, on both engines.

use super::engines::both;
use super::support::*;
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, attribute_proto::AttributeType,
};
use defer_partition::onnx::tensor_of;
use defer_partition::split::split;
use defer_partition::testing::{Random, op};
use defer_partition::{DType, Dim, InputInfo, Network, Tensor};

/// Kernels may add up in another order where there are fewer columns.
const OF_A_SPLIT: f64 = 1e-6;

fn weights(random: &mut Random, name: &str, shape: &[usize]) -> TensorProto {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.unit()).collect();
    tensor_of(name, Tensor::from_f32(shape.to_vec(), &values).unwrap())
}

fn with(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    let (name, r#type) = (Some(name.to_owned()), Some(AttributeType::Int as i32));
    node.attribute.push(AttributeProto { name, r#type, i: Some(value), ..Default::default() });
    node
}

/// `x` of `shape` through `layer`, whose weights are `w` and `b`, and what engines fuse with it.
fn model(layer: NodeProto, shape: &[usize], constants: Vec<TensorProto>) -> ModelProto {
    let info = |name: &str, dims: Vec<Dim>| InputInfo { name: name.into(), dtype: DType::Fp32, dims }.value_info();
    let graph = GraphProto {
        name: Some("layer".into()),
        node: vec![layer, op("Relu", &["product"], &["y"])],
        input: vec![info("x", shape.iter().copied().map(Dim::Fixed).collect())],
        output: vec![info("y", vec![Dim::Unknown; shape.len()])],
        initializer: constants,
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(13) }];
    ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() }
}

#[test]
fn layers_in_parts_compute_what_they_compute_whole() {
    let mut random = Random::new(7);
    let biased = ["x", "w", "b"];
    let mut columns =
        |shape: &[usize], bias: &[usize]| vec![weights(&mut random, "w", shape), weights(&mut random, "b", bias)];
    let gemm = || op("Gemm", &biased, &["product"]);
    let cases = [
        ("a row", op("MatMul", &["x", "w"], &["product"]), vec![1, 96], columns(&[96, 80], &[1])),
        ("rows", op("MatMul", &["x", "w"], &["product"]), vec![2, 5, 96], columns(&[96, 77], &[1])),
        ("Gemm", gemm(), vec![3, 96], columns(&[96, 80], &[80])),
        ("Gemm, one bias", gemm(), vec![3, 96], columns(&[96, 80], &[1])),
        ("Gemm, transposed", with(gemm(), "transB", 1), vec![1, 96], columns(&[77, 96], &[1, 77])),
        ("Conv", op("Conv", &biased, &["product"]), vec![1, 8, 9, 9], columns(&[48, 8, 3, 3], &[48])),
    ];
    for (what, layer, shape, constants) in cases {
        let file = model(layer, &shape, constants);
        let whole = Network::new(file).unwrap();
        let inputs = random_inputs(&mut random_of(&shape), whole.inputs());
        for room in [whole.weights_bytes() / 2, whole.weights_bytes() / 3, 1] {
            let mut parted = whole.clone();
            let splits = split(&mut parted, &|_| Some(room));
            assert!(splits.len() == 1 && splits[0].parts > 1, "{what}: {splits:?}");
            for engine in both() {
                let compute =
                    |network: &Network| run(load(engine.as_ref(), &network.model_with_outputs(&[])).as_mut(), &inputs);
                let off = difference(&compute(&parted), &compute(&whole));
                assert!(off <= OF_A_SPLIT, "{what} in {} parts on {}: off by {off}", splits[0].parts, engine.name());
            }
        }
    }
}

fn random_of(shape: &[usize]) -> Random {
    Random::new(shape.iter().sum::<usize>() as u64)
}
