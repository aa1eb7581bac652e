//! Why a network was not cut.

use crate::accuracy::Mismatch;
use crate::artifact::ArtifactError;
use crate::client::UsageError;
use crate::engine::EngineError;
use crate::relay::LinkError;
use defer_models::{FetchError, ProcessError, ResolveError};
use defer_partition::cluster::ClusterError;
use defer_partition::cut::CutError;
use defer_partition::dims::DimError;
use defer_partition::graph::GraphError;
use defer_partition::onnx::OnnxError;
use defer_partition::plan::{NoPlan, PlanError};
use defer_partition::slice::SliceError;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Causes are part of each message, hence no `source` that would repeat them.
#[derive(Debug, Error)]
pub enum BuildError {
    #[error("say into how many stages to cut (--stages N) or where (--cut T1,T2,…)")]
    NoStages,
    #[error("{cuts} cuts make {made} stages, and --stages says {stages}; leave --stages out, or name {} tensors", stages.saturating_sub(1))]
    Contradiction { cuts: usize, made: usize, stages: usize },
    #[error(
        "the pipeline would be called \"{name}\"; rename the file: letters, digits, \"-\", \"_\" and \".\" make a name"
    )]
    Name { name: String },
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Dim(#[from] DimError),
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error("cannot cut at \"{tensor}\": \"{crossing}\" would cross there, which no frame can carry: {cause}")]
    Stuck { tensor: String, crossing: String, cause: String },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("codec {codec} changes results; say how far they may be off (--allow-lossy)")]
    Lossy { codec: String },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Place(#[from] NoPlan),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("cannot make the model's sample inputs: {0}")]
    Sample(ProcessError),
    #[error("input \"{input}\" of shape {shape:?} is larger than memory; give smaller sizes with --dim")]
    InputSize { input: String, shape: Vec<usize> },
    #[error("{path}: {cause}", path = path.display())]
    Onnx { path: PathBuf, cause: OnnxError },
    #[error("{path}: {cause}", path = path.display())]
    Graph { path: PathBuf, cause: GraphError },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("engine {engine} has no operator {op} (domain {domain}, opset {opset}), needed by node {node}: {cause}")]
    NoOperator { engine: &'static str, op: String, domain: String, opset: i64, node: String, cause: String },
    #[error("engine {engine} cannot load node {node}: {cause}")]
    Node { engine: &'static str, node: String, cause: String },
    #[error("the network fails on the inputs it is profiled with ({inputs}): {cause}; other sizes: --dim name=size")]
    Profile { inputs: String, cause: String },
    #[error("the node or nodes producing \"{group}\" cannot be timed alone: {cause}")]
    Timing { group: String, cause: EngineError },
    #[error("cannot measure what this machine's own network costs: {0}")]
    Toll(#[from] LinkError),
    #[error("input \"{input}\" of the network cannot be carried to the first stage: {cause}")]
    Input { input: String, cause: String },
    #[error("output \"{output}\" of the network cannot be carried to a client: {cause}")]
    Output { output: String, cause: String },
    #[error(transparent)]
    Slice(#[from] SliceError),
    #[error(
        "stage {stage} would have {bytes} bytes of weights, and a section of an artifact holds less than 4 GiB; use more stages"
    )]
    TooLarge { stage: usize, bytes: u64 },
    #[error("the disk is full: {path} needs {bytes} bytes; free some, or choose another folder with --out", path = path.display())]
    DiskFull { path: PathBuf, bytes: u64 },
    #[error("cannot write {path}: {cause}", path = path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error("cannot read {path}: {cause}", path = path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("stage {stage} does not read back as it was written: {cause}")]
    ReadBack { stage: usize, cause: ArtifactError },
    #[error("the stages' answers cannot be compared with the uncut network's: {cause}")]
    Incomparable { cause: Mismatch },
}

impl BuildError {
    /// Whether what the user asked for cannot be, as opposed to something that failed on the way: exit code 2, not 1.
    pub fn is_usage(&self) -> bool {
        if let Self::Place(error) = self {
            return error.is_usage();
        }
        matches!(
            self,
            Self::NoStages
                | Self::Contradiction { .. }
                | Self::Name { .. }
                | Self::Resolve(_)
                | Self::Dim(_)
                | Self::Cut(_)
                | Self::Stuck { .. }
                | Self::Cluster(_)
                | Self::Lossy { .. }
                | Self::Plan(PlanError::NoStages | PlanError::TooManyStages { .. })
                | Self::Engine(EngineError::Unavailable(_))
        )
    }

    /// As the error of a command: [`UsageError`] where [`Self::is_usage`].
    pub(super) fn for_a_command(self) -> anyhow::Error {
        if self.is_usage() { UsageError(self.to_string()).into() } else { self.into() }
    }

    /// A failed write of a file of `bytes` bytes.
    pub(super) fn write(path: impl Into<PathBuf>, bytes: u64, cause: io::Error) -> Self {
        let path = path.into();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, bytes },
            _ => Self::Write { path, cause },
        }
    }
}
