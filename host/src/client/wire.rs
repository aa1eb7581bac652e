//! The client's side of the protocol's formats: requests with binary tensors, and the answers to them.

use crate::oip::{ModelMetadata, binary};
use bytes::Bytes;
use defer_partition::{DType, Tensor, TensorInfo};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// Outputs by name.
pub type Outputs = Vec<(String, Tensor)>;

/// A request's body, ready to be sent many times.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    /// For the header `Inference-Header-Content-Length`.
    pub header_length: usize,
    pub body: Bytes,
}

/// A request for all outputs, everything in binary.
pub(super) fn encode(inputs: &[(String, Tensor)], budget: Option<Duration>) -> Encoded {
    let declared: Vec<_> = inputs
        .iter()
        .map(|(name, t)| {
            json!({"name": name, "datatype": t.dtype, "shape": t.shape, "parameters": {"binary_data_size": t.data.len()}})
        })
        .collect();
    let mut parameters = json!({"binary_data_output": true});
    if let Some(budget) = budget {
        parameters["timeout"] = json!(u64::try_from(budget.as_micros()).unwrap_or(u64::MAX));
    }
    let header = json!({"inputs": declared, "parameters": parameters}).to_string();
    let tensors: usize = inputs.iter().map(|(_, t)| t.data.len()).sum();
    let mut body = Vec::with_capacity(header.len() + tensors);
    body.extend_from_slice(header.as_bytes());
    for (_, tensor) in inputs {
        body.extend_from_slice(&tensor.data);
    }
    Encoded { header_length: header.len(), body: body.into() }
}

#[derive(Deserialize)]
struct Described {
    name: String,
    datatype: DType,
    shape: Vec<i64>,
}

/// Reads the description of a model.
pub(super) fn metadata(body: &[u8]) -> serde_json::Result<ModelMetadata> {
    #[derive(Deserialize)]
    struct Wire {
        name: String,
        #[serde(default)]
        versions: Vec<String>,
        #[serde(default)]
        platform: String,
        inputs: Vec<Described>,
        outputs: Vec<Described>,
    }
    let Wire { name, versions, platform, inputs, outputs } = serde_json::from_slice(body)?;
    let infos = |described: Vec<Described>| {
        described.into_iter().map(|d| TensorInfo { name: d.name, dtype: d.datatype, shape: d.shape }).collect()
    };
    Ok(ModelMetadata { name, versions, platform, inputs: infos(inputs), outputs: infos(outputs) })
}

/// Reads an answer to a request of [`encode`].
///
/// # Errors
/// A message that says what the server sent instead.
pub(super) fn decode(body: &[u8], header_length: Option<usize>) -> Result<Outputs, String> {
    #[derive(Deserialize)]
    struct Answer {
        outputs: Vec<Output>,
    }
    #[derive(Deserialize)]
    struct Output {
        name: String,
        datatype: DType,
        shape: Vec<usize>,
        parameters: Option<Parameters>,
    }
    #[derive(Deserialize)]
    struct Parameters {
        binary_data_size: Option<u64>,
    }
    let parts = binary::split(body, header_length)?;
    let answer: Answer = serde_json::from_slice(parts.json).map_err(|e| format!("the answer cannot be read: {e}"))?;
    let mut rest = parts.tensors.unwrap_or_default();
    let mut outputs = Outputs::new();
    for Output { name, datatype, shape, parameters } in answer.outputs {
        let Some(size) = parameters.and_then(|p| p.binary_data_size) else {
            return Err(format!("output \"{name}\" came as JSON; the server lacks the binary tensor data extension"));
        };
        let data = binary::take(&mut rest, size, datatype, &shape).map_err(|e| format!("output \"{name}\" {e}"))?;
        let tensor = Tensor { dtype: datatype, shape, data: data.to_vec() };
        outputs.push((name, tensor));
    }
    Ok(outputs)
}
