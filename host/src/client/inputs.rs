//! From files named on the command line to requests.

use super::UsageError;
use super::npy;
use crate::oip::ModelMetadata;
use anyhow::Context;
use defer_models::{Processor, Task};
use defer_partition::{DType, Tensor, TensorInfo};
use std::io::Read;
use std::path::{Path, PathBuf};

/// One request to send.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// Begins the names of the files that its outputs are written to.
    pub stem: String,
    /// What it is called in the report.
    pub label: String,
    pub inputs: Vec<(String, Tensor)>,
}

/// One file, and the input that it is for if the user named one.
#[derive(Clone, Debug)]
pub(super) struct Given {
    name: Option<String>,
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Npy,
    Picture,
}

impl Given {
    pub(super) fn is_picture(&self) -> bool {
        self.kind == Kind::Picture
    }
}

/// Reads `[NAME=]FILE` arguments. What stands before a `=` is a name if the model has such an input; else it is part of
/// the file's name.
pub(super) fn open(arguments: &[String], model: &ModelMetadata) -> anyhow::Result<Vec<Given>> {
    let open = |argument: &String| {
        let (name, path) = match argument.split_once('=') {
            Some((name, path)) if model.inputs.iter().any(|i| i.name == name) => (Some(name.to_owned()), path),
            _ => (None, argument.as_str()),
        };
        let path = PathBuf::from(path);
        let kind = kind_of(&path).map_err(|e| {
            let has = list(&model.inputs);
            UsageError(format!(
                "cannot read --input {}: {e}; the inputs of \"{}\" are {has}",
                path.display(),
                model.name
            ))
        })?;
        Ok(Given { name, path, kind })
    };
    arguments.iter().map(open).collect()
}

/// By content: the endings of files are not to be relied upon.
fn kind_of(path: &Path) -> std::io::Result<Kind> {
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(npy::MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(if start == npy::MAGIC { Kind::Npy } else { Kind::Picture })
}

/// Turns files into requests: each goes to the input that it names or to the first that has none yet; a request ends
/// when all its inputs are there or one is named again.
pub(super) fn assign(
    given: Vec<Given>,
    model: &ModelMetadata,
    processor: Option<&Processor>,
) -> anyhow::Result<Vec<Prepared>> {
    if given.is_empty() {
        let needed = list(&model.inputs);
        return Err(UsageError(format!("give --input for {needed}: \"{}\" has no sample inputs", model.name)).into());
    }
    let mut requests: Vec<Prepared> = Vec::new();
    for file in given {
        let tensors = load(&file, model, processor).with_context(|| format!("cannot use {}", file.path.display()))?;
        for (name, mut tensor) in tensors {
            let open = requests.last().filter(|r| r.inputs.len() < model.inputs.len());
            let has = |name: &str| open.is_some_and(|r| r.inputs.iter().any(|(n, _)| n == name));
            let name = match name {
                Some(name) => name,
                None => model.inputs.iter().map(|i| &i.name).find(|n| !has(n)).cloned().unwrap_or_default(),
            };
            let wanted = model.inputs.iter().find(|i| i.name == name).map(|i| i.dtype);
            if (wanted, tensor.dtype) == (Some(DType::Bf16), DType::Uint16) {
                // What NumPy has no type for comes as its bits.
                tensor.dtype = DType::Bf16;
            }
            if open.is_none() || has(&name) {
                let stem = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                requests.push(Prepared { stem, label: file.path.display().to_string(), inputs: Vec::new() });
            } else if let Some(request) = requests.last_mut() {
                request.label = format!("{}, {}", request.label, file.path.display());
            }
            if let Some(request) = requests.last_mut() {
                request.inputs.push((name, tensor));
            }
        }
    }
    Ok(requests)
}

/// The tensors of a file, with the names of their inputs where they are known.
fn load(
    file: &Given,
    model: &ModelMetadata,
    processor: Option<&Processor>,
) -> anyhow::Result<Vec<(Option<String>, Tensor)>> {
    if file.kind == Kind::Npy {
        return Ok(vec![(file.name.clone(), npy::read(&file.path)?)]);
    }
    let Some(processor) = processor else {
        let pictures = |e: &&defer_models::Entry| e.task != Task::TokenEmbedding;
        let names: Vec<_> = defer_models::catalogue().iter().filter(pictures).map(|e| e.name).collect();
        let known = names.join(", ");
        let why =
            format!("it is no .npy file, and pictures are understood for {known} only, not for \"{}\"", model.name);
        return Err(UsageError(why).into());
    };
    let picture = defer_models::open_picture(&file.path)?;
    let made = processor.input(&picture)?;
    Ok(made.into_iter().map(|(name, tensor)| (Some(file.name.clone().unwrap_or(name)), tensor)).collect())
}

impl Prepared {
    /// Whether this is what `model` takes; to be told before anything is sent, with the file's name.
    pub(super) fn check(&self, model: &ModelMetadata) -> Result<(), UsageError> {
        let Self { label, inputs, .. } = self;
        for info in &model.inputs {
            let Some((_, tensor)) = inputs.iter().find(|(name, _)| *name == info.name) else {
                return Err(UsageError(format!("{label}: input {info} of \"{}\" is missing; add --input", model.name)));
            };
            if tensor.dtype != info.dtype || !info.admits(&tensor.shape) {
                let TensorInfo { name, dtype, shape } = info;
                let got = format!("{}{:?}", tensor.dtype, tensor.shape);
                let model = &model.name;
                return Err(UsageError(format!(
                    "{label}: input \"{name}\" of model \"{model}\" expects {dtype}{shape:?}, got {got}"
                )));
            }
        }
        match inputs.iter().find(|(name, _)| model.inputs.iter().all(|i| i.name != *name)) {
            Some((name, _)) => Err(UsageError(format!("{label}: model \"{}\" has no input \"{name}\"", model.name))),
            None => Ok(()),
        }
    }
}

fn list(inputs: &[TensorInfo]) -> String {
    inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
