//! A generation on its nodes: ships the artifacts that are missing, has every node prepare, renews, drops.

use super::artifacts::Artifacts;
use super::engines::{self, Turns};
use super::failure::PartFailed;
use super::fleet::Member;
use super::ledger::Order;
use super::nodes::{Answered, NodeClient, SlotInfo};
use super::placement::Homes;
use crate::node::generation::{Assignment, Hop, Owner, Prepare};
use crate::pipeline::Pipeline;
use crate::relay::codec::Choice;
use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use reqwest::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a node keeps a generation that nobody uses, or a pipeline for a dispatcher it does not hear of.
pub const LEASE: Duration = Duration::from_secs(15);

/// How often the keeper looks whether a node was started anew.
const LOOK: Duration = Duration::from_millis(100);

/// One stage on one of its nodes.
#[derive(Clone, Debug)]
pub struct Placed {
    pub index: usize,
    pub node: Arc<Member>,
    pub assignment: Assignment,
}

/// A generation as it is deployed: an immutable tuple of artifacts, placement and codecs.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub pipeline: Arc<Pipeline>,
    pub generation: u64,
    pub owner: Owner,
    /// Codec of the hop from the dispatcher to the first stage.
    pub codec_in: Choice,
    /// Stage by stage; where one has replicas, each of them.
    pub stages: Vec<Placed>,
}

/// Told of what takes time while deploying.
pub trait Progress: Send + Sync {
    /// `bytes` more of stage `stage`'s artifact, `total` long, went to `node`.
    fn shipped(&self, stage: usize, node: &str, bytes: u64, total: u64);
    /// Stage `stage` is loaded and warmed up on `node`.
    fn prepared(&self, stage: usize, node: &str);
}

/// Nobody is told.
impl Progress for () {
    fn shipped(&self, _stage: usize, _node: &str, _bytes: u64, _total: u64) {}
    fn prepared(&self, _stage: usize, _node: &str) {}
}

/// Generation `generation` of `pipeline`: stage i on each of `homes[i]`. A node may run several stages.
pub fn place(
    pipeline: &Arc<Pipeline>,
    homes: &[Vec<Arc<Member>>],
    generation: u64,
    owner: Owner,
    codec: Option<Choice>,
) -> Deployment {
    let mut stages = Vec::with_capacity(pipeline.stages.len());
    for (index, (stage, home)) in pipeline.stages.iter().zip(homes).enumerate() {
        let next = homes.get(index + 1).filter(|_| index + 1 < pipeline.stages.len());
        let hop = |node: &Arc<Member>| Hop { relay: node.relay(), stage: index + 1 };
        let next: Vec<Hop> = next.into_iter().flatten().map(hop).collect();
        let codec = codec.or(stage.codec).unwrap_or(Choice::Auto);
        let assignment = Assignment { index, artifact: stage.digest, next, codec, lossy: stage.lossy.clone() };
        let placed = |node: &Arc<Member>| Placed { index, node: Arc::clone(node), assignment: assignment.clone() };
        stages.extend(home.iter().map(placed));
    }
    Deployment { pipeline: Arc::clone(pipeline), generation, owner, codec_in: codec.unwrap_or(Choice::Auto), stages }
}

/// What one node has to do with a generation.
pub(super) struct Part<'a> {
    pub node: &'a Arc<Member>,
    pub stages: Vec<&'a Placed>,
}

impl Part<'_> {
    pub fn has(&self, index: usize) -> bool {
        self.stages.iter().any(|stage| stage.index == index)
    }

    fn what(&self) -> String {
        let indices: Vec<String> = self.stages.iter().map(|stage| stage.index.to_string()).collect();
        let stages = if indices.len() == 1 { "stage" } else { "stages" };
        format!("{stages} {} on node \"{}\"", indices.join(", "), self.node.name())
    }
}

impl Deployment {
    /// The nodes of stage `index`.
    pub fn nodes_of(&self, index: usize) -> impl Iterator<Item = &Arc<Member>> {
        self.stages.iter().filter(move |stage| stage.index == index).map(|stage| &stage.node)
    }

    /// The nodes of each stage.
    pub fn homes(&self) -> Homes {
        (0..self.pipeline.stages.len()).map(|index| self.nodes_of(index).cloned().collect()).collect()
    }

    /// Those that answer. A stage with none is lost.
    pub fn homes_up(&self) -> Homes {
        let mut homes = self.homes();
        homes.iter_mut().for_each(|home| home.retain(|node| node.is_up()));
        homes
    }

    /// How frames come out of its chain.
    pub fn order(&self) -> Order {
        if self.stages.len() > self.pipeline.stages.len() { Order::Free } else { Order::Kept }
    }

    /// Each node once, with all its stages.
    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts: Vec<Part<'_>> = Vec::new();
        for stage in &self.stages {
            match parts.iter_mut().find(|part| Arc::ptr_eq(part.node, &stage.node)) {
                Some(part) => part.stages.push(stage),
                None => parts.push(Part { node: &stage.node, stages: vec![stage] }),
            }
        }
        parts
    }

    /// Ships what is missing and prepares every stage. Where one node cannot, the others drop theirs again.
    pub async fn prepare(&self, artifacts: &Artifacts, progress: &Arc<dyn Progress>) -> Result<()> {
        let failed = CancellationToken::new();
        let parts = self.parts();
        let turns = Turns::of(&parts);
        let (parts, turns, failed) = (&parts, &turns, &failed);
        let all = (0..parts.len()).map(|at| async move {
            let part = &parts[at];
            let turn = turns.begin(parts, at);
            let result = self.ship_and_prepare(part, artifacts, progress, failed, turn).await;
            if result.is_err() {
                failed.cancel();
            }
            result.with_context(|| PartFailed { what: part.what(), node: part.node.url().to_string() })
        });
        let results = tokio::select! {
            results = join_all(all) => results,
            () = self.renew(parts, turns, failed) => Vec::new(),
        };
        let result = results.into_iter().collect();
        if failed.is_cancelled() {
            self.remove(Duration::ZERO).await;
        }
        result
    }

    /// Renews the leases of those parts whose turn is over while others take their time, for ever, but nothing once one has
    /// failed.
    async fn renew(&self, parts: &[Part<'_>], turns: &Turns, failed: &CancellationToken) {
        loop {
            tokio::time::sleep(LEASE / 3).await;
            let ready = parts.iter().enumerate().filter(|(at, _)| turns.is_over(*at) && !failed.is_cancelled());
            // What cannot be renewed shows when its links are opened.
            join_all(ready.map(|(_, part)| self.prepare_part(part, BTreeMap::new()))).await;
        }
    }

    /// Where another node has failed, an upload is broken off. A node that loads is waited for: what it has not
    /// finished it could not be told to drop, and would then keep for a lease.
    async fn ship_and_prepare(
        &self,
        part: &Part<'_>,
        artifacts: &Artifacts,
        progress: &Arc<dyn Progress>,
        failed: &CancellationToken,
        turn: impl Future<Output = DropGuard>,
    ) -> Result<()> {
        let turn = async {
            for stage in &part.stages {
                self.ship(stage, artifacts, progress).await?;
            }
            Ok::<_, anyhow::Error>(turn.await)
        };
        let Some(turn) = failed.run_until_cancelled(turn).await.transpose()? else { return Ok(()) };
        self.prepare_part(part, engines::elsewhere(self, part).await).await?;
        drop(turn);
        let name = part.node.name();
        part.stages.iter().for_each(|stage| progress.prepared(stage.index, &name));
        Ok(())
    }

    async fn ship(&self, stage: &Placed, artifacts: &Artifacts, progress: &Arc<dyn Progress>) -> Result<()> {
        let (progress, index, node) = (Arc::clone(progress), stage.index, stage.node.name());
        let sent = move |bytes, total| progress.shipped(index, &node, bytes, total);
        artifacts.ship(&stage.node.client, &stage.assignment.artifact, sent).await
    }

    /// Has a node load and start its stages, with what is known of `engines`, or renews its lease.
    async fn prepare_part(&self, part: &Part<'_>, engines: BTreeMap<usize, String>) -> Result<()> {
        let lease_ms = u64::try_from(LEASE.as_millis()).expect("a lease is seconds");
        let stages = part.stages.iter().map(|stage| stage.assignment.clone()).collect();
        let body = Prepare { dispatcher: self.owner.clone(), lease_ms, stages, engines };
        part.node.client.prepare(&self.pipeline.name, self.generation, &body).await
    }

    /// Renews the lease on every node, for ever. A node that came back without its stages gets them again.
    pub async fn keep(&self, artifacts: &Artifacts, progress: Arc<dyn Progress>) {
        join_all(self.parts().iter().map(|part| self.keep_one(part, artifacts, &progress))).await;
    }

    async fn keep_one(&self, part: &Part<'_>, artifacts: &Artifacts, progress: &Arc<dyn Progress>) {
        loop {
            let (renewed, epoch) = (Instant::now(), part.node.epoch());
            while renewed.elapsed() < LEASE / 3 && part.node.epoch() == epoch {
                tokio::time::sleep(LOOK).await;
            }
            let mut renewed = self.prepare_part(part, BTreeMap::new()).await;
            if renewed.is_err() {
                renewed = async {
                    for stage in &part.stages {
                        self.ship(stage, artifacts, progress).await?;
                    }
                    self.prepare_part(part, engines::elsewhere(self, part).await).await
                }
                .await;
            }
            if let Err(error) = renewed {
                let error = format!("{error:#}");
                let (generation, what) = (self.generation, part.what());
                // A node that is gone has been spoken of.
                match part.node.is_up() {
                    true => tracing::warn!(generation, what, error, "cannot renew the lease"),
                    false => tracing::debug!(generation, what, error, "cannot renew the lease"),
                }
            }
        }
    }

    /// Drops this generation from all its nodes, as far as they answer and it is ours there, giving them at most `drain`
    /// to finish what is in it.
    pub async fn remove(&self, drain: Duration) {
        let owner = Some(self.owner.incarnation);
        let parts = self.parts();
        join_all(parts.iter().filter(|part| part.node.is_up()).map(|part| async move {
            let removed = part.node.client.remove(&self.pipeline.name, self.generation, owner, drain).await;
            if let Err(error) = removed {
                let error = format!("{error:#}");
                tracing::debug!(what = part.what(), error, "a generation was not there to drop");
            }
        }))
        .await;
    }
}

/// Drops from a node what generations of `owners`, or of anybody, left of `pipeline` there; those that `keep` says stay.
pub async fn sweep(
    node: &NodeClient,
    pipeline: &str,
    owners: Option<&[u64]>,
    drain: Duration,
    keep: impl Fn(u64) -> bool,
) {
    let slots = node.slots().await.unwrap_or_default();
    let theirs = |slot: &&SlotInfo| {
        owners.is_none_or(|owners| slot.incarnation.is_some_and(|incarnation| owners.contains(&incarnation)))
    };
    let old = slots.iter().filter(|slot| slot.pipeline == pipeline && !keep(slot.generation)).filter(theirs);
    let old: BTreeSet<(u64, Option<u64>)> = old.map(|slot| (slot.generation, slot.incarnation)).collect();
    for (generation, owner) in old {
        if let Err(error) = node.remove(pipeline, generation, owner, drain).await {
            let is_gone =
                error.downcast_ref::<Answered>().is_some_and(|answered| answered.status == StatusCode::NOT_FOUND);
            let error = format!("{error:#}");
            // Somebody else may have dropped it meanwhile.
            match is_gone {
                true => tracing::debug!(node = %node.url, generation, error, "an old generation is gone"),
                false => tracing::warn!(node = %node.url, generation, error, "an old generation stays"),
            }
        }
    }
}
