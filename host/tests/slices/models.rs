//! Small networks by hand.

use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use defer_partition::onnx::tensor_of;
use defer_partition::testing::{Random, op};
use defer_partition::{DType, Dim, InputInfo, Tensor};

/// FP32 inputs and outputs, operator set 13, and one node of another domain allowed.
pub fn model(inputs: &[InputInfo], outputs: &[&str], nodes: Vec<NodeProto>) -> ModelProto {
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let output = |name: &&str| ValueInfoProto { name: Some((*name).into()), ..Default::default() };
    let graph = GraphProto {
        name: Some("net".into()),
        node: nodes,
        input: inputs.iter().map(InputInfo::value_info).collect(),
        output: outputs.iter().map(output).collect(),
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", 13), import("org.example", 3)],
        graph: Some(graph),
        ..Default::default()
    }
}

pub fn input(name: &str, dims: Vec<Dim>) -> InputInfo {
    InputInfo { name: name.into(), dtype: DType::Fp32, dims }
}

pub fn symbol(name: &str) -> Dim {
    Dim::Symbol(name.into())
}

pub fn with_int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    let r#type = Some(AttributeType::Int as i32);
    node.attribute.push(AttributeProto { name: Some(name.into()), r#type, i: Some(value), ..Default::default() });
    node
}

/// Two convolutions with all that can be fused into them, of any number of rows.
pub fn conv_model() -> ModelProto {
    let weights = |name: &str| {
        let mut random = Random::new(7);
        let values: Vec<f32> = (0..2 * 2 * 3 * 3).map(|_| random.unit()).collect();
        tensor_of(name, Tensor::from_f32(vec![2, 2, 3, 3], &values).unwrap())
    };
    let nodes = vec![
        op("Conv", &["x", "w1"], &["a"]),
        op("Relu", &["a"], &["b"]),
        op("Conv", &["b", "w2"], &["c"]),
        op("Add", &["c", "b2"], &["d"]),
        op("Relu", &["d"], &["y"]),
    ];
    let mut net = model(&[input("x", vec![Dim::Fixed(1), Dim::Fixed(2), symbol("h"), Dim::Fixed(9)])], &["y"], nodes);
    let bias = tensor_of("b2", Tensor::from_f32(vec![1, 2, 1, 1], &[0.5, -0.25]).unwrap());
    net.graph.as_mut().unwrap().initializer = vec![weights("w1"), weights("w2"), bias];
    net
}
