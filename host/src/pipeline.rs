//! `pipeline.json`: what a network was cut into. Written by `build-stages`, read by dispatchers and by people's scripts.

use crate::accuracy::Budget;
use crate::artifact::Digest;
use crate::relay::{Codec, CodecChoice};
use defer_partition::TensorInfo;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// How far answers may be from the uncut network's, where lossy codecs are allowed for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<AccuracyRef>,
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
    /// What it costs to take in and decode what the stage needs of a request, in ms on the same machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_ms: Option<f64>,
    /// And to encode and send on what the stage makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encode_ms: Option<f64>,
    /// On how many nodes it runs, if not on one or those in `nodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<usize>,
    /// Names of the nodes that a cluster's plan puts it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    /// Codec of its outgoing hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<CodecChoice>,
    /// Lossy codecs that `auto` may use on its outgoing hop, the most lossy one first. Whichever of them each hop uses, all
    /// hops together keep to the budget in [`Pipeline::accuracy`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lossy: Vec<Codec>,
}

impl StageRef {
    /// On how many nodes it is to run: so many as are named for it, where no number is given.
    fn wanted(&self) -> usize {
        self.replicas.or_else(|| self.nodes.as_ref().map(Vec::len)).unwrap_or(1).max(1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanRef {
    /// Time of the slowest stage, in ms: decoding, computing and encoding. With a cluster, of the slowest stage or link there.
    pub bottleneck_ms: f64,
    /// No partition into so many stages has a smaller one; with a cluster, no plan for it.
    pub lower_bound_ms: f64,
    /// Requests per second that the plan expects of its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_rps: Option<f64>,
    /// What it expects one request to take when there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// What lossy codecs were allowed for, and what they did to the calibration inputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccuracyRef {
    pub budget: Budget,
    /// What it was calibrated with.
    pub calibrated_with: Calibration,
    /// How many inputs that were.
    pub inputs: usize,
    /// Positions of the outputs at which the largest element was compared.
    pub positions: u64,
    /// Errors so many times as large as those measured would keep to the budget, too.
    pub margin: f64,
    /// What the budget speaks of, with the most lossy codec that is allowed on each hop; `null` where it is no number.
    pub measured: Option<f64>,
    /// The same with lossless codecs: cut networks are computed in another order.
    pub lossless: Option<f64>,
}

/// Where calibration inputs came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Calibration {
    /// The catalogue's samples.
    Samples,
    /// Pseudo-random values: what real inputs do to a trained network, they do not show.
    Random,
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
        Self::parse(&text, &path)
    }

    /// Reads `text`, which came from `path`.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, PipelineError> {
        let path = path.to_owned();
        let malformed = |cause: String| PipelineError::Malformed { path: path.clone(), cause };
        // The format first: another one may differ in everything else.
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
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

    /// The same pipeline with lossless codecs only.
    pub fn lossless(mut self) -> Self {
        for stage in &mut self.stages {
            stage.lossy.clear();
            stage.codec = stage.codec.filter(|codec| !matches!(codec, CodecChoice::Fixed(fixed) if fixed.is_lossy()));
        }
        self
    }

    /// On how many nodes each stage is to run: as `told`, by its number, or as is said here.
    pub fn wanted(&self, told: &BTreeMap<usize, usize>) -> Vec<usize> {
        self.stages.iter().map(|stage| told.get(&stage.index).copied().unwrap_or_else(|| stage.wanted())).collect()
    }

    /// Writes it into `folder`, as a whole or not at all.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let part = folder.join(".pipeline.json.part");
        std::fs::write(&part, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(part, folder.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(stage: &serde_json::Value, more: &serde_json::Value) -> serde_json::Value {
        let mut first = json!({
            "index": 0, "file": "stage-0.wasm", "digest": "0".repeat(64), "inputs": [], "outputs": [], "forwards": [],
            "weights_bytes": 1, "predicted_ms": 1.0,
        });
        let mut all = json!({
            "format": 1, "name": "p", "model": {"digest": "", "file": ""}, "inputs": [], "outputs": [],
            "plan": {"bottleneck_ms": 1.0, "lower_bound_ms": 1.0},
        });
        let merge = |into: &mut serde_json::Value, from: &serde_json::Value| {
            into.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
        };
        merge(&mut first, stage);
        merge(&mut all, more);
        all["stages"] = json!([first]);
        all
    }

    #[test]
    fn what_is_allowed_comes_back_as_it_was_written() {
        let accuracy = json!({
            "budget": "max-relative-error=0.01", "calibrated_with": "samples", "inputs": 3, "positions": 40,
            "margin": 2.0, "measured": 0.004, "lossless": 1e-6,
        });
        let lossy = json!({"lossy": ["int8+zstd:relative=1e-2", "f16"], "codec": "auto"});
        for (stage, more) in [(json!({}), json!({})), (lossy, json!({"accuracy": accuracy}))] {
            let written = file(&stage, &more);
            let pipeline: Pipeline = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(&pipeline).unwrap(), written);
        }
    }

    #[test]
    fn fields_of_later_versions_are_ignored() {
        let written = file(&json!({"later": 1}), &json!({"later": [{}]}));
        assert!(serde_json::from_value::<Pipeline>(written).is_ok());
    }

    #[test]
    fn without_lossy_codecs_nothing_is_rounded() {
        for codec in ["f16", "lz4", "auto"] {
            let written = file(&json!({"lossy": ["f16"], "codec": codec}), &json!({}));
            let pipeline = serde_json::from_value::<Pipeline>(written).unwrap().lossless();
            assert!(pipeline.stages[0].lossy.is_empty());
            let kept = pipeline.stages[0].codec.map(|codec| codec.to_string());
            assert_eq!(kept.as_deref(), (codec != "f16").then_some(codec));
        }
    }
}
