//! Bodies that are wrong: each its message, and never a panic.

use super::backend::{echo, two};
use crate::oip::{InferError, parse};
use defer_partition::DType;
use proptest::prelude::*;
use serde_json::{Value, json};

fn refusal(json: &Value, raw: Option<&[u8]>) -> String {
    let head = json.to_string();
    let body = [head.as_bytes(), raw.unwrap_or_default()].concat();
    match parse(&two(), &body, raw.map(|_| head.len())) {
        Err(InferError::Invalid(message)) => message,
        other => panic!("{json} gave {other:?}"),
    }
}

#[test]
fn each_mistake_is_named() {
    let a = json!({"name": "a", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]});
    let b = json!({"name": "b", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]});
    let with = |key: &str, value: Value| {
        let mut input = a.clone();
        input[key] = value;
        json!({"inputs": [input, b]})
    };
    let output = |output: Value| json!({"inputs": [a, b], "outputs": output});
    let m = "model \"two parts é\"";
    let expects = format!("input \"a\" of {m} expects FP32[-1, 3], got");
    let cases = [
        (json!({}), format!("cannot read the request for {m}: missing field `inputs`")),
        (json!({"inputs": [a]}), format!("{m} needs input \"b\" FP32[-1, 3], which the request lacks")),
        (json!({"inputs": [a, b, a]}), "input \"a\" is given twice".into()),
        (with("name", json!("c")), format!("{m} has no input \"c\"; it has \"a\" FP32[-1, 3], \"b\" FP32[-1, 3]")),
        (with("shape", json!([1, 4])), format!("{expects} FP32[1, 4]")),
        (with("shape", json!([3])), format!("{expects} FP32[3]")),
        (with("shape", json!([-1, 3])), format!("{expects} FP32[-1, 3]")),
        (with("datatype", json!("INT32")), format!("{expects} INT32[1, 3]")),
        (with("datatype", json!("BYTES")), format!("{expects} BYTES[1, 3]; strings (BYTES) are not served")),
        (with("datatype", json!("fp32")), format!("{expects} fp32[1, 3]; which is no element type")),
        (with("shape", json!([i64::MAX, 3])), "input \"a\" has shape [9223372036854775807, 3], more bytes".into()),
        (with("shape", json!([1_i64 << 40, 3])), "input \"a\" has 3 values, its shape [1099511627776, 3] takes".into()),
        (with("data", json!(null)), "input \"a\" has neither data nor binary_data_size".into()),
        (
            with("parameters", json!({"binary_data_size": 12})),
            "input \"a\" has both data and binary_data_size; send one".into(),
        ),
        (
            json!({"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}]}),
            "input \"a\" has binary_data_size, but the request has no header Inference-Header-Content-Length".into(),
        ),
        (with("parameters", json!({"shared_memory_region": "r"})), "input \"a\": shared memory is not served".into()),
        (
            output(json!([{"name": "x"}])),
            format!("{m} has no output \"x\"; it has \"sum\" FP32[-1, 3], \"difference\""),
        ),
        (output(json!([{"name": "sum"}, {"name": "sum"}])), "output \"sum\" is asked for twice".into()),
        (
            output(json!([{"name": "sum", "parameters": {"classification": 3}}])),
            "classification of output \"sum\" is not served".into(),
        ),
        (json!({"inputs": [a, b], "parameters": {"sequence_id": 1}}), "sequences are not served".into()),
        (json!({"inputs": [a, b], "id": 3}), format!("cannot read the request for {m}: invalid type")),
    ];
    for (request, message) in cases {
        let got = refusal(&request, None);
        assert!(got.starts_with(&message), "{request}\n got {got}\nwant {message}");
    }
}

#[test]
fn binary_sizes_have_to_agree() {
    let request = |size: u64| {
        json!({"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": size}},
            {"name": "b", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}]})
    };
    let cases = [
        (11, 24, "input \"a\" has a binary_data_size of 11 bytes, but FP32[1, 3] takes 12"),
        (u64::MAX, 24, "input \"a\" has a binary_data_size of 18446744073709551615 bytes"),
        (12, 23, "input \"b\" takes 12 bytes, but the body holds only 11 more"),
        (12, 25, "the body has 1 bytes more than its inputs' binary_data_size say"),
    ];
    for (size, sent, message) in cases {
        let got = refusal(&request(size), Some(&vec![0; sent]));
        assert!(got.starts_with(message), "{got}");
    }
    let short = parse(&two(), b"{}", Some(3)).unwrap_err().to_string();
    assert_eq!(short, "Inference-Header-Content-Length is 3 bytes, the whole body is only 2");
    let mut truth =
        json!({"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}}]})
            .to_string()
            .into_bytes();
    let head = truth.len();
    truth.extend([1, 7]);
    let message = parse(&echo(DType::Bool), &truth, Some(head)).unwrap_err().to_string();
    assert_eq!(message, "input \"x\" is BOOL, but its byte 1 is 7; only 0 and 1 are truth values");
}

#[test]
fn deep_nesting_ends_in_an_error() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let body =
        format!(r#"{{"x": {deep}, "inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": {deep}}}]}}"#);
    assert!(parse(&echo(DType::Fp32), body.as_bytes(), None).is_err());
}

/// Valid requests of either form, to be damaged.
fn valid() -> Vec<(Vec<u8>, Option<usize>)> {
    let json = json!({"id": "é\u{1}", "parameters": {"timeout": 5}, "inputs":
        [{"name": "a", "datatype": "FP32", "shape": [2, 3], "data": [[1.5, -2, 3e3], [4, 5, 6]]},
         {"name": "b", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}], "outputs": [{"name": "sum"}]});
    let binary = json!({"parameters": {"binary_data_output": true}, "inputs":
        [{"name": "a", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
         {"name": "b", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}]});
    let head = binary.to_string();
    let length = head.len();
    let body = [head.as_bytes(), &[7; 24]].concat();
    vec![(json.to_string().into_bytes(), None), (body, Some(length))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_damaged_body_is_read_or_refused(
        form in 0..2_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 0..6),
        shift in prop_oneof![Just(0), -30..30_i64],
    ) {
        let (mut body, length) = valid().swap_remove(form);
        for (at, kind, byte) in edits {
            if body.is_empty() {
                break;
            }
            let at = at.index(body.len());
            match kind {
                0 => body[at] = byte,
                1 => body.truncate(at),
                2 => body.insert(at, b"[]{}\",:0-9e.tn"[usize::from(byte) % 14]),
                _ => { body.remove(at); }
            }
        }
        let length = length.map(|l| usize::try_from(l as i64 + shift).unwrap_or(usize::MAX));
        if let Ok(parsed) = parse(&two(), &body, length) {
            for ((_, tensor), info) in parsed.inputs.iter().zip(&two().inputs) {
                prop_assert!(info.admits(&tensor.shape));
                prop_assert_eq!(defer_partition::byte_len(tensor.dtype, &tensor.shape), Some(tensor.data.len()));
            }
        }
    }
}
