//! The ONNX file format: messages, reading, and the one normal form in which the rest of the crate sees tensors.

#[allow(clippy::all, clippy::cast_lossless, rustdoc::all)]
#[rustfmt::skip] // generated
pub mod proto;

mod external;
mod values;

use bytes::Bytes;
use prost::Message;
use proto::ModelProto;
use std::path::{Path, PathBuf};

pub use values::{Bits, element_bits, for_each_tensor, tensor_of};

/// Why a file is not a model that can be cut.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    #[error("cannot read \"{path}\": {cause}")]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("not an ONNX model, or one that was cut short: {0}")]
    Wire(prost::DecodeError),
    #[error("not an ONNX model: it holds no graph")]
    NoGraph,
    #[error("not an ONNX model: it gives no IR version")]
    NoIrVersion,
    #[error("the model imports no operator set, so that its operators have no meaning; export it again")]
    NoOpset,
    #[error(
        "tensor \"{tensor}\" points at \"{location}\", outside the model's folder; only files beside the model are read"
    )]
    Outside { tensor: String, location: String },
    #[error("tensor \"{tensor}\" gives {field} \"{value}\" for its external data, which is no number of bytes")]
    ExternalField { tensor: String, field: &'static str, value: String },
    #[error(
        "tensor \"{tensor}\" wants bytes {offset}..{end} of \"{location}\", which has {len}; is the file complete?"
    )]
    ExternalRange { tensor: String, location: String, offset: u64, end: u64, len: u64 },
    #[error("tensor \"{tensor}\" is kept in another file but gives no location")]
    NoLocation { tensor: String },
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// What is wrong with the values of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("tensor \"{tensor}\" is kept in another file, \"{location}\": read the model from its folder")]
    Elsewhere { tensor: String, location: String },
    #[error("tensor \"{tensor}\" of shape {dims:?} should hold {want} bytes and holds {got}")]
    Length { tensor: String, dims: Vec<i64>, want: u64, got: u64 },
    #[error("tensor \"{tensor}\" has the impossible shape {dims:?}")]
    Shape { tensor: String, dims: Vec<i64> },
    #[error("tensor \"{tensor}\" has element type {dtype}, which this version does not know")]
    DataType { tensor: String, dtype: i32 },
}

/// Reads the model in the file `path`, with the tensors that it keeps in other files of the same folder.
///
/// Weights are not copied: each tensor is a view into the buffer of the file that holds it.
pub fn read(path: &Path) -> Result<ModelProto, OnnxError> {
    let bytes = std::fs::read(path).map_err(|cause| OnnxError::Read { path: path.to_owned(), cause })?;
    let mut model = parse(Bytes::from(bytes))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = external::Files::new(folder);
    for_each_tensor(&mut model, &mut |tensor| {
        files.resolve(tensor)?;
        Ok::<_, OnnxError>(values::normalise(tensor)?)
    })?;
    Ok(model)
}

/// Decodes a model that keeps all its tensors inline; one that names other files is refused.
pub fn decode(bytes: Bytes) -> Result<ModelProto, OnnxError> {
    let mut model = parse(bytes)?;
    normalise(&mut model)?;
    Ok(model)
}

/// Moves the values of every tensor of `model` into `raw_data`, little-endian, and checks their number. What is in that
/// form already stays as it is.
pub fn normalise(model: &mut ModelProto) -> Result<(), ValueError> {
    for_each_tensor(model, &mut |tensor| values::normalise(tensor))
}

fn parse(bytes: Bytes) -> Result<ModelProto, OnnxError> {
    let model = ModelProto::decode(bytes).map_err(OnnxError::Wire)?;
    if model.graph.is_none() {
        return Err(OnnxError::NoGraph);
    }
    if model.ir_version.is_none() {
        return Err(OnnxError::NoIrVersion);
    }
    if model.opset_import.is_empty() {
        return Err(OnnxError::NoOpset);
    }
    Ok(model)
}
