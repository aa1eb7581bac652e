//! Every element type that ONNX and the protocol share, through a chain, in every form of request.

use crate::support::chain::Chain;
use crate::support::http::{Request, binary_body};
use crate::support::networks::{model, stage};
use defer_host::engine::Named;
use defer_partition::onnx::proto::{AttributeProto, ModelProto, NodeProto, attribute_proto::AttributeType};
use defer_partition::testing::{Random, op};
use defer_partition::{DType, Dim, InputInfo, Tensor};
use reqwest::Method;
use serde_json::{Value, json};

/// For each element type, `x-T` [3], repeated as `twice-T`, and again as `y-T` [12]. A cut at the last `twice-T` has all
/// types cross.
pub fn every_type() -> ModelProto {
    let value = |name: String, dtype, size| InputInfo { name, dtype, dims: vec![Dim::Fixed(size)] }.value_info();
    let level = |from: &'static str, to: &'static str| DType::ALL.map(|dtype| repeated(from, to, dtype));
    model(
        level("x", "twice").into_iter().chain(level("twice", "y")).collect(),
        DType::ALL.map(|dtype| value(format!("x-{dtype}"), dtype, 3)).to_vec(),
        DType::ALL.map(|dtype| value(format!("y-{dtype}"), dtype, 12)).to_vec(),
        Vec::new(),
    )
}

fn repeated(from: &str, to: &str, dtype: DType) -> NodeProto {
    let (from, to) = (format!("{from}-{dtype}"), format!("{to}-{dtype}"));
    let mut node = op("Concat", &[&from, &from], &[&to]);
    let r#type = Some(AttributeType::Int as i32);
    node.attribute.push(AttributeProto { name: Some("axis".into()), r#type, i: Some(0), ..Default::default() });
    node
}

/// Inputs of any bits, among them floats that are no numbers, and what comes of them.
pub fn inputs(seed: u64) -> (Vec<Named>, Vec<Named>) {
    let mut random = Random::new(seed);
    let tensor = |dtype: DType| {
        let mut data: Vec<u8> = (0..3 * dtype.size()).map(|_| random.bits() as u8).collect();
        match dtype {
            DType::Bool => data.iter_mut().for_each(|byte| *byte &= 1),
            _ => data[..dtype.size()].fill(0xff),
        }
        let four = Tensor::new(dtype, vec![12], data.repeat(4)).unwrap();
        ((format!("x-{dtype}"), Tensor::new(dtype, vec![3], data).unwrap()), (format!("y-{dtype}"), four))
    };
    DType::ALL.into_iter().map(tensor).unzip()
}

fn sorted(mut tensors: Vec<Named>) -> Vec<Named> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

#[test]
fn every_element_type_comes_through_a_chain_to_the_bit() {
    let staged = stage("types", &every_type(), 0, &["twice-BF16"]);
    let crossing = &staged.pipeline.stages[0].outputs;
    assert_eq!(crossing.len(), DType::ALL.len(), "{crossing:?}");
    let chain = Chain::start("types", &staged);
    let url = format!("{}/v2/models/types/versions/1/infer", chain.url());
    for seed in 0..4 {
        let (given, want) = inputs(seed);
        assert_eq!(sorted(chain.infer(&given).unwrap()), sorted(want));
    }

    // In JSON, flat and nested, some outputs in an order of the client's, with its answer compressed.
    let data = |dtype: DType| if dtype == DType::Bool { json!([true, false, true]) } else { json!([1, 0, 2]) };
    let input =
        |dtype: DType| json!({"name": format!("x-{dtype}"), "datatype": dtype, "shape": [3], "data": data(dtype)});
    let wanted: Vec<DType> = DType::ALL.into_iter().rev().collect();
    let outputs: Vec<Value> = wanted.iter().map(|dtype| json!({"name": format!("y-{dtype}")})).collect();
    let body =
        json!({"id": "a", "parameters": {"timeout": 60_000_000}, "inputs": DType::ALL.map(input), "outputs": outputs});
    let answer = Request::new(Method::POST, url.clone()).json(&body).send().json();
    assert_eq!((&answer["id"], &answer["model_version"]), (&json!("a"), &json!("1")), "{answer}");
    for (dtype, output) in wanted.iter().zip(answer["outputs"].as_array().unwrap()) {
        assert_eq!((&output["name"], &output["datatype"]), (&json!(format!("y-{dtype}")), &json!(dtype)));
        let value = |value: &Value| value.as_f64().unwrap_or_else(|| f64::from(value.as_bool().unwrap()));
        let got: Vec<f64> = output["data"].as_array().unwrap().iter().map(value).collect();
        let once = if *dtype == DType::Bool { [1.0, 0.0, 1.0] } else { [1.0, 0.0, 2.0] };
        assert_eq!(got, once.repeat(4), "{dtype}");
    }

    // A limit that cannot be met, in µs.
    let (header, body) = binary_body(&inputs(1).0, &json!({"timeout": 1}));
    let late = Request::new(Method::POST, url).header("inference-header-content-length", header.to_string()).body(body);
    let late = late.send();
    assert_eq!(late.status.as_u16(), 504, "{}", late.error());
}
