//! Generations that are made and not in use yet.

use super::deploy::Deployment;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The numbers of those that are being prepared, or are and not in use yet: nobody may take them for left over.
#[derive(Debug, Default)]
pub struct Preparing(Arc<Mutex<BTreeSet<u64>>>);

/// Marks a generation as one that is being prepared, until it is dropped.
#[derive(Debug)]
pub struct Mark {
    of: Preparing,
    number: u64,
}

impl Preparing {
    pub fn mark(&self, number: u64) -> Mark {
        self.lock().insert(number);
        Mark { of: Self(Arc::clone(&self.0)), number }
    }

    pub fn has(&self, number: u64) -> bool {
        self.lock().contains(&number)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.of.lock().remove(&self.number);
    }
}

/// A generation that is prepared; dropped from its nodes again unless it is kept.
#[derive(Debug)]
pub struct Tentative {
    deployment: Option<Arc<Deployment>>,
    runtime: tokio::runtime::Handle,
    _mark: Mark,
}

impl Tentative {
    pub fn new(deployment: &Arc<Deployment>, mark: Mark) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { deployment: Some(Arc::clone(deployment)), runtime, _mark: mark }
    }

    /// It is in use, and its keeper knows it.
    pub fn keep(mut self) {
        self.deployment = None;
    }
}

impl Drop for Tentative {
    fn drop(&mut self) {
        if let Some(deployment) = self.deployment.take() {
            self.runtime.spawn(async move { deployment.remove(Duration::ZERO).await });
        }
    }
}
