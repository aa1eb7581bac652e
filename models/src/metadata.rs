//! What a model file says of itself beside its graph.

use defer_partition::onnx::proto::ModelProto;
use prost::Message;
use std::io;
use std::path::{Path, PathBuf};

/// Key under which text recognition networks carry the characters that they know, one per line.
pub const DICTIONARY_KEY: &str = "character";

/// A model file does not yield its metadata.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("cannot read {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{} is not an ONNX model: {cause}", path.display())]
    Decode { path: PathBuf, cause: prost::DecodeError },
}

/// The metadata properties of `model`, in its order; entries that lack a key or a value are left out.
pub fn metadata_of(model: &ModelProto) -> Vec<(String, String)> {
    model.metadata_props.iter().filter_map(|entry| Some((entry.key.clone()?, entry.value.clone()?))).collect()
}

/// The metadata properties of the model file at `path`.
pub fn read_metadata(path: &Path) -> Result<Vec<(String, String)>, MetadataError> {
    let bytes = std::fs::read(path).map_err(|cause| MetadataError::Read { path: path.to_owned(), cause })?;
    let model = ModelProto::decode(bytes::Bytes::from(bytes))
        .map_err(|cause| MetadataError::Decode { path: path.to_owned(), cause })?;
    Ok(metadata_of(&model))
}
