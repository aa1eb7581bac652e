//! Tensors in and out: JSON, binary, and both in one request.

use super::{post, start};
use defer_partition::DType;
use serde_json::{Value, json};

fn url_of(base: &str, dtype: DType) -> String {
    format!("{base}/v2/models/echo-{dtype}/infer")
}

fn ask(dtype: DType, shape: &[usize], data: &Value) -> String {
    json!({"inputs": [{"name": "x", "datatype": dtype, "shape": shape, "data": data}]}).to_string()
}

#[tokio::test]
async fn every_element_type_survives_json() {
    let url = start().await;
    let cases = [
        (DType::Bool, json!([true, false])),
        (DType::Uint8, json!([0, 255])),
        (DType::Int8, json!([-128, 127])),
        (DType::Uint16, json!([0, 65535])),
        (DType::Int16, json!([-32768, 32767])),
        (DType::Uint32, json!([0, u32::MAX])),
        (DType::Int32, json!([i32::MIN, i32::MAX])),
        (DType::Uint64, json!([u64::MAX, 9_007_199_254_740_993_u64])),
        (DType::Int64, json!([i64::MIN, -9_007_199_254_740_993_i64])),
        (DType::Fp16, json!([65504.0, -0.5])),
        (DType::Bf16, json!([1.5, -96.0])),
        (DType::Fp32, json!([0.1_f32, f32::MIN_POSITIVE])),
        (DType::Fp64, json!([0.1, 1.797_693_134_862_315_7e308])),
        // Needs serde_json's `float_roundtrip`: its quick parser is a bit off here.
        (DType::Fp64, json!([31.245_270_191_439_438, 121.480_331_713_310_47])),
    ];
    for (dtype, data) in cases {
        let (status, answer) = post(url_of(&url, dtype), ask(dtype, &[1, 2], &data)).await;
        assert_eq!(status, 200, "{dtype}: {answer}");
        let output = &answer["outputs"][0];
        assert_eq!(
            (&output["name"], &output["datatype"], &output["shape"]),
            (&json!("y"), &json!(dtype.name()), &json!([1, 2]))
        );
        match dtype {
            DType::Bool => assert_eq!(output["data"], data),
            // A number with the digits of an f32 is another f64.
            DType::Fp32 => assert_eq!(singles(&output["data"]), singles(&data)),
            _ => assert_eq!(numbers(&output["data"]), numbers(&data), "{dtype}"),
        }
        assert_eq!(answer["model_version"], "2");
        assert_eq!(answer.get("id"), None);
    }
}

fn singles(data: &Value) -> Vec<f32> {
    data.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// Numbers as they would be in Rust: an integer exactly, so that 1 and 1.0 are equal but 2^53 + 1 is not 2^53.
fn numbers(data: &Value) -> Vec<(f64, Option<i128>)> {
    let integer = |v: &Value| v.as_u64().map(i128::from).or(v.as_i64().map(i128::from));
    data.as_array().unwrap().iter().map(|v| (v.as_f64().unwrap(), integer(v))).collect()
}

#[tokio::test]
async fn nested_and_flat_data_are_the_same_and_anything_else_is_refused() {
    let url = start().await;
    let good = [
        ([2, 3], json!([1, 2, 3, 4, 5, 6])),
        ([2, 3], json!([[1, 2, 3], [4, 5, 6]])),
        ([0, 3], json!([])),
        ([2, 0], json!([])),
        ([2, 0], json!([[], []])),
    ];
    for (shape, data) in good {
        let (status, answer) = post(url_of(&url, DType::Int32), ask(DType::Int32, &shape, &data)).await;
        assert_eq!(status, 200, "{data}: {answer}");
        let count = shape[0] * shape[1];
        assert_eq!(answer["outputs"][0]["data"], json!((1..=count).collect::<Vec<_>>()), "{data}");
    }
    let bad = [
        (json!([[1, 2], [3, 4], [5, 6]]), "input \"x\" has an array of 2 at depth 1, which its shape [2, 3] has not"),
        (json!([[1, 2, 3, 4, 5, 6]]), "input \"x\" has an array of 6 at depth 1, which its shape [2, 3] has not"),
        (json!([[[1, 2, 3], [4, 5, 6]]]), "input \"x\" has data that is neither flat nor nested as its shape [2, 3]"),
        (json!([1, 2, 3, [4, 5, 6]]), "input \"x\" has data that is neither flat nor nested as its shape [2, 3]"),
        (json!([1, 2, 3, 4, 5]), "input \"x\" has 5 values, its shape [2, 3] takes 6"),
        (json!([1, 2, 3, 4, 5, 6, 7]), "input \"x\" has more values than the 6 of its shape [2, 3]"),
        (json!([[1, 2, 3], []]), "input \"x\" has an array of 0 at depth 1, which its shape [2, 3] has not"),
        (json!([1, 2, 3, 4, 5, "6"]), "invalid type: string \"6\", expected numbers for input \"x\""),
        (json!([1, 2, 3, 4, 5, null]), "invalid type: null, expected numbers for input \"x\""),
        (json!({}), "invalid type: map, expected numbers for input \"x\""),
        (json!(7), "input \"x\" has data that is neither flat nor nested as its shape [2, 3]"),
    ];
    for (data, message) in bad {
        let (status, answer) = post(url_of(&url, DType::Int32), ask(DType::Int32, &[2, 3], &data)).await;
        let error = answer["error"].as_str().unwrap();
        assert_eq!(status, 400, "{data}");
        assert!(error.starts_with(message), "{data}: {error}");
    }
    let scalar = r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [], "data": DATA}]}"#;
    for data in ["[21]", "21"] {
        let (status, answer) = post(format!("{url}/v2/models/scalar/infer"), scalar.replace("DATA", data)).await;
        assert_eq!(
            (status, &answer["outputs"][0]),
            (200, &json!({"name": "y", "datatype": "FP32", "shape": [], "data": [42.0]}))
        );
    }
}

#[tokio::test]
async fn numbers_that_do_not_fit_are_refused() {
    let url = start().await;
    let cases = [
        (DType::Uint8, "256", "input \"x\" holds 256, which is out of range for UINT8"),
        (DType::Uint8, "-1", "input \"x\" holds -1, which is out of range for UINT8"),
        (DType::Int8, "-129", "input \"x\" holds -129, which is out of range for INT8"),
        (
            DType::Uint64,
            "18446744073709551616",
            "input \"x\" holds 1.8446744073709552e19, which is out of range for UINT64",
        ),
        (DType::Int64, "9223372036854775808", "input \"x\" holds 9223372036854775808, which is out of range for INT64"),
        (DType::Int32, "1.0", "input \"x\" holds 1.0; an INT32 is written without a fraction or an exponent"),
        (DType::Int32, "true", "input \"x\" holds true, which is no INT32"),
        (DType::Bool, "2", "input \"x\" holds 2, which is no truth value; write true or false"),
        (DType::Fp16, "65520", "input \"x\" holds 65520, too large for FP16"),
        (DType::Bf16, "3.4e38", "input \"x\" holds 3.4e38, too large for BF16"),
        (DType::Fp32, "1e39", "input \"x\" holds 1e39, too large for FP32"),
        (DType::Fp64, "1e309", "cannot read the request for model \"echo-FP64\": number out of range"),
        (DType::Fp32, "NaN", "cannot read the request for model \"echo-FP32\": expected value"),
    ];
    for (dtype, number, message) in cases {
        let body =
            format!(r#"{{"inputs": [{{"data": [[{number}]], "name": "x", "shape": [1, 1], "datatype": "{dtype}"}}]}}"#);
        let (status, answer) = post(url_of(&url, dtype), body).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{dtype} {number}: {answer}");
        assert!(error.starts_with(message), "{dtype} {number}: {error}");
    }
}

/// Sends `json` and `raw` with the header that makes a body binary; status, JSON part and raw part of the answer.
async fn post_binary(url: String, json: &Value, raw: &[u8]) -> (u16, Value, Vec<u8>) {
    let json = json.to_string();
    let request = reqwest::Client::new().post(url).header("Inference-Header-Content-Length", json.len());
    let response = request.body([json.as_bytes(), raw].concat()).send().await.unwrap();
    let status = response.status().as_u16();
    let length =
        response.headers().get("inference-header-content-length").map(|v| v.to_str().unwrap().parse().unwrap());
    let declared = response.content_length();
    let body = response.bytes().await.unwrap();
    assert_eq!(declared, Some(body.len() as u64));
    let (json, raw) = body.split_at(length.unwrap_or(body.len()));
    (status, serde_json::from_slice(json).unwrap(), raw.to_vec())
}

#[tokio::test]
async fn every_element_type_survives_binary() {
    let url = start().await;
    for dtype in DType::ALL {
        for rows in [0, 3] {
            let raw: Vec<u8> = (0..rows * 2 * dtype.size())
                .map(|i| if dtype == DType::Bool { i % 2 } else { 255 - i } as u8)
                .collect();
            let request = json!({"id": "7", "parameters": {"binary_data_output": true}, "inputs":
                [{"name": "x", "datatype": dtype, "shape": [rows, 2], "parameters": {"binary_data_size": raw.len()}}]});
            let (status, answer, out) = post_binary(url_of(&url, dtype), &request, &raw).await;
            let output = json!({"name": "y", "datatype": dtype, "shape": [rows, 2], "parameters": {"binary_data_size": raw.len()}});
            assert_eq!((status, &answer["outputs"][0], &answer["id"]), (200, &output, &json!("7")));
            assert_eq!(out, raw, "{dtype}");
        }
    }
}

#[tokio::test]
async fn forms_mix_and_outputs_are_chosen_by_name() {
    let url = format!("{}/v2/models/two%20parts%20%C3%A9/versions/1/infer", start().await);
    let raw: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let inputs = json!([{"name": "b", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
        {"name": "a", "datatype": "FP32", "shape": [1, 3], "data": [10, 20, 30]}]);
    let difference: Vec<u8> = [9.0_f32, 18.0, 27.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let outputs = json!([{"name": "difference", "parameters": {"binary_data": true}}, {"name": "sum"}]);
    let (status, answer, out) = post_binary(url.clone(), &json!({"inputs": inputs, "outputs": outputs}), &raw).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer,
        json!({"model_name": "two parts é", "model_version": "1", "outputs": [
        {"name": "difference", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
        {"name": "sum", "datatype": "FP32", "shape": [1, 3], "data": [11.0, 22.0, 33.0]}]})
    );
    assert_eq!(out, difference);
    let outputs = json!([{"name": "sum", "parameters": {"binary_data": false}}]);
    let request = json!({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": true}});
    let (_, answer, out) = post_binary(url, &request, &raw).await;
    assert_eq!((&answer["outputs"].as_array().unwrap().len(), out.len()), (&1, 0));
}

#[tokio::test]
async fn json_never_carries_what_is_no_number() {
    let url = start().await;
    let raw = [1.0, f32::NAN, f32::INFINITY].map(f32::to_le_bytes).concat();
    let input = json!([{"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}]);
    let (status, answer, _) = post_binary(url_of(&url, DType::Fp32), &json!({"inputs": input}), &raw).await;
    let message = "output \"y\" holds NaN at element 1, which JSON cannot carry; ask for it with binary_data";
    assert_eq!((status, answer), (400, json!({"error": message})));
    let binary = json!({"inputs": input, "parameters": {"binary_data_output": true}});
    assert_eq!(post_binary(url_of(&url, DType::Fp32), &binary, &raw).await.2, raw);
}
