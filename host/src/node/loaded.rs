//! A stage in memory: compiled, its session loaded, warmed up. Generations that use the same artifact share it.

use super::contest::Rival;
use super::prepacking::{self, Room};
use crate::artifact::{Artifact, ArtifactError, Digest, Manifest};
use crate::buffer::Pool;
use crate::cpu;
use crate::engine::abandoned::{self, Charge};
use crate::engine::{self, Engine, Model, Options, Prepacking, Session, SharedSession};
use crate::memory;
use crate::sandbox::{Instance, Program, RunError, Sandbox, SandboxError};
use defer_partition::byte_len;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::oneshot;

/// How long an engine that was told to stop may take to do so.
const GRACE: Duration = Duration::from_millis(250);

#[derive(Debug, Error)]
pub enum LoadError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("the slice's {what} are {got:?}, its manifest says {want:?}")]
    Mismatch { what: &'static str, got: BTreeSet<String>, want: BTreeSet<String> },
    #[error("its warm-up takes a tensor \"{input}\" of {bytes} bytes, {limit} is the limit (serve --max-tensor-mb)")]
    TooLarge { input: String, bytes: usize, limit: usize },
    #[error("the stage failed its warm-up: {0}")]
    WarmUp(RunError),
    #[error("loading took longer than {0} s (serve --load-timeout)")]
    Late(f64),
    #[error("{0} threads are in engines that do not return; restart the node to load more")]
    Crowded(usize),
    #[error("loading ended without a result")]
    Vanished,
    #[error("no thread to load on: {0}")]
    Thread(std::io::Error),
    #[error("no engine of this node runs it: {first}; {second}")]
    Neither { first: Box<Self>, second: Box<Self> },
}

/// How long an engine may take.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// For one call.
    pub engine_time: Duration,
    /// For loading a stage and warming it up.
    pub load_time: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { engine_time: Duration::from_secs(60), load_time: Duration::from_secs(120) }
    }
}

/// What loading needs of the node.
#[derive(Clone)]
pub struct Loader {
    pub sandbox: Sandbox,
    pub engine: Arc<dyn Engine>,
    /// What stages run on where it turns out faster (`serve --engine fastest`).
    pub rival: Option<Rival>,
    pub options: Options,
    pub limits: TimeLimits,
    pub pool: Pool,
    /// Bytes of one tensor: what a manifest asks for in a warm-up is as untrusted as what a frame declares.
    pub max_tensor: usize,
}

/// What is wished for one stage.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Bytes that the node's limit leaves for its weights; `None` for no limit.
    pub room: Option<u64>,
    /// Name of the engine that its replicas run on. Only a node that measures its engines goes by it.
    pub engine: Option<String>,
    /// The pipeline is in use on this node meanwhile: loading must not slow it down.
    pub beside: bool,
}

/// A loaded stage.
pub struct Loaded {
    pub digest: Digest,
    /// Keeps the file mapped while the engine reads weights from it.
    pub artifact: Artifact,
    loader: Loader,
    /// Whether the engine holds weights in an order of its own.
    pub prepacking: Prepacking,
    /// Time that loading and warming up took.
    pub load_time: Duration,
    program: Program,
    /// Replaced when the engine does not come out of it.
    session: Mutex<SharedSession>,
    /// The engine keeps the session.
    is_stuck: AtomicBool,
    grace: Duration,
    /// Held while the session is being replaced.
    renewing: Mutex<()>,
}

impl Loader {
    /// Loads the artifact at `path` and runs it once on zeros. Blocks for as long as that takes.
    pub fn load(&self, digest: Digest, path: &Path) -> Result<Loaded, LoadError> {
        self.load_as(&Wish::default(), digest, path)
    }

    fn load_as(&self, wish: &Wish, digest: Digest, path: &Path) -> Result<Loaded, LoadError> {
        match &self.rival {
            None => self.load_into(wish, digest, path),
            Some(rival) => rival.load(self, wish, digest, path),
        }
    }

    /// The same on this loader's own engine.
    pub(super) fn load_into(&self, wish: &Wish, digest: Digest, path: &Path) -> Result<Loaded, LoadError> {
        let started = Instant::now();
        let artifact = Artifact::open(path)?;
        self.check_warm_up(&artifact.manifest)?;
        let program = self.sandbox.compile(&artifact)?;
        let graph = artifact.model()?;
        let room = Room { limit: wish.room, machine: memory::available() };
        let packing = prepacking::choose(&graph, artifact.manifest.weights_bytes, room);
        let session = self.session(&artifact, &graph, packing)?;
        drop(graph);
        let manifest = &artifact.manifest;
        for (what, got, want) in
            [("inputs", session.inputs(), &manifest.inputs), ("outputs", session.outputs(), &manifest.outputs)]
        {
            let got: BTreeSet<String> = got.into_iter().collect();
            let want: BTreeSet<String> = want.iter().map(|info| info.name.clone()).collect();
            if got != want {
                return Err(LoadError::Mismatch { what, got, want });
            }
        }
        // An engine that cannot be stopped is not waited for.
        let grace = session.brake().map_or(Duration::ZERO, |_| GRACE);
        let mut loaded = Loaded {
            digest,
            loader: self.clone(),
            prepacking: self.engine.prepacking(packing),
            load_time: Duration::ZERO,
            program,
            session: Mutex::new(Arc::new(Mutex::new(session))),
            is_stuck: AtomicBool::new(false),
            grace,
            renewing: Mutex::default(),
            artifact,
        };
        loaded.rehearse(started + self.limits.load_time).map_err(|error| match error {
            RunError::Stopped => LoadError::Late(self.limits.load_time.as_secs_f64()),
            error => LoadError::WarmUp(error),
        })?;
        loaded.load_time = started.elapsed();
        Ok(loaded)
    }

    fn session(
        &self,
        artifact: &Artifact,
        graph: &[u8],
        prepacking: Prepacking,
    ) -> Result<Box<dyn Session>, LoadError> {
        let model = Model { bytes: graph, weights_folder: artifact.path().parent() };
        let options = Options { prepacking, load_time: Some(self.limits.load_time), ..self.options };
        Ok(self.engine.load(model, options).map_err(SandboxError::from)?)
    }

    /// The same on a thread of its own, which is abandoned to the engine if it takes too long.
    pub async fn load_in_time(&self, digest: Digest, path: &Path, wish: Wish) -> Result<Loaded, LoadError> {
        let crowd = abandoned::count();
        if crowd >= abandoned::LIMIT {
            return Err(LoadError::Crowded(crowd));
        }
        let (tell, mut told) = oneshot::channel();
        let charge = Arc::new(Charge::default());
        charge.begin(());
        let (loader, path, of) = (self.clone(), path.to_owned(), Arc::clone(&charge));
        let load = move || {
            // Engines that are to be measured need what they will have later.
            if wish.beside && loader.rival.is_none() {
                cpu::stand_back();
            }
            let loaded = loader.load_as(&wish, digest, &path);
            if of.end().is_some() {
                let _ = tell.send(loaded);
            }
        };
        thread::Builder::new().name("load".to_owned()).spawn(load).map_err(LoadError::Thread)?;
        match tokio::time::timeout(self.limits.load_time + GRACE, &mut told).await {
            Err(_) if charge.give_up().is_some() => Err(LoadError::Late(self.limits.load_time.as_secs_f64())),
            // It came at the last moment.
            Err(_) => told.await.unwrap_or(Err(LoadError::Vanished)),
            Ok(loaded) => loaded.unwrap_or(Err(LoadError::Vanished)),
        }
    }

    /// What stages may run on.
    pub fn engines(&self) -> Vec<&dyn Engine> {
        let rival = self.rival.as_ref().map(Rival::engine).filter(|rival| rival.name() != self.engine.name());
        std::iter::once(self.engine.as_ref()).chain(rival).collect()
    }

    fn check_warm_up(&self, manifest: &Manifest) -> Result<(), LoadError> {
        for (input, shape) in manifest.inputs.iter().zip(&manifest.warm_up) {
            let bytes = byte_len(input.dtype, shape).unwrap_or(usize::MAX);
            if bytes > self.max_tensor {
                return Err(LoadError::TooLarge { input: input.name.clone(), bytes, limit: self.max_tensor });
            }
        }
        Ok(())
    }
}

impl Loaded {
    /// A component instance of its own over the shared session.
    pub fn instance(&self) -> Result<Instance, SandboxError> {
        Instance::new(self.program.clone(), self.current(), self.loader.pool.clone())
    }

    /// Bytes of weights that the engine holds a second time, at most.
    pub fn prepacked_bytes(&self) -> u64 {
        if self.prepacking == Prepacking::On { self.artifact.manifest.weights_bytes } else { 0 }
    }

    /// Name of the engine that it runs on.
    pub fn engine(&self) -> &'static str {
        self.loader.engine.name()
    }

    pub fn limits(&self) -> &TimeLimits {
        &self.loader.limits
    }

    /// How long after its time limit a call is given up.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    fn current(&self) -> SharedSession {
        Arc::clone(&self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `session` has not been replaced.
    pub fn is_current(&self, session: &SharedSession) -> bool {
        Arc::ptr_eq(session, &self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether nothing can be computed on it before it has a fresh session.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    /// The engine keeps `session`; nothing follows from that where it has been replaced.
    pub fn stick(&self, session: &SharedSession) {
        let current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, session) {
            self.is_stuck.store(true, Ordering::Relaxed);
        }
    }

    /// Loads a fresh session in place of `stuck`, unless somebody has. The weights are mapped already.
    pub fn renew(&self, stuck: Option<&SharedSession>) -> Result<(), LoadError> {
        let _alone = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        if stuck.is_some_and(|stuck| !self.is_current(stuck)) {
            return Ok(());
        }
        let graph = self.artifact.model()?;
        let fresh = self.loader.session(&self.artifact, &graph, self.prepacking)?;
        let fresh = Arc::new(Mutex::new(fresh));
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        *session = fresh;
        self.is_stuck.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Runs it once on zeros, as a warm-up does; gives the time that the engine took.
    pub(super) fn rehearse(&self, deadline: Instant) -> Result<Duration, RunError> {
        let manifest = &self.artifact.manifest;
        let inputs = engine::zeros(&manifest.inputs, &manifest.warm_up)
            .ok_or_else(|| RunError::Inputs("warm-up shapes that do not fit memory".to_owned()))?;
        let outcome = self.instance()?.run_until(Some(deadline), inputs)?;
        for (_, tensor) in outcome.outputs {
            self.loader.pool.give(tensor.data);
        }
        Ok(outcome.engine)
    }
}
