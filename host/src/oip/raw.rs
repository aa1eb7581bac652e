//! Requests without a JSON part: `Inference-Header-Content-Length: 0` says that the body is one tensor and nothing
//! else. The [binary tensor data extension][spec] allows it where the shape follows from the length: the model has one
//! input, with at most one open dimension. The outputs are answered as binary data.
//!
//! [spec]: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

use super::{ModelMetadata, Parsed, Selection, binary};
use defer_partition::{Tensor, TensorInfo, byte_len};

/// Reads `body` as the only input of `model`.
///
/// # Errors
/// A message saying why the body cannot be that input.
pub(super) fn parse(model: &ModelMetadata, body: &[u8]) -> Result<Parsed, String> {
    let [input] = model.inputs.as_slice() else {
        let (name, count) = (&model.name, model.inputs.len());
        return Err(format!(
            "model \"{name}\" has {count} inputs; a request without JSON (Inference-Header-Content-Length: 0) can carry \
             only one"
        ));
    };
    if body.is_empty() {
        // More likely forgotten than meant; a tensor without elements can be sent with a JSON part.
        return Err(format!("the body is empty, and should be the bytes of input {input}"));
    }
    let shape = shape(input, body.len())?;
    let mut rest = body;
    let declared = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let bytes = binary::take(&mut rest, declared, input.dtype, &shape).map_err(|e| format!("input {input} {e}"))?;
    let tensor = Tensor::new(input.dtype, shape, bytes.to_vec())
        .ok_or_else(|| format!("input {input} has not as many bytes as its shape takes"))?;
    let outputs = (0..model.outputs.len()).map(|index| Selection { index, binary: true }).collect();
    Ok(Parsed { inputs: vec![(input.name.clone(), tensor)], budget: None, id: None, outputs })
}

/// The shape of `input` when it has `len` bytes.
fn shape(input: &TensorInfo, len: usize) -> Result<Vec<usize>, String> {
    let mut shape: Vec<usize> = input.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(1)).collect();
    let mut open = (0..input.shape.len()).filter(|&i| input.shape[i] < 0);
    let (first, second) = (open.next(), open.next());
    if second.is_some() {
        return Err(format!("input {input} has several open dimensions; send its shape in a JSON part"));
    }
    // With the open dimension at 1, this is what one step of it takes.
    let unit =
        byte_len(input.dtype, &shape).ok_or_else(|| format!("input {input} takes more bytes than can be counted"))?;
    match first {
        Some(at) if unit > 0 && len.is_multiple_of(unit) => {
            shape[at] = len / unit;
            Ok(shape)
        }
        Some(_) if unit == 0 => Err(format!("the length of input {input} does not tell its shape; send a JSON part")),
        Some(_) => Err(format!("input {input} takes a multiple of {unit} bytes, the body has {len}")),
        None if len == unit => Ok(shape),
        None => Err(format!("input {input} takes {unit} bytes, the body has {len}")),
    }
}
