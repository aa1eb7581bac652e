//! Networks whose requests say how long they take.

use crate::support::hostile::Parts;
use crate::support::networks::{model, value};
use defer_host::artifact::{FORMAT, Manifest};
use defer_host::build::GUEST;
use defer_host::engine::Named;
use defer_partition::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, attribute_proto::AttributeType};
use defer_partition::onnx::tensor_of;
use defer_partition::slice::Slice;
use defer_partition::testing::op;
use defer_partition::{DType, Tensor, TensorInfo};

/// Rows with which [`products`] keeps any processor busy for seconds inside one operator.
pub const MANY: usize = 4096;

fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

/// `x` FP32 [2], doubled `rounds` times (INT64) to `y`: an operator for each round.
pub fn rounds() -> ModelProto {
    let body = GraphProto {
        name: Some("body".into()),
        node: vec![op("Identity", &["go"], &["on"]), op("Add", &["from", "from"], &["to"])],
        input: vec![value("round", DType::Int64, &[]), value("go", DType::Bool, &[]), value("from", DType::Fp32, &[2])],
        output: vec![value("on", DType::Bool, &[]), value("to", DType::Fp32, &[2])],
        ..Default::default()
    };
    let attribute = AttributeProto {
        name: Some("body".into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(body),
        ..Default::default()
    };
    let node = with(op("Loop", &["rounds", "", "x"], &["y"]), attribute);
    let inputs = vec![value("x", DType::Fp32, &[2]), value("rounds", DType::Int64, &[])];
    model(vec![node], inputs, vec![value("y", DType::Fp32, &[2])], Vec::new())
}

pub fn rounds_inputs(rounds: i64) -> Vec<Named> {
    let rounds = Tensor::new(DType::Int64, vec![], rounds.to_le_bytes().to_vec()).unwrap();
    vec![("x".to_owned(), Tensor::from_f32(vec![2], &[1.0, -0.5]).unwrap()), ("rounds".to_owned(), rounds)]
}

/// `x` FP32 [n,1] to `y`, the mean of (x · xᵀ)²: 2n³ operations in one operator.
pub fn products() -> ModelProto {
    let keep = AttributeProto {
        name: Some("keepdims".into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(0),
        ..Default::default()
    };
    let nodes = vec![
        op("Transpose", &["x"], &["row"]),
        op("MatMul", &["x", "row"], &["outer"]),
        op("MatMul", &["outer", "outer"], &["square"]),
        with(op("ReduceMean", &["square"], &["y"]), keep),
    ];
    model(nodes, vec![value("x", DType::Fp32, &[-1, 1])], vec![value("y", DType::Fp32, &[])], Vec::new())
}

pub fn products_inputs(rows: usize) -> Vec<Named> {
    vec![("x".to_owned(), Tensor::from_f32(vec![rows, 1], &vec![0.01; rows]).unwrap())]
}

/// A good stage 0 of 1 whose loading computes for seconds: `y` = `x` plus what depends on constants alone.
pub fn heavy(name: &str) -> Parts {
    let many = MANY as i64;
    let shape = [many, many].iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let nodes = vec![
        op("ConstantOfShape", &["shape"], &["zeros"]),
        op("MatMul", &["zeros", "zeros"], &["square"]),
        op("ReduceMax", &["square"], &["most"]),
        op("Add", &["x", "most"], &["y"]),
    ];
    let constant = tensor_of("shape", Tensor::new(DType::Int64, vec![2], shape).unwrap());
    let io = |name: &str| value(name, DType::Fp32, &[1, 2]);
    let info = |name: &str| TensorInfo { name: name.into(), dtype: DType::Fp32, shape: vec![1, 2] };
    let manifest = Manifest {
        format: FORMAT,
        pipeline: name.to_owned(),
        index: 0,
        count: 1,
        inputs: vec![info("x")],
        outputs: vec![info("y")],
        forwards: Vec::new(),
        model_digest: "0".repeat(64),
        warm_up: vec![vec![1, 2]],
        graph_bytes: 0,
        weights_bytes: 0,
        activation_peak_bytes: None,
    };
    let slice = Slice {
        model: model(nodes, vec![io("x")], vec![io("y")], vec![constant]),
        weights: Vec::new(),
        weights_len: 0,
    };
    Parts { guest: GUEST.to_vec(), manifest, slice }
}
