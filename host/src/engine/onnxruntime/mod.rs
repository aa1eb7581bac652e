//! ONNX Runtime, from its shared library, loaded at run time.

mod allocator;
mod call;
mod entry;
mod library;
mod outputs;
mod tensors;
mod threads;
mod traps;

use super::panic::caught;
use super::watchdog::{self, Alarm, Brake, Watch, watch};
use super::{Engine, EngineError, Model, Named, Options, Prepacking, Session};
use crate::buffer::Pool;
use defer_partition::Tensor;
use library::Library;
use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, LoadCanceler};
use ort::session::{RunOptions, Session as OrtSession};
use ort::value::Outlet;
use outputs::Expected;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use threads::Starter;
use traps::Trapped;

const NAME: &str = "onnxruntime";
/// Version that `setup` installs; its library lies under the cache in a folder of that name.
pub const VERSION: &str = "1.24.4";

/// The runtime, whose library is loaded when it is first needed.
#[derive(Clone, Debug)]
pub struct OnnxRuntime {
    found: Library,
}

/// What was loaded.
#[derive(Clone)]
struct Opened {
    /// The library allows one per process.
    environment: Environment,
    starter: Starter,
}

static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

impl OnnxRuntime {
    /// Finds the library: the one named, else `ORT_DYLIB_PATH`, else the one beside this program, else the one in the cache.
    /// It is looked at, but not loaded.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where there is none, or what is there cannot be it.
    pub fn find(library: Option<PathBuf>) -> Result<Self, EngineError> {
        Ok(Self { found: Library::find(library)? })
    }

    /// The shared library in use.
    pub fn path(&self) -> &Path {
        &self.found.path
    }

    /// Loads the library, unless this process has one.
    fn opened(&self) -> Result<Opened, EngineError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let library = self.path();
        let unavailable = |cause: String| EngineError::Unavailable(format!("{}: {cause}", library.display()));
        // The crate panics where a library exports what it should and does not answer as it should.
        let open = || {
            let builder = ort::init_from(library).map_err(|error| error.to_string())?;
            builder.with_telemetry(false).build().map_err(|error| error.to_string())
        };
        let starter = Starter::new().map_err(|error| unavailable(error.to_string()))?;
        watchdog::start();
        let environment = caught(open).map_err(unavailable)?;
        if let Err(error) = traps::install(library) {
            tracing::warn!(%error, "cannot handle divisions by zero in onnxruntime: one in a graph would end this process");
        }
        allocator::give_back();
        tracing::debug!(library = %library.display(), "onnxruntime is loaded");
        let new = Opened { environment, starter };
        *opened = Some(new.clone());
        Ok(new)
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        self.found.version.clone().unwrap_or_else(|| "unknown".to_owned())
    }

    fn open(&self) -> Result<(), EngineError> {
        self.opened().map(drop)
    }

    fn load(&self, model: Model<'_>, options: Options) -> Result<Box<dyn Session>, EngineError> {
        let Opened { environment, starter } = self.opened()?;
        let eased = entry::ease(model.bytes);
        let bytes = eased.as_deref().unwrap_or(model.bytes);
        let load = || -> ort::Result<OrtSession> {
            let mut builder = OrtSession::builder(&environment)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(options.threads)?
                .with_inter_threads(1)?
                // Spinning burns a CPU quota while waiting.
                .with_intra_op_spinning(false)?
                // Plans of where intermediate results lie cost as much memory again, and are made anew for each shape.
                .with_memory_pattern(false)?
                .with_prepacking(options.prepacking == Prepacking::On)?;
            if options.threads > 1 {
                builder = builder.with_thread_manager(starter.clone())?;
            }
            if let Some(folder) = model.weights_folder {
                let folder = folder.to_str().ok_or_else(|| ort::Error::new("the weights' path is not UTF-8"))?;
                builder = builder.with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
            }
            let limit = options.load_time.map(|time| watch(Instant::now() + time, Arc::new(Load(builder.canceler()))));
            let session = builder.commit_from_memory(bytes);
            match (session, limit.is_some_and(Watch::end)) {
                (Err(_), true) => Err(ort::Error::new("loading took too long (serve --load-timeout)")),
                (session, _) => session,
            }
        };
        let session = guarded(load).map_err(|cause| EngineError::Load { engine: NAME, cause })?;
        let unfit = |error: ort::Error| EngineError::Load { engine: NAME, cause: error.to_string() };
        let inputs = names(session.inputs()).map_err(unfit)?;
        let outputs = names(session.outputs()).map_err(unfit)?;
        let run = Arc::new(Run { options: RunOptions::new().map_err(unfit)?, stopped: AtomicBool::new(false) });
        let expected = Expected::Unknown;
        Ok(Box::new(Loaded { session, inputs, outputs, expected, run, _trim: allocator::Trim }))
    }
}

/// Ends a load that takes too long.
struct Load(LoadCanceler);

impl Alarm for Load {
    fn ring(&self) {
        // It fails only for a builder that is gone.
        let _ = self.0.cancel();
    }
}

/// What a session's runs are controlled by.
struct Run {
    options: RunOptions,
    stopped: AtomicBool,
}

impl Alarm for Run {
    /// The run ends before its next operator, or its loop's next round.
    fn ring(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // A flag is set, which cannot fail.
        let _ = self.options.terminate();
    }
}

impl Brake for Run {
    fn release(&self) {
        if self.stopped.swap(false, Ordering::Relaxed) {
            let _ = self.options.unterminate();
        }
    }
}

/// Names as the `ort` crate and as the runtime itself take them.
type Names = Vec<(String, CString)>;

fn names(outlets: &[Outlet]) -> ort::Result<Names> {
    let both = |outlet: &Outlet| {
        let name = outlet.name().to_owned();
        let c = CString::new(name.as_str()).map_err(|error| ort::Error::new(error.to_string()))?;
        Ok((name, c))
    };
    outlets.iter().map(both).collect()
}

struct Loaded {
    session: OrtSession,
    inputs: Names,
    outputs: Names,
    expected: Expected,
    run: Arc<Run>,
    /// Dropped last.
    _trim: allocator::Trim,
}

impl Loaded {
    /// Has the runtime allocate the outputs, and copies them.
    fn run_out_of_place(&mut self, inputs: &[Named], pool: &Pool) -> ort::Result<Vec<Named>> {
        let mut values = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            values.push((name.as_str(), tensors::input(tensor)?));
        }
        let results = self.session.run_with_options(values, &self.run.options)?;
        let copy = |(name, _): &(String, CString)| {
            let value = results.get(name).ok_or_else(|| ort::Error::new(format!("no output \"{name}\"")))?;
            Ok((name.clone(), tensors::output(value, pool)?))
        };
        self.outputs.iter().map(copy).collect()
    }

    /// Has the runtime write the outputs into `memory`.
    fn run_in_place(&mut self, inputs: &[Named], memory: &mut [Tensor]) -> ort::Result<()> {
        let mut values = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            let known = self.inputs.iter().find(|(known, _)| known == name);
            let (_, name) = known.ok_or_else(|| ort::Error::new(format!("no input \"{name}\"")))?;
            values.push((name.as_c_str(), tensors::input(tensor)?));
        }
        let mut written = Vec::with_capacity(memory.len());
        for ((_, name), tensor) in self.outputs.iter().zip(memory) {
            written.push((name.as_c_str(), outputs::writable(tensor)?));
        }
        call::run_into(&mut self.session, &self.run.options, &values, &mut written)
    }

    fn run_once(&mut self, inputs: &[Named], pool: &Pool) -> ort::Result<Vec<Named>> {
        let mut surprised = false;
        if let Some(mut memory) = self.expected.memory(inputs, pool) {
            match self.run_in_place(inputs, &mut memory) {
                Ok(()) => return Ok(self.outputs.iter().map(|(name, _)| name.clone()).zip(memory).collect()),
                Err(error) => {
                    memory.into_iter().for_each(|tensor| pool.give(tensor.data));
                    if self.run.stopped.load(Ordering::Relaxed) {
                        return Err(error);
                    }
                    surprised = true;
                }
            }
        }
        // If it fails as well, then not for what the outputs were expected to be.
        let outputs = self.run_out_of_place(inputs, pool)?;
        match surprised {
            true => self.expected = Expected::Never,
            false => self.expected.learn(inputs, &outputs),
        }
        Ok(outputs)
    }
}

impl Session for Loaded {
    fn inputs(&self) -> Vec<String> {
        self.inputs.iter().map(|(name, _)| name.clone()).collect()
    }

    fn outputs(&self) -> Vec<String> {
        self.outputs.iter().map(|(name, _)| name.clone()).collect()
    }

    fn brake(&self) -> Option<Arc<dyn Brake>> {
        Some(Arc::clone(&self.run) as Arc<dyn Brake>)
    }

    fn run(&mut self, inputs: &[Named], pool: &Pool) -> Result<Vec<Named>, EngineError> {
        guarded(|| self.run_once(inputs, pool)).map_err(|cause| EngineError::Run { engine: NAME, cause })
    }
}

/// Calls the runtime: a division that trapped is an error, and so is a panic of the `ort` crate, which takes some of what the
/// runtime says of odd graphs for impossible.
fn guarded<T>(mut call: impl FnMut() -> ort::Result<T>) -> Result<T, String> {
    let mut watched = || traps::watched(|| caught(|| call().map_err(|error| error.to_string())));
    let mut done = watched();
    if done.result.is_ok() && done.trapped == Trapped::Elsewhere {
        // It may have been another call's: then it does not happen again.
        done = watched();
    }
    match done.result {
        Ok(_) if done.trapped != Trapped::Nowhere => Err(traps::CAUSE.to_owned()),
        result => result,
    }
}
