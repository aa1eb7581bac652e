//! Swaps of one stage: a node holds a candidate, verified and warmed up; a generation with it is made of the active one.

use super::deploy::Progress;
use super::failure;
use super::fleet::Member;
use super::generations::{Before, Generations};
use super::nodes::{Answered, CandidateInfo, Verdict};
use crate::pipeline::Pipeline;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const CONFLICT: u16 = 409;
const UNAVAILABLE: u16 = 503;
/// Before a node that did not hear a verdict is told again.
const AGAIN: Duration = Duration::from_millis(500);

/// Makes a generation of every candidate that is seen, for ever.
pub async fn serve(
    generations: Arc<Generations>,
    mut candidates: mpsc::UnboundedReceiver<(Arc<Member>, CandidateInfo)>,
) {
    while let Some((node, candidate)) = candidates.recv().await {
        if candidate.incarnation != generations.setup.owner.incarnation {
            continue;
        }
        // The node lets it be taken once: what was seen twice fails here.
        if let Err(error) = node.client.settle(candidate.id, &Verdict::Taken).await {
            tracing::debug!(node = node.name(), error = format!("{error:#}"), "a candidate is gone");
            if !error.is::<Answered>() {
                // It may count as taken there.
                let error = "the dispatcher's word that it takes the stage up got lost; try again".to_owned();
                let refused = Verdict::Refused { status: UNAVAILABLE, error };
                tokio::spawn(async move { tell(&node, candidate.id, &refused).await });
            }
            continue;
        }
        tokio::spawn(settle(Arc::clone(&generations), node, candidate));
    }
}

async fn settle(generations: Arc<Generations>, node: Arc<Member>, candidate: CandidateInfo) {
    let CandidateInfo { id, index, digest, .. } = candidate;
    tracing::info!(node = node.name(), stage = index, %digest, "swapping a stage");
    let verdict = switch(&generations, &node, &candidate).await;
    if let Verdict::Refused { error, .. } = &verdict {
        tracing::warn!(node = node.name(), stage = index, error, "the swap was refused");
    }
    tell(&node, id, &verdict).await;
}

/// Tells a node what became of a candidate until it has heard it, knows it, or is another life of it.
async fn tell(node: &Member, id: u64, verdict: &Verdict) {
    let epoch = node.epoch();
    while node.epoch() == epoch {
        let Err(error) = node.client.settle(id, verdict).await else { return };
        let known = error.downcast_ref::<Answered>().map(|answered| answered.status.as_u16());
        let error = format!("{error:#}");
        if matches!(known, Some(404 | CONFLICT)) {
            tracing::debug!(node = node.name(), candidate = id, error, "nobody waits for this verdict any more");
            return;
        }
        tracing::warn!(node = node.name(), candidate = id, error, "a node does not hear what became of its swap");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn switch(generations: &Arc<Generations>, node: &Arc<Member>, candidate: &CandidateInfo) -> Verdict {
    let refused = |status, error: String| Verdict::Refused { status, error };
    let Some(_change) = generations.try_change() else {
        return refused(CONFLICT, "another change of the pipeline is under way; try again when it is done".to_owned());
    };
    if generations.canary().is_some() {
        let error = "a generation is on trial; promote or abort it before a stage is swapped";
        return refused(CONFLICT, error.to_owned());
    }
    let Some(active) = generations.active() else {
        return refused(UNAVAILABLE, "the pipeline is being replaced".to_owned());
    };
    if !active.deployment.nodes_of(candidate.index).any(|home| Arc::ptr_eq(home, node)) {
        let error = format!("stage {} of the active generation is on another node", candidate.index);
        return refused(CONFLICT, error);
    }
    match generations.interruptible(swap(generations, node, candidate)).await {
        Ok((generation, first_seq)) => Verdict::Switched { generation, first_seq },
        Err(error) => refused(failure::status(&error).as_u16(), format!("{error:#}")),
    }
}

async fn swap(generations: &Arc<Generations>, node: &Arc<Member>, candidate: &CandidateInfo) -> Result<(u64, u64)> {
    let active = generations.active().context("the pipeline is being replaced")?;
    // A copy first: the node that has the only one may be lost next.
    generations.place.artifacts.fetch(&node.client, &candidate.digest).await?;
    let mut pipeline = Pipeline::clone(&active.deployment.pipeline);
    if let Some(stage) = pipeline.stages.get_mut(candidate.index) {
        stage.digest = candidate.digest;
    }
    let progress: Arc<dyn Progress> = Arc::new(());
    let mut homes = active.deployment.homes_up();
    if let Some(home) = homes.get_mut(candidate.index) {
        // It has chosen an engine; its replicas follow it.
        home.sort_by_key(|other| !Arc::ptr_eq(other, node));
    }
    let (next, tentative) = generations.prepare(&Arc::new(pipeline), &homes, &progress).await?;
    let first_seq = generations.commit(&next, Some(tentative), Before::Finishes)?;
    Ok((next.number(), first_seq))
}
