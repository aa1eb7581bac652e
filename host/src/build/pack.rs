//! From a partition to artifacts, and to what `pipeline.json` says of them.

use super::prepare::Prepared;
use super::profile::{self, Figures};
use super::scratch::Scratch;
use super::shapes::Trace;
use super::{BuildError, Phase, Progress, write};
use crate::artifact::{self, Manifest};
use crate::pipeline::{self, ModelRef, Pipeline, PlanRef, StageRef};
use defer_partition::cut::Stage;
use defer_partition::plan::Placement;
use defer_partition::{Partition, TensorInfo, slice};

/// Writes the artifacts into `scratch`, and says what the pipeline is.
pub(super) fn pack(
    prepared: &Prepared,
    partition: &Partition,
    trace: &Trace,
    figures: &Figures,
    placement: Option<&Placement>,
    scratch: &Scratch,
    progress: &dyn Progress,
) -> Result<Pipeline, BuildError> {
    let network = &prepared.network;
    progress.phase(Phase::Writing, partition.stages.len());
    let mut stages = Vec::with_capacity(partition.stages.len());
    for (stage, times) in partition.stages.iter().zip(&figures.stages) {
        let mut slice = slice::slice(network, stage, &|tensor| profile::describe(network, trace, tensor))?;
        trace.batch.name(network.inputs(), &mut slice);
        let mut manifest = manifest(prepared, stage, partition.stages.len(), trace)?;
        manifest.activation_peak_bytes = figures.activation_peaks.get(stage.index).copied();
        let Manifest { inputs, outputs, forwards, .. } = manifest.clone();
        let digest = write::stage(scratch, manifest, &slice)?;
        let placed = placement.and_then(|placement| placement.stages.get(stage.index));
        let codec = placed.and_then(|placed| placed.codec_out.as_deref());
        let codec = codec.map(|name| name.parse().expect("plans choose among codecs that were measured"));
        stages.push(StageRef {
            index: stage.index,
            file: write::file_name(stage.index),
            digest,
            inputs,
            outputs,
            forwards,
            weights_bytes: slice.weights_len,
            predicted_ms: times.compute_ms,
            decode_ms: Some(times.decode_ms),
            encode_ms: Some(times.encode_ms),
            replicas: None,
            nodes: placed.map(|placed| placed.nodes.clone()),
            codec,
            lossy: Vec::new(),
        });
        progress.step();
    }
    Ok(Pipeline {
        format: pipeline::FORMAT,
        name: prepared.name.clone(),
        model: ModelRef { digest: prepared.digest.to_string(), file: prepared.file.display().to_string() },
        inputs: network.inputs().iter().map(|input| input.info()).collect(),
        outputs: infos(network.outputs(), trace, partition.stages.len() - 1)?,
        stages,
        plan: plan(figures, placement),
        accuracy: None,
    })
}

fn plan(figures: &Figures, placement: Option<&Placement>) -> PlanRef {
    match placement {
        Some(placement) => PlanRef {
            bottleneck_ms: placement.bottleneck_ms,
            lower_bound_ms: placement.lower_bound_ms,
            throughput_rps: placement.throughput_rps,
            latency_ms: Some(placement.latency_ms),
        },
        None => figures.plan(),
    }
}

fn manifest(prepared: &Prepared, stage: &Stage, count: usize, trace: &Trace) -> Result<Manifest, BuildError> {
    let shape = |name: &String| trace.tensors.get(name).map(|tensor| tensor.shape.clone()).unwrap_or_default();
    Ok(Manifest {
        format: artifact::FORMAT,
        pipeline: prepared.name.clone(),
        index: stage.index,
        count,
        inputs: infos(&stage.inputs, trace, stage.index)?,
        outputs: infos(&stage.outputs, trace, stage.index)?,
        forwards: infos(&stage.forwards, trace, stage.index)?,
        model_digest: prepared.digest.to_string(),
        warm_up: stage.inputs.iter().map(shape).collect(),
        graph_bytes: 0,
        weights_bytes: 0,
        activation_peak_bytes: None,
    })
}

/// What the runs have shown of `names`.
fn infos(names: &[String], trace: &Trace, stage: usize) -> Result<Vec<TensorInfo>, BuildError> {
    let info = |name: &String| {
        let undescribed = || slice::SliceError::Undescribed { tensor: name.clone(), stage };
        Ok(trace.infos.get(name).cloned().ok_or_else(undescribed)?)
    };
    names.iter().map(info).collect()
}
