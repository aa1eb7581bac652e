//! One engine for all replicas of a stage. Which one computes shows in the last bits of an answer, so where nodes choose
//! theirs by measuring, the first node of a stage chooses, and the others follow.

use super::deploy::{Deployment, Part};
use super::fleet::Member;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Whether it is up to the node which engine a stage runs on.
fn chooses(node: &Member) -> bool {
    node.info().is_some_and(|info| info.engines.iter().filter(|engine| engine.chosen).count() > 1)
}

/// Has nodes load after the first nodes of their stages.
pub(super) struct Turns {
    /// By part: cancelled when it has loaded its stages, or cannot.
    over: Vec<CancellationToken>,
}

impl Turns {
    pub fn of(parts: &[Part<'_>]) -> Self {
        Self { over: parts.iter().map(|_| CancellationToken::new()).collect() }
    }

    /// Comes when it is the turn of part `at`, which lasts until what this gives is dropped.
    pub async fn begin(&self, parts: &[Part<'_>], at: usize) -> DropGuard {
        if chooses(parts[at].node) {
            for stage in &parts[at].stages {
                // Those before it only: no two wait for each other.
                if let Some(first) = parts[..at].iter().position(|part| part.has(stage.index)) {
                    self.over[first].cancelled().await;
                }
            }
        }
        self.over[at].clone().drop_guard()
    }

    /// Whether part `at` has had its turn.
    pub fn is_over(&self, at: usize) -> bool {
        self.over[at].is_cancelled()
    }
}

/// The engines that the stages of `part` run on as replicas elsewhere, if its node is to go by that.
pub(super) async fn elsewhere(deployment: &Deployment, part: &Part<'_>) -> BTreeMap<usize, String> {
    let mut engines = BTreeMap::new();
    if !chooses(part.node) {
        return engines;
    }
    for stage in &part.stages {
        let others = deployment.nodes_of(stage.index).filter(|node| !Arc::ptr_eq(node, part.node) && node.is_up());
        for node in others {
            let slots = node.client.slots().await.unwrap_or_default();
            let same = slots.into_iter().find(|slot| slot.digest == Some(stage.assignment.artifact));
            if let Some(engine) = same.and_then(|slot| slot.engine) {
                engines.insert(stage.index, engine);
                break;
            }
        }
    }
    engines
}
