//! What computes a slice. One file per engine; everything else sees the two traits.

pub mod abandoned;
mod fallback;
pub mod onnxruntime;
mod panic;
#[cfg(feature = "tract")]
pub mod tract;
pub mod watchdog;

use crate::buffer::Pool;
use defer_partition::{Tensor, TensorInfo};
use fallback::Fallback;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thiserror::Error;
use watchdog::Brake;

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
    pub prepacking: Prepacking,
    /// How long loading may take, where the engine can be stopped.
    pub load_time: Option<Duration>,
}

impl Options {
    /// With that many threads, and whatever is fastest.
    pub const fn new(threads: usize) -> Self {
        Self { threads, prepacking: Prepacking::On, load_time: None }
    }
}

/// Whether an engine that can do without keeps a second version of weights, in the order in which it reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prepacking {
    /// Faster matrix products, more memory.
    #[default]
    On,
    /// Weights are read in place.
    Off,
}

/// An inference engine of this process.
pub trait Engine: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> String;

    /// Whether the session that comes of this wish will hold weights in an order of its own.
    fn prepacking(&self, wish: Prepacking) -> Prepacking {
        wish
    }

    /// Makes the engine ready to load graphs, which [`Self::load`] does itself where nobody has: what must be loaded for it is
    /// then in memory.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where it cannot be.
    fn open(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Loads a graph. The session lives until it is dropped, and needs nothing of `model` afterwards but the weights file.
    fn load(&self, model: Model<'_>, options: Options) -> Result<Box<dyn Session>, EngineError>;
}

/// A loaded graph.
pub trait Session: Send {
    /// Names of the graph's inputs.
    fn inputs(&self) -> Vec<String>;

    /// Names of the graph's outputs.
    fn outputs(&self) -> Vec<String>;

    /// What stops a run from another thread; `None` where nothing does.
    fn brake(&self) -> Option<Arc<dyn Brake>> {
        None
    }

    /// Computes all outputs. The buffers of the outputs come from `pool`; those of the inputs stay the caller's.
    fn run(&mut self, inputs: &[Named], pool: &Pool) -> Result<Vec<Named>, EngineError>;
}

/// A session that several callers use in turn.
pub type SharedSession = Arc<Mutex<Box<dyn Session>>>;

/// Which engine a user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// onnxruntime where its library loads, else tract.
    #[default]
    Auto,
    OnnxRuntime,
    Tract,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "onnxruntime" => Ok(Self::OnnxRuntime),
            "tract" => Ok(Self::Tract),
            other => Err(format!("unknown engine \"{other}\"; there are auto, onnxruntime and tract")),
        }
    }
}

/// Opens the engine that `choice` means; see [`find`].
pub fn open(choice: Choice, library: Option<PathBuf>) -> Result<Arc<dyn Engine>, EngineError> {
    let engine = find(choice, library)?;
    engine.open()?;
    Ok(engine)
}

/// Finds the engine that `choice` means, and looks whether it can be there, without loading its library: that is left to
/// [`Engine::open`]. `library` is onnxruntime's shared library, if the user named one: that one must load then, unless tract
/// was asked for.
///
/// # Errors
/// [`EngineError::Unavailable`] where there is no such engine.
pub fn find(choice: Choice, library: Option<PathBuf>) -> Result<Arc<dyn Engine>, EngineError> {
    let named = library.is_some();
    let onnxruntime = || onnxruntime::OnnxRuntime::find(library);
    match choice {
        Choice::Tract => built_in().ok_or_else(|| {
            EngineError::Unavailable("this defer-host was built without tract; use --engine onnxruntime".into())
        }),
        Choice::Auto if !named => match (onnxruntime(), built_in()) {
            (Ok(first), Some(second)) => Ok(Arc::new(Fallback::new(first, second))),
            (Ok(first), None) => Ok(Arc::new(first)),
            (Err(error), Some(tract)) => {
                warn_of_fallback(&error);
                Ok(tract)
            }
            (Err(error), None) => Err(error),
        },
        Choice::Auto | Choice::OnnxRuntime => Ok(Arc::new(onnxruntime()?)),
    }
}

fn warn_of_fallback(error: &EngineError) {
    tracing::warn!(cause = %error, "onnxruntime does not load; tract computes, more slowly");
}

/// The engine that needs no library: tract, unless it was left out (feature `tract`).
fn built_in() -> Option<Arc<dyn Engine>> {
    #[cfg(feature = "tract")]
    return Some(Arc::new(tract::Tract));
    #[cfg(not(feature = "tract"))]
    None
}

/// An engine of this process, as a node lists it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub name: &'static str,
    pub version: String,
    /// Whether this node computes with it.
    pub chosen: bool,
}

/// The engine of this process that is not `chosen`, if there is one.
pub fn other(chosen: &dyn Engine) -> Option<Arc<dyn Engine>> {
    built_in().filter(|built_in| built_in.name() != chosen.name())
}

/// The engines that this process has: those that compute, and what there is besides. onnxruntime's library is not loaded for
/// the list alone.
pub fn list(chosen: &[&dyn Engine]) -> Vec<Listed> {
    let listed = |engine: &dyn Engine, chosen| Listed { name: engine.name(), version: engine.version(), chosen };
    let is_new = |name: &str| !chosen.iter().any(|engine| engine.name() == name);
    let other = built_in().filter(|built_in| is_new(built_in.name()));
    let chosen = chosen.iter().map(|engine| listed(*engine, true));
    chosen.chain(other.map(|other| listed(other.as_ref(), false))).collect()
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
