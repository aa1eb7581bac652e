//! What a node holds: its store, its loaded stages, its generations, and the dispatchers that own them.

use super::candidates::Candidates;
use super::config::NodeConfig;
use super::generation::{Assignment, Context, Generation, Prepare, State};
use super::history::History;
use super::loaded::{Loaded, Loader, Wish};
use super::notes::{Noted, Notes};
use super::refusal::PrepareError;
use super::room::{Runtime, Taken, room_for};
use super::store::{Store, StoreError};
use super::wanted::{Hold, Wanted};
use crate::artifact::{Artifact, Digest};
use crate::relay::Limits;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub struct Node {
    config: NodeConfig,
    context: Context,
    store: Arc<Store>,
    loader: Loader,
    pub(super) notes: Notes,
    history: History,
    candidates: Arc<Candidates>,
    /// Drawn anew at each start.
    epoch: u64,
    /// Artifacts that are being loaded.
    wanted: Wanted,
    generations: RwLock<BTreeMap<(String, u64), Arc<Generation>>>,
    /// One load at a time: it is what needs memory, and a second wish for the same artifact then finds it loaded.
    loads: tokio::sync::Mutex<HashMap<Digest, Weak<Loaded>>>,
    runtime: Runtime,
    draining: CancellationToken,
    started: Instant,
}

impl Node {
    /// Opens the state directory.
    pub fn open(config: NodeConfig, loader: Loader) -> Result<Self, StoreError> {
        let store = Arc::new(Store::open(&config.state_dir, config.store_limit)?);
        let notes = Notes::open(&config.state_dir)
            .map_err(|source| StoreError::Open { path: config.state_dir.clone(), source })?;
        let history = History::open(&config.state_dir);
        let random = |error: getrandom::Error| StoreError::Open {
            path: config.state_dir.clone(),
            source: io::Error::other(error.to_string()),
        };
        let epoch = getrandom::u64().map_err(random)?;
        let (max_tensor, pool, stall) = (config.max_tensor, loader.pool.clone(), config.bounds.stall);
        let limits = Limits { max_tensor, max_parts: 0, pool, stall };
        let context = Context { node: config.name.clone(), token: config.token.clone(), limits };
        Ok(Self {
            config,
            context,
            store,
            loader,
            notes,
            history,
            candidates: Arc::new(Candidates::numbered_from(epoch >> 12)),
            epoch,
            wanted: Wanted::default(),
            generations: RwLock::default(),
            loads: tokio::sync::Mutex::default(),
            runtime: Runtime::default(),
            draining: CancellationToken::new(),
            started: Instant::now(),
        })
    }

    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn candidates(&self) -> &Arc<Candidates> {
        &self.candidates
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// What this process takes without stages.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Keeps an artifact in the store until the hold is dropped.
    pub(super) fn hold(&self, artifact: Digest) -> Hold {
        self.wanted.hold(std::iter::once(artifact))
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Cancelled when the node is told to stop.
    pub(super) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    pub fn generation(&self, pipeline: &str, number: u64) -> Option<Arc<Generation>> {
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        generations.get(&(pipeline.to_owned(), number)).cloned()
    }

    pub fn generations(&self) -> Vec<Arc<Generation>> {
        self.generations.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn in_flight(&self) -> u64 {
        self.generations().iter().map(|generation| generation.in_flight()).sum()
    }

    /// Loads and starts a generation, or renews its lease if it is there already.
    pub async fn prepare(
        &self,
        pipeline: &str,
        number: u64,
        prepare: Prepare,
    ) -> Result<Arc<Generation>, PrepareError> {
        if self.is_draining() {
            return Err(PrepareError::Draining);
        }
        Self::claim(&self.generations(), pipeline, &prepare)?;
        if let Some(generation) = Self::same(self.generation(pipeline, number).as_ref(), pipeline, number, &prepare)? {
            generation.renew(prepare.lease_ms);
            return Ok(generation);
        }
        self.note_and_start(&Noted { pipeline: pipeline.to_owned(), generation: number, prepare }).await
    }

    async fn note_and_start(&self, noted: &Noted) -> Result<Arc<Generation>, PrepareError> {
        // Noted first: what runs after a crash must have been noted, and what is dropped meanwhile takes its note along.
        self.notes.write(noted).map_err(|source| {
            let path = self.notes.path(&noted.pipeline, noted.generation);
            PrepareError::Persist { path, source }
        })?;
        let wanted = self.wanted.hold(noted.prepare.stages.iter().map(|assignment| assignment.artifact));
        let generation = self.start(noted).await.inspect_err(|_| self.forget(noted))?;
        drop(wanted);
        self.evict(None);
        Ok(generation)
    }

    /// Starts a generation that no dispatcher has asked for, to be used at once.
    pub(super) async fn switch_to(&self, noted: Noted) -> Result<Arc<Generation>, PrepareError> {
        let generation = self.note_and_start(&noted).await?;
        generation.activate();
        Ok(generation)
    }

    /// Refuses a dispatcher while another one, whose lease still runs, has the pipeline.
    fn claim<'a>(
        others: impl IntoIterator<Item = &'a Arc<Generation>>,
        pipeline: &str,
        prepare: &Prepare,
    ) -> Result<(), PrepareError> {
        let owner = others.into_iter().find(|generation| {
            generation.pipeline == pipeline
                && generation.prepare.dispatcher.incarnation != prepare.dispatcher.incarnation
                && !prepare.dispatcher.heir_of.contains(&generation.prepare.dispatcher.incarnation)
                && generation.is_leased()
        });
        match owner {
            Some(generation) => Err(PrepareError::Owned {
                pipeline: pipeline.to_owned(),
                owner: generation.prepare.dispatcher.name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The generation `number`, if it is here with the same stages and owner; an error if it is here with others.
    fn same(
        found: Option<&Arc<Generation>>,
        pipeline: &str,
        number: u64,
        prepare: &Prepare,
    ) -> Result<Option<Arc<Generation>>, PrepareError> {
        match found {
            Some(found) if found.prepare.stages != prepare.stages || found.prepare.dispatcher != prepare.dispatcher => {
                Err(PrepareError::Exists { pipeline: pipeline.to_owned(), generation: number })
            }
            Some(found) if found.state() == State::Draining => {
                Err(PrepareError::Leaving { pipeline: pipeline.to_owned(), generation: number })
            }
            found => Ok(found.cloned()),
        }
    }

    pub(super) async fn start(&self, noted: &Noted) -> Result<Arc<Generation>, PrepareError> {
        let Noted { pipeline, generation: number, prepare } = noted;
        let mut loaded = Vec::with_capacity(prepare.stages.len());
        for assignment in &prepare.stages {
            loaded.push(self.load(pipeline, assignment, prepare.engines.get(&assignment.index)).await?);
        }
        let generation = Generation::start(&self.context, pipeline, *number, prepare.clone(), loaded)
            .map_err(|source| PrepareError::Start { index: prepare.stages.first().map_or(0, |a| a.index), source })?;
        let generation = Arc::new(generation);
        let key = (pipeline.clone(), *number);
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        // While this one loaded, another dispatcher may have come first, or the same order come twice.
        let before = Self::claim(generations.values(), pipeline, prepare)
            .and_then(|()| Self::same(generations.get(&key), pipeline, *number, prepare))
            .inspect_err(|_| generation.end())?;
        if let Some(same) = before {
            generation.end();
            return Ok(same);
        }
        generations.insert(key, Arc::clone(&generation));
        tracing::info!(pipeline, generation = number, stages = prepare.stages.len(), "generation prepared");
        Ok(generation)
    }

    /// Loads a stage, on `engine` where this node chooses between several, whatever it chose before.
    pub(super) async fn load(
        &self,
        pipeline: &str,
        assignment: &Assignment,
        engine: Option<&String>,
    ) -> Result<Arc<Loaded>, PrepareError> {
        let index = assignment.index;
        let wrong = |cause| PrepareError::Assignment { index, cause };
        assignment.check().map_err(wrong)?;
        let digest = assignment.artifact;
        let mut loads = self.loads.lock().await;
        loads.retain(|_, loaded| loaded.strong_count() > 0);
        // One that the engine keeps is held by threads that may never end; it is of no use to another generation.
        let loaded = match loads.get(&digest).and_then(Weak::upgrade).filter(|loaded| !loaded.is_stuck()) {
            Some(loaded) => loaded,
            None => {
                let store = Arc::clone(&self.store);
                let found = tokio::task::spawn_blocking(move || store.find(&digest)).await.ok().flatten();
                let path = found.ok_or(PrepareError::Missing(digest))?;
                let no_engine = |source| PrepareError::NoEngine { index, source };
                let runtime = self.runtime.measure(&self.loader.engine).await.map_err(no_engine)?;
                let taken = || {
                    let others: Vec<Arc<Loaded>> = loads.values().filter_map(Weak::upgrade).collect();
                    (Taken::by(runtime, &others), !others.iter().all(|loaded| self.runs(loaded)))
                };
                let room = room_for(index, &path, self.config.memory_limit, taken).await?;
                let wish = Wish { room, engine: engine.cloned(), beside: self.serves(pipeline) };
                let loaded = self.loader.load_in_time(digest, &path, wish).await;
                let loaded = Arc::new(loaded.map_err(|source| PrepareError::Load { index, source })?);
                loads.insert(digest, Arc::downgrade(&loaded));
                loaded
            }
        };
        let Artifact { manifest, .. } = &loaded.artifact;
        if manifest.index != index || manifest.pipeline != pipeline {
            let (of, at) = (&manifest.pipeline, manifest.index);
            return Err(wrong(format!("artifact {digest} is stage {at} of pipeline \"{of}\"")));
        }
        if assignment.next.is_empty() != (manifest.index + 1 == manifest.count) {
            return Err(wrong(format!("it is stage {index} of {}: only the last has no next node", manifest.count)));
        }
        Ok(loaded)
    }

    /// Whether `pipeline` is in use on this node.
    fn serves(&self, pipeline: &str) -> bool {
        self.generations()
            .iter()
            .any(|generation| generation.pipeline == pipeline && generation.state() == State::Active)
    }

    /// Whether a generation has `loaded`; otherwise it is being tried, or threads of one that was dropped still hold it.
    fn runs(&self, loaded: &Arc<Loaded>) -> bool {
        let has =
            |generation: &Arc<Generation>| generation.slots.values().any(|slot| Arc::ptr_eq(&slot.loaded, loaded));
        self.generations().iter().any(has)
    }

    /// Lets `generation` finish what is in it, for at most `patience`, and drops it.
    pub async fn remove(&self, generation: &Generation, patience: Duration) {
        generation.drain();
        wait_until_empty(patience, || generation.in_flight()).await;
        self.drop_generation(generation);
    }

    /// Takes back the note of a generation that did not start, unless one of its number runs.
    fn forget(&self, noted: &Noted) {
        let path = self.notes.path(&noted.pipeline, noted.generation);
        match self.generation(&noted.pipeline, noted.generation) {
            None => drop(fs::remove_file(path)),
            Some(running) if running.prepare != noted.prepare => {
                // Another dispatcher's came first, and this note went over its.
                let prepare = running.prepare.clone();
                let rightful = Noted { pipeline: noted.pipeline.clone(), generation: noted.generation, prepare };
                if let Err(error) = self.notes.write(&rightful) {
                    tracing::warn!(path = %path.display(), %error, "cannot note a generation that runs");
                }
            }
            Some(_) => {}
        }
    }

    fn drop_generation(&self, generation: &Generation) {
        let key = (generation.pipeline.clone(), generation.number);
        if self.generations.write().unwrap_or_else(PoisonError::into_inner).remove(&key).is_none() {
            // Somebody else was told to drop it too.
            return;
        }
        generation.end();
        self.note_previous(generation);
        let path = self.notes.path(&generation.pipeline, generation.number);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove the note of a dropped generation");
        }
        tracing::info!(pipeline = generation.pipeline, generation = generation.number, "generation dropped");
        self.evict(None);
    }

    /// Notes what a generation ran that a later one has replaced, so that it can be gone back to.
    fn note_previous(&self, gone: &Generation) {
        let later = self.generations().into_iter().filter(|g| g.pipeline == gone.pipeline && g.number > gone.number);
        let Some(later) = later.max_by_key(|generation| generation.number) else { return };
        for old in &gone.prepare.stages {
            let replaced = |new: &&Assignment| new.index == old.index && new.artifact != old.artifact;
            if later.prepare.stages.iter().any(|new| replaced(&new)) {
                self.history.note(&gone.pipeline, old.index, old.artifact);
            }
        }
    }

    /// Makes room in the store, but not by what runs, what is being loaded, or `newest`, which somebody has just sent.
    pub fn evict(&self, newest: Option<Digest>) {
        let generations = self.generations();
        let running = generations.iter().flat_map(|g| &g.prepare.stages).map(|assignment| assignment.artifact);
        let slots = generations.iter().flat_map(|g| g.slots.keys().map(move |index| (&g.pipeline, *index)));
        let previous = slots.filter_map(|(pipeline, index)| self.history.of(pipeline, index));
        let used: HashSet<Digest> = running.chain(previous).chain(self.wanted.all()).chain(newest).collect();
        if let Err(error) = self.store.evict(&used) {
            tracing::warn!(%error, "cannot clear the artifact store");
        }
    }

    /// Drops, every second, the generations that were prepared and never used within their lease.
    pub(super) async fn expire(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for generation in self.generations().iter().filter(|generation| generation.is_expired()) {
                tracing::info!(
                    pipeline = generation.pipeline,
                    generation = generation.number,
                    "lease over, never used"
                );
                self.drop_generation(generation);
            }
        }
    }

    /// Stops taking orders and waits, for at most `patience`, until no frame is inside.
    pub(super) async fn drain(&self, patience: Duration) {
        self.draining.cancel();
        wait_until_empty(patience, || self.in_flight()).await;
        for generation in self.generations() {
            generation.end();
        }
    }
}

async fn wait_until_empty(patience: Duration, in_flight: impl Fn() -> u64) {
    let end = Instant::now() + patience;
    while in_flight() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
