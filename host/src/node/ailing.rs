//! What keeps stages of this node from their work although the node lives: told to their dispatcher with each heartbeat.

use super::generation::Generation;
use crate::dispatcher::ailing::{Ailing, Ailment};
use crate::relay::LinkError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Relays of the next stage that a slot cannot reach, and since when.
#[derive(Debug, Default)]
pub struct Unreached(Mutex<BTreeMap<String, Instant>>);

impl Unreached {
    /// There is a link to `relay`.
    pub fn reached(&self, relay: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(relay);
    }

    /// There is none. A relay that answers and refuses is within reach: it may still load its stage.
    pub fn failed(&self, relay: &str, error: &LinkError) {
        if matches!(error, LinkError::Refused { .. } | LinkError::Token { .. }) {
            return self.reached(relay);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(relay.to_owned()).or_insert_with(Instant::now);
    }

    fn all(&self) -> BTreeMap<String, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What ails the stages of `generations`.
pub fn ailing(generations: &[Arc<Generation>]) -> Vec<Ailing> {
    let mut found = Vec::new();
    for generation in generations {
        for (&index, slot) in &generation.slots {
            let mut add = |since: Instant, ailment| {
                let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                let pipeline = generation.pipeline.clone();
                found.push(Ailing { pipeline, generation: generation.number, index, ms, ailment });
            };
            if let Some((cause, since)) = slot.health.given_up() {
                add(since, Ailment::Engine { cause });
            }
            slot.counters.unreached.all().into_iter().for_each(|(relay, since)| add(since, Ailment::Link { relay }));
        }
    }
    found
}
