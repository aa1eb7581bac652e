//! Why a node does not take a generation up.

use super::loaded::LoadError;
use crate::artifact::Digest;
use crate::engine::EngineError;
use crate::sandbox::SandboxError;
use axum::http::StatusCode;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a generation could not be prepared.
#[derive(Debug, Error)]
pub enum PrepareError {
    #[error("pipeline \"{pipeline}\" belongs to dispatcher \"{owner}\"; stop it, or wait until its lease is over")]
    Owned { pipeline: String, owner: String },
    #[error("generation {generation} of pipeline \"{pipeline}\" exists with other stages; take a higher number")]
    Exists { pipeline: String, generation: u64 },
    #[error("generation {generation} of pipeline \"{pipeline}\" is being dropped; take a higher number")]
    Leaving { pipeline: String, generation: u64 },
    #[error("artifact {0} is not on this node; upload it first")]
    Missing(Digest),
    #[error("stage {index}: {cause}")]
    Assignment { index: usize, cause: String },
    #[error("stage {index}")]
    Load { index: usize, source: LoadError },
    #[error("stage {index}")]
    Start { index: usize, source: SandboxError },
    /// All in bytes.
    #[error(
        "stage {index} needs {weights} bytes of weights and {activations} of activations, loaded stages need {loaded}, the \
         node itself takes {runtime}, and {limit} is the limit (serve --memory-limit)"
    )]
    Memory { index: usize, weights: u64, activations: u64, loaded: u64, runtime: u64, limit: u64 },
    #[error("this node cannot compute stage {index}")]
    NoEngine { index: usize, source: EngineError },
    #[error("the node is shutting down")]
    Draining,
    #[error("cannot note the generation in {path}", path = path.display())]
    Persist { path: PathBuf, source: io::Error },
}

impl PrepareError {
    /// What to answer whoever asked for it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Owned { .. } | Self::Exists { .. } | Self::Leaving { .. } => StatusCode::CONFLICT,
            Self::Draining | Self::NoEngine { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Persist { .. } | Self::Memory { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Missing(_) | Self::Assignment { .. } | Self::Load { .. } | Self::Start { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        }
    }
}
