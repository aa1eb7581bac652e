//! Swaps of one stage while its pipeline runs: the new artifact is verified, loaded and warmed up beside the old one, and
//! becomes part of another generation; whatever is wrong with it, the old one goes on.

use super::candidates::{Outcome, Turn};
use super::generation::{Assignment, Generation, State};
use super::loaded::Loaded;
use super::notes::Noted;
use super::refusal::PrepareError;
use super::store::StoreError;
use super::table::Node;
use super::wanted::Hold;
use crate::artifact::{Artifact, ArtifactError, Digest, Manifest};
use crate::dispatcher::nodes::{CandidateInfo, Verdict};
use axum::body::Body;
use defer_partition::TensorInfo;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long a dispatcher that is alive may take to take a candidate up.
const PICK_UP: Duration = Duration::from_secs(10);
/// How long the generation before may finish what is in it, where no dispatcher says when it is done.
const DRAIN: Duration = Duration::from_secs(10);

/// A swap that was made.
#[derive(Debug, Serialize)]
pub struct Swapped {
    /// The generation that has the new stage.
    pub generation: u64,
    pub digest: Digest,
    pub previous_digest: Digest,
    /// Time that loading and warming up took.
    pub loaded_ms: f64,
    /// The first request that is the new generation's; 0 where no dispatcher numbers them.
    pub first_seq: u64,
}

/// Why the old stage goes on.
#[derive(Debug, Error)]
pub enum SwapError {
    #[error("stage {index} of pipeline \"{pipeline}\" does not run on this node")]
    NotHere { pipeline: String, index: usize },
    #[error("another stage of pipeline \"{0}\" is being swapped; try again when that is done")]
    Busy(String),
    #[error("the node is shutting down")]
    Draining,
    #[error("the upload was not kept")]
    Store(#[from] StoreError),
    #[error("the upload is no stage")]
    Artifact(#[from] ArtifactError),
    #[error("it does not fit stage {index} of pipeline \"{pipeline}\": {cause}")]
    Unfit { pipeline: String, index: usize, cause: String },
    #[error("it cannot be run")]
    Prepare(#[from] PrepareError),
    #[error("no stage ran before this one, as far as this node knows")]
    NothingBefore,
    #[error("artifact {0}, which ran before, is not in the store any more; swap it in again")]
    Gone(Digest),
    #[error("dispatcher \"{0}\" did not take it up within {limit} s", limit = PICK_UP.as_secs())]
    Ignored(String),
    #[error(
        "dispatcher \"{dispatcher}\" is not heard of, and stage {index} is one of {count}: it alone can swap it in the whole \
         chain; start it again"
    )]
    Deserted { dispatcher: String, index: usize, count: usize },
    #[error(
        "dispatcher \"{0}\" has taken it up and has not said what became of it; GET /v1/stages tells whether it was made"
    )]
    Unknown(String),
    #[error("the dispatcher refused it: {error}")]
    Refused { status: u16, error: String },
}

/// What is being swapped for what.
struct Plan {
    base: Arc<Generation>,
    assignment: Assignment,
    previous: Digest,
    /// Keeps the artifact in the store.
    _hold: Hold,
    _turn: Turn,
}

impl Node {
    /// Swaps stage `index` of `pipeline` for the artifact in `body`.
    pub async fn swap(
        self: &Arc<Self>,
        pipeline: &str,
        index: usize,
        announced: Option<u64>,
        body: &mut Body,
    ) -> Result<Swapped, SwapError> {
        let (base, turn) = self.begin_swap(pipeline, index)?;
        let digest = self.store().put_any(announced, body).await?;
        let plan = self.plan(base, index, digest, turn)?;
        self.finish_swap(plan).await
    }

    /// Swaps stage `index` of `pipeline` for what it ran before.
    pub async fn roll_back(self: &Arc<Self>, pipeline: &str, index: usize) -> Result<Swapped, SwapError> {
        let (base, turn) = self.begin_swap(pipeline, index)?;
        let digest = self.history().of(pipeline, index).ok_or(SwapError::NothingBefore)?;
        let plan = self.plan(base, index, digest, turn)?;
        self.finish_swap(plan).await
    }

    /// The generation to start from, and the right to.
    fn begin_swap(&self, pipeline: &str, index: usize) -> Result<(Arc<Generation>, Turn), SwapError> {
        if self.is_draining() {
            return Err(SwapError::Draining);
        }
        let here = self.generations().into_iter().filter(|generation| {
            generation.pipeline == pipeline
                && generation.state() != State::Draining
                && generation.slots.contains_key(&index)
        });
        let base = here.max_by_key(|generation| generation.number);
        let base = base.ok_or_else(|| SwapError::NotHere { pipeline: pipeline.to_owned(), index })?;
        let turn = self.candidates().begin(pipeline).ok_or_else(|| SwapError::Busy(pipeline.to_owned()))?;
        Ok((base, turn))
    }

    fn plan(&self, base: Arc<Generation>, index: usize, digest: Digest, turn: Turn) -> Result<Plan, SwapError> {
        let hold = self.hold(digest);
        let not_here = || SwapError::NotHere { pipeline: base.pipeline.clone(), index };
        let current = base.prepare.stages.iter().find(|stage| stage.index == index).ok_or_else(not_here)?;
        let assignment = Assignment { artifact: digest, ..current.clone() };
        let previous = current.artifact;
        Ok(Plan { base, assignment, previous, _hold: hold, _turn: turn })
    }

    /// The rest, in a task of its own: a client that hangs up does not leave a half-made swap behind.
    async fn finish_swap(self: &Arc<Self>, plan: Plan) -> Result<Swapped, SwapError> {
        let node = Arc::clone(self);
        let unknown = SwapError::Unknown(plan.base.prepare.dispatcher.name.clone());
        tokio::spawn(async move { node.switch(plan).await }).await.unwrap_or(Err(unknown))
    }

    async fn switch(self: Arc<Self>, plan: Plan) -> Result<Swapped, SwapError> {
        has_dispatcher(&plan).inspect_err(|_| self.evict(None))?;
        let loaded = self.try_candidate(&plan).await.inspect_err(|_| self.evict(None))?;
        let Plan { base, assignment, previous, .. } = &plan;
        // Loading may have taken longer than the lease.
        let (generation, first_seq) = match has_dispatcher(&plan)? {
            true => self.switch_by_dispatcher(base, assignment).await?,
            false => (self.switch_here(base, assignment).await?, 0),
        };
        if *previous != assignment.artifact {
            self.history().note(&base.pipeline, assignment.index, *previous);
        }
        tracing::info!(pipeline = base.pipeline, stage = assignment.index, generation, "stage swapped");
        Ok(Swapped {
            generation,
            digest: assignment.artifact,
            previous_digest: *previous,
            loaded_ms: loaded.load_time.as_secs_f64() * 1e3,
            first_seq,
        })
    }

    /// Checks the new artifact against the slot, loads it, and runs it once.
    async fn try_candidate(&self, plan: &Plan) -> Result<Arc<Loaded>, SwapError> {
        let Plan { base, assignment, .. } = plan;
        let Assignment { index, artifact: digest, .. } = *assignment;
        let store = Arc::clone(self.store());
        let found = tokio::task::spawn_blocking(move || store.find(&digest).map(|path| Artifact::open(&path)));
        let new = found.await.ok().flatten().ok_or(SwapError::Gone(digest))??;
        let slot = base.slots.get(&index);
        let slot = slot.ok_or_else(|| SwapError::NotHere { pipeline: base.pipeline.clone(), index })?;
        if let Some(cause) = misfit(&slot.loaded.artifact.manifest, &new.manifest) {
            return Err(SwapError::Unfit { pipeline: base.pipeline.clone(), index, cause });
        }
        drop(new);
        Ok(self.load(&base.pipeline, assignment, None).await?)
    }

    async fn switch_by_dispatcher(&self, base: &Generation, new: &Assignment) -> Result<(u64, u64), SwapError> {
        let owner = &base.prepare.dispatcher;
        let info = CandidateInfo {
            id: 0,
            pipeline: base.pipeline.clone(),
            index: new.index,
            digest: new.artifact,
            incarnation: owner.incarnation,
        };
        match self.candidates().offer(info, PICK_UP).await {
            Outcome::Settled(Verdict::Switched { generation, first_seq }) => Ok((generation, first_seq)),
            Outcome::Settled(Verdict::Refused { status, error }) => Err(SwapError::Refused { status, error }),
            Outcome::Ignored => Err(SwapError::Ignored(owner.name.clone())),
            Outcome::Settled(Verdict::Taken) | Outcome::Unknown => Err(SwapError::Unknown(owner.name.clone())),
        }
    }

    /// Without a dispatcher: another generation on this node alone.
    async fn switch_here(&self, base: &Generation, new: &Assignment) -> Result<u64, SwapError> {
        let mut prepare = base.prepare.clone();
        prepare.lease_ms = 0;
        for stage in prepare.stages.iter_mut().filter(|stage| stage.index == new.index) {
            *stage = new.clone();
        }
        let numbers = self.generations().into_iter().filter(|generation| generation.pipeline == base.pipeline);
        let generation = numbers.map(|generation| generation.number).max().unwrap_or(0);
        let not_here = || SwapError::NotHere { pipeline: base.pipeline.clone(), index: new.index };
        let generation = generation.checked_add(1).ok_or_else(not_here)?;
        self.switch_to(Noted { pipeline: base.pipeline.clone(), generation, prepare }).await?;
        self.remove(base, DRAIN).await;
        Ok(generation)
    }
}

/// Whether a dispatcher makes the generation. Without one, a node alone can swap the only stage of a pipeline: of several,
/// the others would go on with a generation that this node has left.
fn has_dispatcher(plan: &Plan) -> Result<bool, SwapError> {
    let Plan { base, assignment: Assignment { index, .. }, .. } = plan;
    let count = base.slots.get(index).map_or(1, |slot| slot.loaded.artifact.manifest.count);
    match base.is_leased() {
        false if count > 1 => {
            let dispatcher = base.prepare.dispatcher.name.clone();
            Err(SwapError::Deserted { dispatcher, index: *index, count })
        }
        leased => Ok(leased),
    }
}

/// Why `new` cannot take the place of `old` in its chain, if so.
fn misfit(old: &Manifest, new: &Manifest) -> Option<String> {
    if new.pipeline != old.pipeline || new.index != old.index {
        return Some(format!("it is stage {} of pipeline \"{}\"", new.index, new.pipeline));
    }
    if new.count != old.count {
        return Some(format!("it is one of {} stages, the running one of {}", new.count, old.count));
    }
    let sides = [
        ("takes", &old.inputs, &new.inputs),
        ("computes", &old.outputs, &new.outputs),
        ("passes on", &old.forwards, &new.forwards),
    ];
    sides.into_iter().find_map(|(does, old, new)| {
        (sorted(old) != sorted(new)).then(|| format!("it {does} {}, the running one {}", list(new), list(old)))
    })
}

fn sorted(infos: &[TensorInfo]) -> Vec<&TensorInfo> {
    let mut infos: Vec<&TensorInfo> = infos.iter().collect();
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    infos
}

fn list(infos: &[TensorInfo]) -> String {
    let all: Vec<String> =
        infos.iter().map(|info| format!("\"{}\" {}{:?}", info.name, info.dtype.name(), info.shape)).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}
