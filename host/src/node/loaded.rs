//! A stage in memory: compiled, its session loaded, warmed up. Generations that use the same artifact share it.

use crate::artifact::{Artifact, ArtifactError, Digest, Manifest};
use crate::buffer::Pool;
use crate::engine::{self, Engine, Model, Options, Session};
use crate::sandbox::{Instance, Program, RunError, Sandbox, SandboxError};
use defer_partition::byte_len;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thiserror::Error;

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
}

/// What loading needs of the node.
#[derive(Clone)]
pub struct Loader {
    pub sandbox: Sandbox,
    pub engine: Arc<dyn Engine>,
    pub options: Options,
    pub pool: Pool,
    /// Bytes of one tensor: what a manifest asks for in a warm-up is as untrusted as what a frame declares.
    pub max_tensor: usize,
}

/// A loaded stage.
pub struct Loaded {
    pub digest: Digest,
    /// Keeps the file mapped while the engine reads weights from it.
    pub artifact: Artifact,
    pub engine: &'static str,
    /// Time that loading and warming up took.
    pub load_time: Duration,
    program: Program,
    session: Arc<Mutex<Box<dyn Session>>>,
    pool: Pool,
}

impl Loader {
    /// Loads the artifact at `path` and runs it once on zeros. Blocks for as long as that takes.
    pub fn load(&self, digest: Digest, path: &Path) -> Result<Loaded, LoadError> {
        let started = Instant::now();
        let artifact = Artifact::open(path)?;
        self.check_warm_up(&artifact.manifest)?;
        let program = self.sandbox.compile(&artifact)?;
        let graph = artifact.model()?;
        let model = Model { bytes: &graph, weights_folder: artifact.path().parent() };
        let session = self.engine.load(model, self.options).map_err(SandboxError::from)?;
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
        let session = Arc::new(Mutex::new(session));
        let mut loaded = Loaded {
            digest,
            engine: self.engine.name(),
            load_time: Duration::ZERO,
            program,
            session,
            pool: self.pool.clone(),
            artifact,
        };
        loaded.warm_up()?;
        loaded.load_time = started.elapsed();
        Ok(loaded)
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
        Instance::new(self.program.clone(), Arc::clone(&self.session), self.pool.clone())
    }

    fn warm_up(&self) -> Result<(), LoadError> {
        let manifest = &self.artifact.manifest;
        let inputs = engine::zeros(&manifest.inputs, &manifest.warm_up)
            .ok_or_else(|| LoadError::WarmUp(RunError::Inputs("its warm-up shapes do not fit memory".to_owned())))?;
        let outcome = self.instance()?.run(inputs).map_err(LoadError::WarmUp)?;
        for (_, tensor) in outcome.outputs {
            self.pool.give(tensor.data);
        }
        Ok(())
    }
}
