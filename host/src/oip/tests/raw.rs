//! Requests that are one tensor's bytes and nothing else.

use super::start;
use crate::oip::{ModelMetadata, parse};
use defer_partition::{DType, TensorInfo};
use serde_json::{Value, json};

type Inputs<'a> = &'a [(DType, &'a [i64])];

fn model(inputs: Inputs<'_>) -> ModelMetadata {
    let info = |(i, (dtype, shape)): (usize, &(DType, &[i64]))| TensorInfo {
        name: format!("x{i}"),
        dtype: *dtype,
        shape: shape.to_vec(),
    };
    let inputs: Vec<TensorInfo> = inputs.iter().enumerate().map(info).collect();
    let outputs = vec![TensorInfo { name: "y".into(), dtype: DType::Fp32, shape: vec![-1] }];
    ModelMetadata { name: "m".into(), versions: vec!["1".into()], platform: "test".into(), inputs, outputs }
}

#[test]
fn the_length_tells_the_shape_or_the_request_is_refused() {
    let good: [(DType, &[i64], usize, &[usize]); 5] = [
        (DType::Fp32, &[-1, 3], 24, &[2, 3]),
        (DType::Fp32, &[2, -1, 3], 24, &[2, 1, 3]),
        (DType::Int64, &[2, 2], 32, &[2, 2]),
        (DType::Uint8, &[], 1, &[]),
        (DType::Fp16, &[1, 3, -1], 60, &[1, 3, 10]),
    ];
    for (dtype, open, len, shape) in good {
        let parsed = parse(&model(&[(dtype, open)]), &vec![1; len], Some(0)).unwrap();
        assert_eq!(parsed.inputs[0].1.shape, shape);
        assert_eq!(parsed.inputs[0].1.data, vec![1; len]);
        assert!(parsed.outputs.iter().all(|output| output.binary));
    }
    let bad: [(Inputs<'_>, usize, &str); 9] = [
        (&[(DType::Fp32, &[-1, 3])], 25, "input \"x0\" FP32[-1, 3] takes a multiple of 12 bytes, the body has 25"),
        (&[(DType::Fp32, &[2, 3])], 12, "input \"x0\" FP32[2, 3] takes 24 bytes, the body has 12"),
        (
            &[(DType::Fp32, &[-1, -1])],
            16,
            "input \"x0\" FP32[-1, -1] has several open dimensions; send its shape in a JSON part",
        ),
        (&[(DType::Fp32, &[-1, 3])], 0, "the body is empty, and should be the bytes of input \"x0\" FP32[-1, 3]"),
        (
            &[(DType::Fp32, &[0, -1])],
            4,
            "the length of input \"x0\" FP32[0, -1] does not tell its shape; send a JSON part",
        ),
        (&[(DType::Fp32, &[1 << 40, 1 << 40])], 8, "input \"x0\" FP32[1099511627776, 1099511627776] takes more bytes"),
        (&[(DType::Fp32, &[1]), (DType::Fp32, &[1])], 8, "model \"m\" has 2 inputs; a request without JSON"),
        (&[], 8, "model \"m\" has 0 inputs; a request without JSON"),
        (&[(DType::Bool, &[-1])], 3, "input \"x0\" BOOL[-1] is BOOL, but its byte 0 is 7"),
    ];
    for (inputs, len, message) in bad {
        let error = parse(&model(inputs), &vec![7; len], Some(0)).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[tokio::test]
async fn a_request_without_json_is_answered_with_binary_data() {
    let url = start().await;
    let request = reqwest::Client::new().post(format!("{url}/v2/models/scalar/infer"));
    let answer = request.header("Inference-Header-Content-Length", 0).body(21_f32.to_le_bytes().to_vec());
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    let length: usize = answer.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let body = answer.bytes().await.unwrap();
    let header: Value = serde_json::from_slice(&body[..length]).unwrap();
    let output = json!({"name": "y", "datatype": "FP32", "shape": [], "parameters": {"binary_data_size": 4}});
    assert_eq!(header, json!({"model_name": "scalar", "model_version": "2", "outputs": [output]}));
    assert_eq!(body[length..], 42_f32.to_le_bytes());
}
