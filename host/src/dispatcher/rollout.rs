//! Whole pipelines that take the place of the one that runs: other weights, other cuts, another number of stages.

use super::deploy::Progress;
use super::failure;
use super::fleet::Member;
use super::generations::{Before, Generations, Trouble};
use super::placement::{self, Homes};
use super::running::Running;
use super::tentative::Tentative;
use super::unfit::Unfit;
use crate::pipeline::Pipeline;
use anyhow::{Context as _, Result, anyhow};
use axum::http::StatusCode;
use defer_partition::TensorInfo;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;

/// Attempts to have the old pipeline back, where the new one could not take its place after it was stopped, before the client
/// is told; they go on after that.
const RETURNS: u32 = 6;
const BREATH: Duration = Duration::from_millis(500);

/// How to go over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// All requests at once, when the new one is ready.
    Switch,
    /// This part of the requests, until it is promoted or aborted.
    Canary(f64),
    /// The old one is dropped before the new one is loaded, for nodes that have no room for both.
    StopFirst,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct RolledOut {
    pub generation: u64,
    pub state: &'static str,
    /// The first request that may be the new generation's.
    pub first_seq: u64,
    /// The generation that was active before.
    pub previous_generation: Option<u64>,
}

#[derive(Debug, Error)]
pub enum RolloutError {
    #[error("this dispatcher serves pipeline \"{served}\", not \"{asked}\"")]
    Unknown { served: String, asked: String },
    #[error("another change of the pipeline is under way; try again when it is done")]
    Busy,
    #[error("generation {0} is on trial; promote or abort it first")]
    OnTrial(u64),
    #[error("no generation is on trial")]
    NoTrial,
    #[error("the pipeline cannot take the place of the running one: {0}")]
    Unfit(String),
    #[error("stage {index} is artifact {digest}, which is not here; upload it first")]
    Missing { index: usize, digest: String },
    #[error("nothing has changed: {0:#}")]
    Failed(anyhow::Error),
    #[error("the new pipeline could not be loaded, and the old one is back: {0:#}")]
    Returned(anyhow::Error),
    #[error("the new pipeline could not be loaded, and neither can the old one, which is tried again and again: {0:#}")]
    Down(anyhow::Error),
}

impl RolloutError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unknown { .. } => StatusCode::NOT_FOUND,
            Self::Busy | Self::OnTrial(_) | Self::NoTrial => StatusCode::CONFLICT,
            Self::Down(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unfit(_) | Self::Missing { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed(cause) | Self::Returned(cause) => failure::status(cause),
        }
    }
}

/// Has `pipeline` take the place of the one that runs.
pub async fn deploy(generations: &Arc<Generations>, pipeline: Pipeline, way: Way) -> Result<RolledOut, RolloutError> {
    let stranded = generations.stranded();
    let _change = match generations.returning.load(Ordering::Relaxed) {
        // Attempts to bring back the one that ran must not keep out one that can run.
        true => generations.change_now().await,
        false => generations.try_change().ok_or(RolloutError::Busy)?,
    };
    if let Some((canary, _)) = generations.canary() {
        return Err(RolloutError::OnTrial(canary.number()));
    }
    if matches!(way, Way::Canary(_)) && generations.active().is_none() {
        let cause = "nothing runs that requests could be shared with; deploy it without --canary".to_owned();
        return Err(RolloutError::Unfit(cause));
    }
    let active = generations.active().or_else(|| stranded.clone()).ok_or(RolloutError::Busy)?;
    let pipeline = Arc::new(generations.setup.rounding.of(pipeline));
    check(generations, &active, &pipeline).await?;
    let nodes = homes(generations, &active, &pipeline)?;
    let progress: Arc<dyn Progress> = Arc::new(());
    let previous_generation = Some(active.number());
    match way {
        Way::StopFirst => return stop_first(generations, &active, &pipeline, &nodes).await,
        Way::Switch | Way::Canary(_) => {}
    }
    let prepared = generations.interruptible(generations.prepare(&pipeline, &nodes, &progress)).await;
    let (next, tentative) = prepared.map_err(RolloutError::Failed)?;
    let generation = next.number();
    if let Way::Canary(share) = way {
        let first_seq = generations.try_out(&next, tentative, share);
        return Ok(RolledOut { generation, state: "canary", first_seq, previous_generation });
    }
    let first_seq = generations.commit(&next, Some(tentative), Before::Finishes).map_err(RolloutError::Failed)?;
    if let Some(old) = stranded {
        recommence(generations, old);
    }
    Ok(RolledOut { generation, state: "active", first_seq, previous_generation })
}

/// Makes the generation on trial the active one.
pub fn promote(generations: &Arc<Generations>) -> Result<RolledOut, RolloutError> {
    let _change = generations.try_change().ok_or(RolloutError::Busy)?;
    let (canary, _) = generations.canary().ok_or(RolloutError::NoTrial)?;
    let previous_generation = generations.active().map(|active| active.number());
    let first_seq = generations.commit(&canary, None, Before::Finishes).map_err(RolloutError::Failed)?;
    Ok(RolledOut { generation: canary.number(), state: "active", first_seq, previous_generation })
}

/// Ends the trial; gives the generation that stays.
pub fn abort(generations: &Arc<Generations>) -> Result<u64, RolloutError> {
    let _change = generations.try_change().ok_or(RolloutError::Busy)?;
    generations.abort(Before::Finishes).ok_or(RolloutError::NoTrial)?;
    Ok(generations.active().map_or(0, |active| active.number()))
}

async fn check(generations: &Generations, active: &Running, new: &Pipeline) -> Result<(), RolloutError> {
    let old = &active.deployment.pipeline;
    if new.name != old.name {
        return Err(RolloutError::Unknown { served: old.name.clone(), asked: new.name.clone() });
    }
    for (what, old, new) in [("inputs", &old.inputs, &new.inputs), ("outputs", &old.outputs, &new.outputs)] {
        if sorted(old) != sorted(new) {
            let cause =
                format!("its {what} are others; clients of \"{}\" would not fit", active.deployment.pipeline.name);
            return Err(RolloutError::Unfit(cause));
        }
    }
    for stage in &new.stages {
        if generations.place.artifacts.find(&stage.digest).await.is_none() {
            return Err(RolloutError::Missing { index: stage.index, digest: stage.digest.to_string() });
        }
    }
    Ok(())
}

fn sorted(infos: &[TensorInfo]) -> Vec<&TensorInfo> {
    let mut infos: Vec<&TensorInfo> = infos.iter().collect();
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    infos
}

/// Nodes for the stages of `pipeline`: first those that run stages now, in their order.
fn homes(generations: &Generations, active: &Running, pipeline: &Pipeline) -> Result<Homes, RolloutError> {
    let homes =
        placement::fill(&generations.setup.wanted(pipeline), &active.deployment.homes_up(), generations.fleet.up());
    let empty = homes.iter().filter(|home| home.is_empty()).count();
    if empty > 0 {
        let (stages, nodes) = (homes.len(), homes.len() - empty);
        let cause = format!("it has {stages} stages, and {nodes} nodes answer (dispatch --node and --spare)");
        return Err(RolloutError::Unfit(cause));
    }
    Ok(homes)
}

async fn stop_first(
    generations: &Arc<Generations>,
    active: &Arc<Running>,
    pipeline: &Arc<Pipeline>,
    nodes: &Homes,
) -> Result<RolledOut, RolloutError> {
    let old = &active.deployment;
    generations.stop_active().await;
    let previous_generation = Some(active.number());
    let error = match start(generations, active, pipeline, nodes).await {
        Ok((generation, first_seq)) => {
            return Ok(RolledOut { generation, state: "active", first_seq, previous_generation });
        }
        Err(error) => error,
    };
    let mut last = None;
    for _ in 0..RETURNS {
        match start(generations, active, &old.pipeline, &old.homes_up()).await {
            Ok(_) => return Err(RolloutError::Returned(error)),
            Err(again) => last = Some(again),
        }
        tokio::time::sleep(BREATH).await;
    }
    generations.trouble.send_replace(stuck(&last.unwrap_or_else(|| anyhow!("it was not tried"))));
    generations.strand(Some(Arc::clone(active)));
    Err(RolloutError::Down(error))
}

fn stuck(cause: &anyhow::Error) -> Trouble {
    Trouble::Stuck(format!("neither the new pipeline nor the old one can be loaded, which is tried on: {cause:#}"))
}

/// Tries once to have the pipeline back that was stopped for one that could not take its place, where that is so. Nodes that
/// refused a stage are left alone for a while, if there are others.
pub async fn bring_back(generations: &Arc<Generations>, unfit: &mut Unfit) {
    let Some(old) = generations.stranded() else { return };
    let error = {
        let Some(_change) = generations.try_change() else { return };
        if generations.active().is_some() {
            return;
        }
        let pipeline = &old.deployment.pipeline;
        let homes = old.deployment.homes_up();
        let fit = |node: &&Arc<Member>| !(0..homes.len()).any(|index| unfit.has(index, node));
        let mut up: Vec<_> = generations.fleet.up().filter(fit).cloned().collect();
        if up.len() < homes.len() {
            up = generations.fleet.up().cloned().collect();
        }
        let mut now = homes.clone();
        now.iter_mut().for_each(|home| home.retain(|node| up.iter().any(|up| Arc::ptr_eq(up, node))));
        let Some(homes) = placement::fill_or_share(&generations.setup.wanted(pipeline), &now, &up) else {
            generations.trouble.send_replace(stuck(&anyhow!("no node answers")));
            return;
        };
        generations.returning.store(true, Ordering::Relaxed);
        let prepared = generations.interruptible(generations.prepare_on_living(pipeline, &homes)).await;
        generations.returning.store(false, Ordering::Relaxed);
        match prepared.and_then(|(next, tentative)| go_over(generations, &old, &next, tentative)) {
            Ok((generation, _)) => return tracing::warn!(generation, "the old pipeline is back"),
            Err(error) => {
                unfit.add_failed(&homes, &error);
                error
            }
        }
    };
    generations.trouble.send_replace(stuck(&error));
    tokio::time::sleep(BREATH).await;
}

/// Prepares and commits, where nothing is active; what was pending in `old` starts again.
async fn start(
    generations: &Arc<Generations>,
    old: &Arc<Running>,
    pipeline: &Arc<Pipeline>,
    nodes: &Homes,
) -> Result<(u64, u64)> {
    let progress: Arc<dyn Progress> = Arc::new(());
    let (next, tentative) = generations.prepare(pipeline, nodes, &progress).await?;
    go_over(generations, old, &next, tentative)
}

/// Makes `next` the active generation, where none is; gives its number and its first request's.
fn go_over(
    generations: &Arc<Generations>,
    old: &Arc<Running>,
    next: &Arc<Running>,
    tentative: Tentative,
) -> Result<(u64, u64)> {
    let first_seq = generations.commit(next, Some(tentative), Before::Finishes).context("cannot go over")?;
    recommence(generations, Arc::clone(old));
    Ok((next.number(), first_seq))
}

/// What was pending in `old`, which had been stopped, starts again in what is active now: beside what follows, since the chain
/// takes one after the other, and may have to be mended for that.
fn recommence(generations: &Arc<Generations>, old: Arc<Running>) {
    generations.strand(None);
    let generations = Arc::clone(generations);
    tokio::spawn(async move { generations.restart(&old).await });
}
