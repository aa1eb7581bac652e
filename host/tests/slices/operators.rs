//! Operators that only one engine has: what moves a network from one to the other must know.

use super::engines::both;
use super::models::{input, model, with_int};
use super::support::*;
use defer_host::buffer::Pool;
use defer_host::engine::{Engine, Model, Named};
use defer_partition::onnx::proto::{AttributeProto, ModelProto, NodeProto, attribute_proto::AttributeType};
use defer_partition::onnx::tensor_of;
use defer_partition::testing::op;
use defer_partition::{Dim, Tensor};
use prost::Message as _;

fn with_ints(mut node: NodeProto, name: &str, values: &[i64]) -> NodeProto {
    let r#type = Some(AttributeType::Ints as i32);
    node.attribute.push(AttributeProto {
        name: Some(name.into()),
        r#type,
        ints: values.to_vec(),
        ..Default::default()
    });
    node
}

/// A network of `x` FP32 [1,2,4,4] and constants to `y`, and the name that it is listed by.
fn probes() -> Vec<(String, ModelProto)> {
    let unary = [
        "Abs",
        "Celu",
        "Det",
        "DynamicQuantizeLinear",
        "Elu",
        "Erf",
        "EyeLike",
        "Floor",
        "GlobalLpPool",
        "HardSigmoid",
        "Hardmax",
        "LogSoftmax",
        "MeanVarianceNormalization",
        "NonZero",
        "Not",
        "Round",
        "Selu",
        "Shrink",
        "Sign",
        "Softplus",
        "Softsign",
        "ThresholdedRelu",
        "Unique",
    ];
    let mut nodes: Vec<NodeProto> = unary.map(|name| op(name, &["x"], &["y"])).into();
    let pool = |name: &str| with_ints(op(name, &["x"], &["y"]), "kernel_shape", &[2, 2]);
    nodes.extend(["AveragePool", "LpPool", "MaxPool"].map(pool));
    nodes.extend(["DepthToSpace", "SpaceToDepth"].map(|name| with_int(op(name, &["x"], &["y"]), "blocksize", 1)));
    nodes.push(with_int(op("LRN", &["x"], &["y"]), "size", 3));
    let binary = ["GridSample", "MaxRoiPool", "Mod", "PRelu", "Pow", "BitShift", "Max"];
    nodes.extend(binary.map(|name| op(name, &["x", "x"], &["y"])));
    let net = |node: NodeProto| {
        let name = node.op_type().to_owned();
        let dims = [1, 2, 4, 4].map(Dim::Fixed).into();
        let mut net = model(&[input("x", dims)], &["y"], vec![node]);
        net.graph.as_mut().unwrap().initializer = vec![tensor_of("one", Tensor::from_f32(vec![1], &[1.0]).unwrap())];
        (name, net)
    };
    nodes.into_iter().map(net).collect()
}

fn result(engine: &dyn Engine, model: &ModelProto, inputs: &[Named]) -> Option<Vec<Named>> {
    let bytes = model.encode_to_vec();
    let mut session = engine.load(Model { bytes: &bytes, weights_folder: None }, ONE_THREAD).ok()?;
    session.run(inputs, &Pool::new(0)).ok()
}

#[test]
fn operators_of_one_engine_alone_are_known() {
    let [onnxruntime, tract] = both();
    let values: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).sin()).collect();
    let inputs = [("x".to_owned(), Tensor::from_f32(vec![1, 2, 4, 4], &values).unwrap())];
    let (mut only_onnxruntime, mut only_tract, mut different) = (Vec::new(), Vec::new(), Vec::new());
    for (name, net) in probes() {
        match (result(onnxruntime.as_ref(), &net, &inputs), result(tract.as_ref(), &net, &inputs)) {
            (Some(want), Some(got)) => {
                if difference(&got, &want) > TOLERANCE {
                    different.push(name);
                }
            }
            (Some(_), None) => only_onnxruntime.push(name),
            (None, Some(_)) => only_tract.push(name),
            (None, None) => {}
        }
    }
    println!("only onnxruntime: {only_onnxruntime:?}\nonly tract: {only_tract:?}\ndifferent: {different:?}");
    assert_eq!(only_onnxruntime, ["Det", "Unique", "LpPool"]);
    // Of floats without `fmod`, which ONNX does not allow.
    assert_eq!(only_tract, ["Mod"]);
    // tract's fault, as of 0.23.9.
    assert_eq!(different, ["GlobalLpPool"]);
}
