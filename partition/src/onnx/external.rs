//! Tensors whose bytes are kept beside the model, in files of their own.

use super::OnnxError;
use super::proto::{TensorProto, tensor_proto::DataLocation};
use bytes::Bytes;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// The external files of one model, each read at most once.
pub(super) struct Files {
    folder: PathBuf,
    read: HashMap<String, Bytes>,
}

impl Files {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: HashMap::new() }
    }

    /// Brings the bytes of `tensor` in, if they are in another file.
    pub(super) fn resolve(&mut self, tensor: &mut TensorProto) -> Result<(), OnnxError> {
        if !is_external(tensor) {
            return Ok(());
        }
        let name = tensor.name().to_owned();
        let location = field(tensor, "location").ok_or_else(|| OnnxError::NoLocation { tensor: name.clone() })?;
        let location = location.to_owned();
        let offset = number(tensor, "offset")?.unwrap_or(0);
        let length = number(tensor, "length")?;
        let file = self.file(&name, &location)?;
        let len = file.len() as u64;
        let end = match length {
            Some(length) => offset.checked_add(length),
            None => Some(len.max(offset)),
        };
        // A file shorter than 2^64 bytes ends before an offset that does not fit.
        let end = end.unwrap_or(u64::MAX);
        if end > len || offset > len {
            return Err(OnnxError::ExternalRange { tensor: name, location, offset, end, len });
        }
        tensor.raw_data = Some(file.slice(offset as usize..end as usize));
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    }

    fn file(&mut self, tensor: &str, location: &str) -> Result<Bytes, OnnxError> {
        if let Some(bytes) = self.read.get(location) {
            return Ok(bytes.clone());
        }
        let relative = Path::new(location);
        // Backslashes separate folders in models written on Windows, and hide a `..` from this check elsewhere.
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain || location.is_empty() || location.contains('\\') || location.contains(':') {
            return Err(OnnxError::Outside { tensor: tensor.to_owned(), location: location.to_owned() });
        }
        let path = self.folder.join(relative);
        let bytes = std::fs::read(&path).map_err(|cause| OnnxError::Read { path, cause })?;
        let bytes = Bytes::from(bytes);
        self.read.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

pub(super) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

pub(super) fn field<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value())
}

fn number(tensor: &TensorProto, key: &'static str) -> Result<Option<u64>, OnnxError> {
    let Some(text) = field(tensor, key) else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => {
            Err(OnnxError::ExternalField { tensor: tensor.name().to_owned(), field: key, value: text.to_owned() })
        }
    }
}
