//! Artifacts that must stay in the store although no generation runs them yet: those of generations that are about to start.

use crate::artifact::Digest;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Arc<Mutex<Vec<Digest>>>);

/// Keeps artifacts wanted until it is dropped.
pub(super) struct Hold {
    wanted: Wanted,
    artifacts: Vec<Digest>,
}

impl Wanted {
    pub fn hold(&self, artifacts: impl Iterator<Item = Digest>) -> Hold {
        let artifacts: Vec<Digest> = artifacts.collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(&artifacts);
        Hold { wanted: self.clone(), artifacts }
    }

    pub fn all(&self) -> Vec<Digest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut all = self.wanted.0.lock().unwrap_or_else(PoisonError::into_inner);
        for artifact in &self.artifacts {
            if let Some(at) = all.iter().position(|other| other == artifact) {
                all.swap_remove(at);
            }
        }
    }
}
