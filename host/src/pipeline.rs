//! `pipeline.json`: what a network was cut into. Written by `build-stages`, read by dispatchers and by people's scripts.

use crate::artifact::Digest;
use crate::relay::CodecChoice;
use defer_partition::TensorInfo;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Version of the file's layout. Fields that this version does not know are ignored.
pub const FORMAT: u32 = 1;
/// Its name in the pipeline's folder.
pub const FILE: &str = "pipeline.json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    pub format: u32,
    pub name: String,
    pub model: ModelRef,
    /// The network's inputs, in its order; -1 where a dimension is open.
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    pub stages: Vec<StageRef>,
    pub plan: PlanRef,
}

/// The network that was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// SHA-256 of its file.
    pub digest: String,
    /// Where it was, for people.
    pub file: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRef {
    pub index: usize,
    /// File name of the artifact, beside `pipeline.json`.
    pub file: String,
    /// SHA-256 of the artifact.
    pub digest: Digest,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    pub forwards: Vec<TensorInfo>,
    pub weights_bytes: u64,
    /// Compute time that the plan expects, in ms on the machine that cut the network.
    pub predicted_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<usize>,
    /// Names of the nodes that a cluster's plan puts it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    /// Codec of its outgoing hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<CodecChoice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanRef {
    /// Compute time of the slowest stage, in ms.
    pub bottleneck_ms: f64,
    /// No partition into so many stages has a smaller one.
    pub lower_bound_ms: f64,
}

#[derive(Debug, Error)]
pub enum PipelineError {
    #[error("cannot read {path}: {cause}; --pipeline takes the folder that build-stages wrote", path = path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{path} is malformed: {cause}", path = path.display())]
    Malformed { path: PathBuf, cause: String },
    #[error("{path} has format {got}, this version reads {FORMAT}; update defer-host or build the stages again", path = path.display())]
    Format { path: PathBuf, got: u64 },
}

impl Pipeline {
    /// Reads the `pipeline.json` in `folder`.
    pub fn read(folder: &Path) -> Result<Self, PipelineError> {
        let path = folder.join(FILE);
        let text = std::fs::read(&path).map_err(|cause| PipelineError::Read { path: path.clone(), cause })?;
        let malformed = |cause: String| PipelineError::Malformed { path: path.clone(), cause };
        // The format first: another one may differ in everything else.
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(got) => return Err(PipelineError::Format { path, got }),
            None => return Err(malformed("it has no \"format\"".to_owned())),
        }
        let pipeline: Self = serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
        if pipeline.stages.is_empty() || pipeline.stages.iter().enumerate().any(|(i, stage)| stage.index != i) {
            return Err(malformed("its stages are not numbered from 0".to_owned()));
        }
        // Artifacts lie beside it: a name that leads elsewhere was not written by build-stages.
        match pipeline.stages.iter().find(|stage| Path::new(&stage.file).file_name() != Some(stage.file.as_ref())) {
            Some(stage) => {
                Err(malformed(format!("stage {} lies in \"{}\", outside its folder", stage.index, stage.file)))
            }
            None => Ok(pipeline),
        }
    }

    /// Writes it into `folder`, as a whole or not at all.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let part = folder.join(".pipeline.json.part");
        std::fs::write(&part, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(part, folder.join(FILE))
    }
}
