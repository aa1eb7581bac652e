//! A small builder of models, and models by hand.
#![allow(dead_code)] // each test file uses a part of it

use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension::Value, type_proto,
};
use defer_partition::onnx::tensor_of;
use defer_partition::{DType, Tensor};

pub use defer_partition::testing::op;

/// A graph of `nodes` with FP32 inputs and outputs of shape [1, 2].
pub fn model(inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        name: Some("g".into()),
        node: nodes,
        initializer,
        input: inputs.iter().map(|n| value(n, 1, &[1, 2])).collect(),
        output: outputs.iter().map(|n| value(n, 1, &[1, 2])).collect(),
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// A tensor's declaration; dimension -1 has neither size nor symbol.
pub fn value(name: &str, dtype: i32, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension { value: (d >= 0).then_some(Value::DimValue(d)), denotation: None };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype), shape: Some(shape) };
    typed(name, type_proto::Value::TensorType(tensor))
}

pub fn typed(name: &str, value: type_proto::Value) -> ValueInfoProto {
    let r#type = TypeProto { value: Some(value), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..Default::default() }
}

pub fn floats(name: &str, shape: &[usize], values: &[f32]) -> TensorProto {
    tensor_of(name, Tensor::from_f32(shape.to_vec(), values).unwrap())
}

pub fn ints(name: &str, values: &[i64]) -> TensorProto {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor_of(name, Tensor::new(DType::Int64, vec![values.len()], data).unwrap())
}

/// The values of an FP32 constant.
pub fn values(tensor: &TensorProto) -> Vec<f32> {
    tensor.raw_data().as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

pub fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(r#type as i32), ..Default::default() }
}

pub fn with_int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    node.attribute.push(AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) });
    node
}

/// A node with a subgraph.
pub fn with_graph(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    node.attribute.push(AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) });
    node
}

/// A subgraph without inputs.
pub fn subgraph(node: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    let output = outputs.iter().map(|n| value(n, 1, &[1, 2])).collect();
    GraphProto { name: Some("inner".into()), node, output, ..Default::default() }
}

/// Operator types of a network, in order.
pub fn ops(network: &defer_partition::Network) -> Vec<&str> {
    network.nodes().iter().map(|n| n.proto.op_type()).collect()
}
