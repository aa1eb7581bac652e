//! Nodes that could not take a stage, or keep it, and are left alone with it for a while.

use super::failure::PartFailed;
use super::fleet::Member;
use super::placement::Homes;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For how long; twice as long each further time, up to so many times.
const UNFIT: Duration = Duration::from_secs(10);
const DOUBLINGS: u32 = 6;

#[derive(Default)]
pub struct Unfit(HashMap<(usize, String), (Instant, u32)>);

impl Unfit {
    pub fn has(&self, index: usize, node: &Member) -> bool {
        let found = self.0.get(&(index, node.url().to_string()));
        found.is_some_and(|(since, times)| since.elapsed() < UNFIT * 2u32.pow(times.min(&DOUBLINGS) - 1))
    }

    pub fn add(&mut self, index: usize, node: &Member) {
        let (since, times) = self.0.entry((index, node.url().to_string())).or_insert((Instant::now(), 0));
        *since = Instant::now();
        *times += 1;
    }

    /// Adds the node that `error` names, with the stages that it was to have.
    pub fn add_failed(&mut self, homes: &Homes, error: &anyhow::Error) {
        let Some(failed) = error.downcast_ref::<PartFailed>() else { return };
        for (index, home) in homes.iter().enumerate() {
            home.iter().filter(|node| node.url().as_str() == failed.node).for_each(|node| self.add(index, node));
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
