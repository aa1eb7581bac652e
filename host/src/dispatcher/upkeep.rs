//! Keeps nodes ready and clean: spares have the stages that they may be asked for, and nobody keeps a generation that nobody
//! needs.

use super::deploy::{self, Placed};
use super::fleet::Member;
use super::generations::Generations;
use super::placement::has;
use futures_util::future::join_all;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Sends the stages of the active generation to nodes that run none, so that they have them when they are needed.
pub async fn provision(generations: Arc<Generations>) {
    /// Between two rounds.
    const PAUSE: Duration = Duration::from_secs(1);
    let mut done: HashSet<(String, Option<u64>, String)> = HashSet::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(active) = generations.active() else { continue };
        let (stages, homes) = (&active.deployment.stages, active.deployment.homes());
        let idle = |node: &&Arc<Member>| !has(&homes, node);
        let spares: Vec<Arc<Member>> = generations.fleet.up().filter(idle).cloned().collect();
        for spare in &spares {
            for stage in stages {
                let digest = stage.assignment.artifact;
                // One that has no room is not asked again and again.
                if spare.is_up() && done.insert((spare.url().to_string(), spare.epoch(), digest.to_string())) {
                    provide(&generations, spare, stage).await;
                }
            }
        }
    }
}

async fn provide(generations: &Generations, spare: &Member, stage: &Placed) {
    let (node, index) = (spare.name(), stage.index);
    match generations.place.artifacts.ship(&spare.client, &stage.assignment.artifact, |_, _| {}).await {
        Ok(()) => tracing::debug!(node, stage = index, "the spare has the stage"),
        Err(error) => {
            tracing::warn!(node, stage = index, error = format!("{error:#}"), "the spare cannot have the stage now");
        }
    }
}

/// Has all nodes drop generations of this dispatcher's lives that it does not know, every few seconds: a node that was away when one
/// was dropped has it still, and goes on computing what it holds.
pub async fn sweep(generations: Arc<Generations>) {
    const PAUSE: Duration = Duration::from_secs(5);
    /// For what earlier lives left, which may still be in work.
    const DRAIN: Duration = Duration::from_secs(10);
    loop {
        tokio::time::sleep(PAUSE).await;
        join_all(generations.fleet.up().map(|node| sweep_one(&generations, node, DRAIN))).await;
    }
}

/// The same on one node, which has `drain` to finish what is in them.
pub async fn sweep_one(generations: &Generations, node: &Member, drain: Duration) {
    let Some(active) = generations.active() else { return };
    let owner = &generations.setup.owner;
    let lives: Vec<u64> = std::iter::once(owner.incarnation).chain(owner.heir_of.iter().copied()).collect();
    let keep = |generation| generations.knows(generation);
    deploy::sweep(&node.client, &active.deployment.pipeline.name, Some(&lives), drain, keep).await;
}
