//! Which artifact each slot ran before the present one, on disk, so that a swap can be taken back.

use crate::artifact::Digest;
use crate::durable;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Slots that are remembered at most: the first to go are those of pipelines that come first by name.
const SLOTS: usize = 1024;

#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    before: Mutex<BTreeMap<String, BTreeMap<usize, Digest>>>,
}

impl History {
    /// Opens the history; one that cannot be read is an empty one.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("previous.json");
        let before = match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot tell which stages ran before");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, before: Mutex::new(before) }
    }

    fn before(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<usize, Digest>>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of(&self, pipeline: &str, index: usize) -> Option<Digest> {
        self.before().get(pipeline)?.get(&index).copied()
    }

    /// Notes what a slot ran until now.
    pub fn note(&self, pipeline: &str, index: usize, digest: Digest) {
        let mut before = self.before();
        if before.entry(pipeline.to_owned()).or_default().insert(index, digest) == Some(digest) {
            return;
        }
        while before.values().map(BTreeMap::len).sum::<usize>() > SLOTS && before.len() > 1 {
            before.pop_first();
        }
        if let Err(error) = durable::write(&self.path, &*before) {
            tracing::warn!(path = %self.path.display(), %error, "cannot note which stage ran before");
        }
    }
}
