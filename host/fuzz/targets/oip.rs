//! Inference requests in every form: any body is refused, or gives each input of the model once, whole and fitting; and
//! what was read is the same when it is sent again, as raw bytes and in JSON.
//!
//! An input is: model, form (a byte each), a `u32` that [`Form::Binary`] reads, and the body.

use super::{Verdict, take};
use defer_host::oip::coding::Coding;
use defer_host::oip::{ModelMetadata, Parsed, json, parse};
use defer_partition::{DType, Tensor, TensorInfo, byte_len};
use serde_json::Value;
use std::collections::BTreeSet;

/// Bytes that a compressed body may expand to here.
const EXPANDED: usize = 64 << 10;

/// A number of two characters may take eight bytes, and is there when read, sent again in both forms, and read again.
pub fn memory(input: usize) -> usize {
    (1 << 20) + 128 * input.max(EXPANDED)
}

/// How the body is sent.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Json,
    /// JSON of the given length, then raw tensors.
    Binary,
    /// The same, with the length of the JSON put right.
    Fitted,
    /// The bytes of the only input.
    Raw,
    Gzip,
    Deflate,
}

impl Form {
    pub const ALL: [Form; 6] = [Form::Json, Form::Binary, Form::Fitted, Form::Raw, Form::Gzip, Form::Deflate];
}

/// Models with inputs of every kind: all element types, open dimensions, a scalar, an empty one.
pub fn models() -> [ModelMetadata; 3] {
    let info = |name: &str, dtype: DType, shape: &[i64]| TensorInfo { name: name.into(), dtype, shape: shape.into() };
    let model = |name: &str, inputs: Vec<TensorInfo>| {
        let outputs = inputs.iter().map(|input| TensorInfo { name: format!("{} out", input.name), ..input.clone() });
        let outputs = outputs.collect();
        ModelMetadata { name: name.into(), versions: vec!["1".into()], platform: String::new(), inputs, outputs }
    };
    [
        model("one", vec![info("x", DType::Fp32, &[-1, 3])]),
        model("all", DType::ALL.map(|dtype| info(dtype.name(), dtype, &[-1, 2])).to_vec()),
        model("odd", vec![info("scalar", DType::Int64, &[]), info("é\"", DType::Bool, &[-1, 0, -1])]),
    ]
}

pub fn run(mut input: &[u8]) -> Verdict {
    let [model, form] = take(&mut input);
    let length = u32::from_le_bytes(take(&mut input)) as usize;
    let models = models();
    let model = &models[usize::from(model) % models.len()];
    let expanded = match Form::ALL[usize::from(form) % Form::ALL.len()] {
        Form::Gzip => Coding::Gzip.expand(input, EXPANDED),
        Form::Deflate => Coding::Deflate.expand(input, EXPANDED),
        _ => Ok(input.to_vec()),
    };
    let Ok(body) = expanded else { return Verdict::Refused };
    assert!(body.len() <= EXPANDED.max(input.len()));
    let header = match Form::ALL[usize::from(form) % Form::ALL.len()] {
        Form::Json | Form::Gzip | Form::Deflate => None,
        Form::Binary => Some(length),
        Form::Fitted => Some(json_length(&body)),
        Form::Raw => Some(0),
    };
    let Ok(parsed) = parse(model, &body, header) else { return Verdict::Refused };
    fits(model, &parsed);
    sent_again(model, &parsed.inputs);
    Verdict::Taken
}

/// Bytes of the JSON value that `body` begins with.
fn json_length(body: &[u8]) -> usize {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    values.next();
    values.byte_offset()
}

fn fits(model: &ModelMetadata, parsed: &Parsed) {
    let names = |inputs: &mut dyn Iterator<Item = &String>| inputs.cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&mut parsed.inputs.iter().map(|(name, _)| name)),
        names(&mut model.inputs.iter().map(|info| &info.name))
    );
    for (info, (_, tensor)) in model.inputs.iter().zip(&parsed.inputs) {
        assert!(info.dtype == tensor.dtype && info.admits(&tensor.shape), "{info}: {:?}", tensor.shape);
        assert_eq!(byte_len(tensor.dtype, &tensor.shape), Some(tensor.data.len()));
        assert!(tensor.dtype != DType::Bool || tensor.data.iter().all(|&byte| byte <= 1));
    }
    let outputs: BTreeSet<usize> = parsed.outputs.iter().map(|selection| selection.index).collect();
    assert!(!outputs.is_empty() && outputs.len() == parsed.outputs.len(), "{:?}", parsed.outputs);
    assert!(outputs.iter().all(|&index| index < model.outputs.len()));
}

/// Every tensor of a request in one form, JSON where it can carry the values.
fn sent_again(model: &ModelMetadata, inputs: &[(String, Tensor)]) {
    let mut raw: Vec<u8> = Vec::new();
    let mut binary = Vec::new();
    let mut plain = Vec::new();
    for (name, tensor) in inputs {
        let declared = |more: (&str, Value)| {
            let Tensor { dtype, shape, .. } = tensor;
            let mut input = serde_json::json!({"name": name, "datatype": dtype.name(), "shape": shape});
            input[more.0] = more.1;
            input
        };
        binary.push(declared(("parameters", serde_json::json!({"binary_data_size": tensor.data.len()}))));
        raw.extend(&tensor.data);
        if json::not_finite(tensor).is_none() {
            let data = json::serialize_data(tensor, serde_json::value::Serializer).expect("numbers");
            plain.push(declared(("data", data)));
        }
    }
    let mut body = serde_json::json!({ "inputs": binary }).to_string().into_bytes();
    let length = body.len();
    body.extend(raw);
    assert_eq!(parse(model, &body, Some(length)).expect("a good request").inputs, inputs, "as raw bytes");
    if plain.len() == inputs.len() {
        let body = serde_json::json!({ "inputs": plain }).to_string();
        assert_eq!(parse(model, body.as_bytes(), None).expect("a good request").inputs, inputs, "in JSON");
    }
}
