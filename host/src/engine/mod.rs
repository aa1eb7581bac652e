//! What computes a slice. One file per engine; everything else sees the two traits.

pub mod onnxruntime;

use crate::buffer::Pool;
use defer_partition::{Tensor, TensorInfo};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A tensor with its name in the graph.
pub type Named = (String, Tensor);

#[derive(Debug, Error)]
pub enum EngineError {
    #[error("no inference engine: {0}")]
    Unavailable(String),
    #[error("{engine} cannot load the graph: {cause}")]
    Load { engine: &'static str, cause: String },
    #[error("{engine} failed: {cause}")]
    Run { engine: &'static str, cause: String },
}

/// A graph to load.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// An encoded `ModelProto`.
    pub bytes: &'a [u8],
    /// Folder of the file that its external initializers name, if it has any.
    pub weights_folder: Option<&'a Path>,
}

/// How to load it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that one inference may use.
    pub threads: usize,
}

/// An inference engine of this process.
pub trait Engine: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> String;

    /// Loads a graph. The session lives until it is dropped, and needs nothing of `model` afterwards but the weights file.
    fn load(&self, model: Model<'_>, options: Options) -> Result<Box<dyn Session>, EngineError>;
}

/// A loaded graph.
pub trait Session: Send {
    /// Names of the graph's inputs.
    fn inputs(&self) -> Vec<String>;

    /// Names of the graph's outputs.
    fn outputs(&self) -> Vec<String>;

    /// Computes all outputs. The buffers of the outputs come from `pool`; those of the inputs stay the caller's.
    fn run(&mut self, inputs: &[Named], pool: &Pool) -> Result<Vec<Named>, EngineError>;
}

/// Which engine a user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best one that loads here.
    #[default]
    Auto,
    OnnxRuntime,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "onnxruntime" => Ok(Self::OnnxRuntime),
            other => Err(format!("unknown engine \"{other}\"; this version has auto and onnxruntime")),
        }
    }
}

/// Opens the engine that `choice` means. `library` is onnxruntime's shared library, if the user named one.
pub fn open(choice: Choice, library: Option<PathBuf>) -> Result<Arc<dyn Engine>, EngineError> {
    match choice {
        Choice::Auto | Choice::OnnxRuntime => Ok(Arc::new(onnxruntime::OnnxRuntime::open(library)?)),
    }
}

/// Inputs of zeros, in the given shapes: what a session is warmed up with.
pub fn zeros(inputs: &[TensorInfo], shapes: &[Vec<usize>]) -> Option<Vec<Named>> {
    inputs
        .iter()
        .zip(shapes)
        .map(|(input, shape)| {
            let len = defer_partition::byte_len(input.dtype, shape)?;
            Some((input.name.clone(), Tensor::new(input.dtype, shape.clone(), vec![0; len])?))
        })
        .collect()
}
