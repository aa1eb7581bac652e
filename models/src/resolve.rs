//! From what a user typed to a model file and the name of its pipeline.

use crate::catalogue::{Entry, catalogue, find};
use crate::fetch::FetchError;
use std::path::{Path, PathBuf};

/// What a user typed names no model.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("no model \"{model}\": give the path of an .onnx file, or one of {}", names())]
    Unknown { model: String },
    #[error("\"{model}\" is not an .onnx file; convert it to ONNX first, or give one of {}", names())]
    NotOnnx { model: String },
}

fn names() -> String {
    catalogue().iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

/// Where a model's file is to be had.
#[derive(Clone, Debug)]
pub enum Source {
    Catalogue(&'static Entry),
    File(PathBuf),
}

/// A model that a user named.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name of its pipeline: the catalogue's, or the file's stem.
    pub name: String,
    pub source: Source,
}

impl Model {
    /// The model's file; one of the catalogue is fetched first.
    pub fn path(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, FetchError> {
        match &self.source {
            Source::Catalogue(entry) => entry.fetch(progress),
            Source::File(path) => Ok(path.clone()),
        }
    }

    /// Its catalogue entry, if it has one.
    pub fn entry(&self) -> Option<&'static Entry> {
        match self.source {
            Source::Catalogue(entry) => Some(entry),
            Source::File(_) => None,
        }
    }
}

/// The model meant by `model`: a name of the catalogue (which wins over a file of that name) or the path of an
/// existing `.onnx` file. Fetches nothing.
pub fn resolve(model: &str) -> Result<Model, ResolveError> {
    if let Some(entry) = find(model) {
        return Ok(Model { name: entry.name.to_owned(), source: Source::Catalogue(entry) });
    }
    let path = Path::new(model);
    if !path.is_file() {
        return Err(ResolveError::Unknown { model: model.to_owned() });
    }
    match (path.extension().and_then(|e| e.to_str()), path.file_stem().and_then(|s| s.to_str())) {
        (Some(extension), Some(stem)) if extension.eq_ignore_ascii_case("onnx") => {
            Ok(Model { name: stem.to_owned(), source: Source::File(path.to_owned()) })
        }
        _ => Err(ResolveError::NotOnnx { model: model.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_catalogue_name_or_an_onnx_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, b"").unwrap();
            path.to_str().unwrap().to_owned()
        };
        assert_eq!(resolve("resnet50").unwrap().entry().unwrap().name, "resnet50");
        let model = resolve(&file("my.net.onnx")).unwrap();
        assert_eq!(model.name, "my.net");
        assert!(model.entry().is_none());
        assert_eq!(model.path(&mut |_| ()).unwrap(), dir.path().join("my.net.onnx"));
        for (typed, want) in [
            (dir.path().join("absent.onnx").to_str().unwrap().to_owned(), "no model"),
            ("resnet51".to_owned(), "one of ocr-rec, ocr-det, ocr-cls, resnet50, vgg16"),
            (file("weights.pt"), "not an .onnx file"),
            (dir.path().to_str().unwrap().to_owned(), "no model"),
        ] {
            let error = resolve(&typed).unwrap_err().to_string();
            assert!(error.contains(want), "{typed}: {error}");
        }
    }
}
