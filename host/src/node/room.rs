//! What stages need of the memory that `--memory-limit` allows, and what there is left of it.

use super::loaded::Loaded;
use super::refusal::PrepareError;
use crate::artifact::{Artifact, Manifest};
use crate::engine::{Engine, EngineError};
use crate::telemetry::Memory;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// Bytes that a stage needs. What plans count for it is the same: one request at a time, without frames that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub weights: u64,
    pub activations: u64,
}

impl Need {
    pub fn of(manifest: &Manifest) -> Self {
        Self { weights: manifest.weights_bytes, activations: manifest.activation_bytes() }
    }

    pub fn total(self) -> u64 {
        self.weights.saturating_add(self.activations)
    }
}

/// What this process takes without stages.
#[derive(Default)]
pub struct Runtime(OnceCell<u64>);

impl Runtime {
    /// Opens the engine, and measures, once, how many bytes are resident then: before the first stage is loaded, or the
    /// node's speed is measured.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where the engine does not open; the next call tries again.
    pub async fn measure(&self, engine: &Arc<dyn Engine>) -> Result<u64, EngineError> {
        let engine = Arc::clone(engine);
        let work = move || engine.open().map(|()| Memory::now().resident_bytes);
        let measured = self.0.get_or_try_init(|| async {
            let measured = tokio::task::spawn_blocking(work).await;
            measured.unwrap_or_else(|error| Err(EngineError::Unavailable(error.to_string())))
        });
        measured.await.copied()
    }

    /// What was measured.
    pub fn bytes(&self) -> Option<u64> {
        self.0.get().copied()
    }
}

/// What is taken of a node's limit already, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// By the process itself, without stages.
    pub runtime: u64,
    /// By what loaded stages need.
    pub stages: u64,
    /// By second versions of their weights. They are an extra: they keep no stage out, but further ones of their kind.
    pub extra: u64,
}

impl Taken {
    pub fn by(runtime: u64, loads: &[Arc<Loaded>]) -> Self {
        let needs = loads.iter().map(|loaded| Need::of(&loaded.artifact.manifest).total());
        let extra = loads.iter().map(|loaded| loaded.prepacked_bytes());
        Self { runtime, stages: needs.fold(0, u64::saturating_add), extra: extra.fold(0, u64::saturating_add) }
    }

    /// What `limit` leaves for the weights of stage `index`, twice of which a second version of them would take.
    ///
    /// # Errors
    /// [`PrepareError::Memory`] if the stage does not fit.
    pub fn room(self, index: usize, need: Need, limit: u64) -> Result<u64, PrepareError> {
        let Self { runtime, stages, extra } = self;
        let left = limit.saturating_sub(runtime).saturating_sub(stages);
        if need.total() > left {
            let Need { weights, activations } = need;
            return Err(PrepareError::Memory { index, weights, activations, loaded: stages, runtime, limit });
        }
        Ok(left.saturating_sub(need.activations).saturating_sub(extra))
    }
}

/// What `limit` leaves for the weights of stage `index`, the artifact at `path`; `None` where there is no limit. A stage that
/// does not fit is refused before anything of it is loaded. `taken` gives what is taken, and whether some of that is of dropped
/// generations, whose threads are about to let go of it: that is waited for.
pub async fn room_for(
    index: usize,
    path: &Path,
    limit: Option<u64>,
    taken: impl Fn() -> (Taken, bool),
) -> Result<Option<u64>, PrepareError> {
    /// For how long, since an engine may keep a thread for ever, and how often it is looked at.
    const LEAVING: Duration = Duration::from_secs(2);
    const LOOK: Duration = Duration::from_millis(20);
    let Some(limit) = limit else { return Ok(None) };
    let artifact = Artifact::open(path).map_err(|error| PrepareError::Load { index, source: error.into() })?;
    let need = Need::of(&artifact.manifest);
    let until = Instant::now() + LEAVING;
    loop {
        let (taken, is_leaving) = taken();
        match taken.room(index, need, limit) {
            Err(_) if is_leaving && Instant::now() < until => tokio::time::sleep(LOOK).await,
            room => return room.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Need, Taken};

    #[test]
    fn weights_activations_other_stages_and_the_node_itself_count() {
        let need = Need { weights: 100, activations: 20 };
        let taken = |runtime, stages, extra| Taken { runtime, stages, extra };
        for (taken, limit, want) in [
            (taken(0, 0, 0), 120, Some(100)),
            (taken(0, 0, 0), 119, None),
            (taken(30, 50, 0), 200, Some(100)),
            (taken(30, 50, 0), 199, None),
            (taken(300, 0, 0), 200, None),
            // A second version of other weights keeps no stage out.
            (taken(30, 50, 90), 200, Some(10)),
            (taken(30, 50, 900), 200, Some(0)),
            (taken(u64::MAX, u64::MAX, 0), u64::MAX, None),
        ] {
            assert_eq!(taken.room(0, need, limit).ok(), want, "{taken:?} {limit}");
        }
        let endless = Need { weights: u64::MAX, activations: 1 };
        let refusal = taken(30, 50, 0).room(4, endless, 200).expect_err("more than there is");
        assert_eq!(
            refusal.to_string(),
            "stage 4 needs 18446744073709551615 bytes of weights and 1 of activations, loaded stages need 50, the node \
             itself takes 30, and 200 is the limit (serve --memory-limit)"
        );
    }
}
