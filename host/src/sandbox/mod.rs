//! Runs a stage's component under wasmtime, with `wasi:nn` and nothing else.
//!
//! Tensors cross as resource handles: the host puts a tensor into the store's table, the guest passes the handle to
//! `compute`, and the host takes the outputs back out. No tensor byte enters guest memory.

mod bindings;
mod nn;

use crate::artifact::{Artifact, Digest, Manifest};
use crate::buffer::Pool;
use crate::engine::{EngineError, Named, SharedSession};
use bindings::{Stage, StagePre};
use defer_partition::TensorInfo;
use nn::{Call, Slice};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use wasmtime::component::{Component, Linker, Resource, ResourceTable};
use wasmtime::{Config, Engine, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};
use wasmtime_wasi_nn::Tensor as WasiTensor;
use wasmtime_wasi_nn::wit::{WasiNnCtx, WasiNnView};

/// How often a guest that computes is looked at: rarely, since the clock ticks on an idle node too, and a small one feels it.
const TICK: Duration = Duration::from_millis(100);

/// What one stage's component may use. The engine works outside of these.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of guest memory. Our guest uses two pages of 64 KiB.
    pub memory: usize,
    /// Elements of guest tables.
    pub table_elements: usize,
    /// Handles that a guest holds at once beside one per input and output: graphs, contexts, errors, tensors of its own.
    /// With `call_bytes`, this bounds what it can have the host keep.
    pub handles: usize,
    /// Bytes that one call may carry between host and guest. Handles carry none.
    pub call_bytes: usize,
    /// Time in the guest itself, per call, without the engine's.
    pub guest_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 16 << 20,
            table_elements: 10_000,
            handles: 16,
            call_bytes: 1 << 20,
            guest_time: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("cannot start wasmtime: {0}")]
    Start(String),
    #[error("not a WASI component: {0}")]
    Compile(String),
    #[error("the component imports {0}; a stage gets wasi:nn and nothing else")]
    Import(String),
    #[error("the component is no stage: {0}")]
    Link(String),
    #[error("the component did not start: {0}")]
    Init(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why one call gave no tensors. The stage itself lives on.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("the stage got {0}; were all stages built from one model?")]
    Inputs(String),
    #[error("the component trapped: {0}")]
    Trap(String),
    #[error("{0}")]
    Failed(String),
    #[error("the engine was stopped: it took too long")]
    Stopped,
    #[error("the component returned {0}")]
    Outputs(String),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// How a component's code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// As machine code, by Cranelift; interpreted where it has none for this architecture.
    Best,
    /// By wasmtime's interpreter, Pulley.
    Interpreted,
}

/// wasmtime, set up for stages: one per process.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    limits: Limits,
    compiled: Arc<Mutex<Compiled>>,
}

/// The components that are in use. Stages that one version of this program packaged have the same, so that a swap rarely has to
/// compile.
type Compiled = HashMap<Digest, Weak<StagePre<State>>>;

impl Sandbox {
    pub fn new(limits: Limits) -> Result<Self, SandboxError> {
        Self::with(Execution::Best, limits)
    }

    /// The same with a choice of how code runs.
    pub fn with(execution: Execution, limits: Limits) -> Result<Self, SandboxError> {
        let start = |error: wasmtime::Error| SandboxError::Start(format!("{error:#}"));
        let mut config = Config::new();
        config.epoch_interruption(true);
        if execution == Execution::Interpreted {
            config.target(&format!("pulley{}", usize::BITS)).map_err(start)?;
        }
        let engine = Engine::new(&config).map_err(start)?;
        let weak = engine.weak();
        thread::Builder::new()
            .name("epoch".to_owned())
            .spawn(move || {
                while let Some(engine) = weak.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    thread::sleep(TICK);
                }
            })
            .map_err(|error| SandboxError::Start(error.to_string()))?;
        Ok(Self { engine, limits, compiled: Arc::default() })
    }

    /// What runs components: `cranelift`, or `pulley`, the interpreter.
    pub fn executor(&self) -> &'static str {
        if self.engine.is_pulley() { "pulley" } else { "cranelift" }
    }

    /// What the component of `artifact` imports.
    pub fn imports(&self, artifact: &Artifact) -> Result<Vec<String>, SandboxError> {
        Ok(self.component(artifact)?.component_type().imports(&self.engine).map(|(name, _)| name.to_owned()).collect())
    }

    fn component(&self, artifact: &Artifact) -> Result<Component, SandboxError> {
        Component::new(&self.engine, artifact.component()).map_err(|error| SandboxError::Compile(format!("{error:#}")))
    }

    /// Compiles the component of `artifact`, unless a program of the same one is in use, and checks what it asks for.
    pub fn compile(&self, artifact: &Artifact) -> Result<Program, SandboxError> {
        let compiled = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = Digest::of(artifact.component()).map_err(|error| SandboxError::Compile(error.to_string()))?;
        let same = compiled().get(&digest).and_then(Weak::upgrade);
        let pre = match same {
            Some(pre) => pre,
            None => {
                let pre = Arc::new(self.prepare(artifact)?);
                let mut compiled = compiled();
                compiled.retain(|_, used| used.strong_count() > 0);
                compiled.insert(digest, Arc::downgrade(&pre));
                pre
            }
        };
        Ok(Program { pre, limits: self.limits, manifest: Arc::new(artifact.manifest.clone()) })
    }

    fn prepare(&self, artifact: &Artifact) -> Result<StagePre<State>, SandboxError> {
        let component = self.component(artifact)?;
        for (name, _) in component.component_type().imports(&self.engine) {
            if !name.starts_with("wasi:nn/") {
                return Err(SandboxError::Import(name.to_owned()));
            }
        }
        let mut linker = Linker::new(&self.engine);
        let link = |error: wasmtime::Error| SandboxError::Link(format!("{error:#}"));
        wasmtime_wasi_nn::wit::add_to_linker(&mut linker, |state: &mut State| {
            WasiNnView::new(&mut state.table, &mut state.nn)
        })
        .map_err(link)?;
        let pre = linker.instantiate_pre(&component).map_err(link)?;
        StagePre::new(pre).map_err(link)
    }
}

/// A compiled component that imports only what it may.
#[derive(Clone)]
pub struct Program {
    pre: Arc<StagePre<State>>,
    limits: Limits,
    manifest: Arc<Manifest>,
}

/// What a store holds.
struct State {
    table: ResourceTable,
    nn: WasiNnCtx,
    limits: StoreLimits,
    call: Arc<Mutex<Call>>,
}

/// A component bound to a loaded slice, ready to run; not to be shared between threads at once.
pub struct Instance {
    program: Program,
    slice: Slice,
    /// `None` after a trap, until the next call makes a new one.
    live: Option<(Store<State>, Stage)>,
}

/// What a call gave.
#[derive(Debug)]
pub struct Outcome {
    pub outputs: Vec<Named>,
    /// Time inside the engine.
    pub engine: Duration,
    /// Time of the whole call, from handing over the inputs to having the outputs.
    pub total: Duration,
}

impl Instance {
    /// Instantiates `program` over `session` and lets it load its graph.
    pub fn new(program: Program, session: SharedSession, pool: Pool) -> Result<Self, SandboxError> {
        let slice = Slice::new(session, Arc::clone(&program.manifest), pool);
        let live = Some(start(&program, &slice)?);
        Ok(Self { program, slice, live })
    }

    /// The session that it runs on.
    pub fn session(&self) -> &SharedSession {
        self.slice.session()
    }

    /// Runs the stage once on `inputs`, which must be exactly the manifest's.
    pub fn run(&mut self, inputs: Vec<Named>) -> Result<Outcome, RunError> {
        self.run_until(None, inputs)
    }

    /// Runs the stage once. At `deadline` the engine is stopped, if it can be: whoever calls must be ready to wait longer.
    pub fn run_until(&mut self, deadline: Option<Instant>, inputs: Vec<Named>) -> Result<Outcome, RunError> {
        check(&self.program.manifest.inputs, &inputs).map_err(RunError::Inputs)?;
        let (store, stage) = match &mut self.live {
            Some(live) => live,
            spent => spent.insert(start(&self.program, &self.slice)?),
        };
        let started = Instant::now();
        self.slice.begin(started, deadline);
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(self.program.limits.call_bytes);
        let result = call(store, stage, inputs, &self.program.manifest);
        let total = started.elapsed();
        let Call { engine, failure, stopped, .. } = self.slice.end();
        match result {
            Ok(outputs) => {
                check(&self.program.manifest.outputs, &outputs).map_err(RunError::Outputs)?;
                Ok(Outcome { outputs, engine, total })
            }
            Err(CallError::Guest(_)) if stopped => Err(RunError::Stopped),
            Err(CallError::Guest(message)) => Err(RunError::Failed(failure.unwrap_or(message))),
            Err(CallError::Outputs(message)) => Err(RunError::Outputs(message)),
            Err(CallError::Trap(error)) => {
                self.live = None;
                Err(if stopped { RunError::Stopped } else { RunError::Trap(root_cause(&error)) })
            }
        }
    }
}

enum CallError {
    Guest(String),
    Outputs(String),
    Trap(wasmtime::Error),
}

fn call(
    store: &mut Store<State>,
    stage: &Stage,
    inputs: Vec<Named>,
    manifest: &Manifest,
) -> Result<Vec<Named>, CallError> {
    let trap = CallError::Trap;
    let mut handles = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        let tensor = nn::to_wasi(tensor).map_err(CallError::Guest)?;
        handles.push((name, store.data_mut().table.push(tensor).map_err(|error| trap(error.into()))?));
    }
    let returned = stage.defer_stage_runner().call_run(&mut *store, &handles).map_err(trap)?;
    let returned = returned.map_err(CallError::Guest)?;
    let table = &mut store.data_mut().table;
    let mut outputs = Vec::with_capacity(returned.len());
    for (name, handle) in returned {
        let handle: Resource<WasiTensor> = handle;
        let tensor = table.delete(handle).map_err(|error| trap(error.into()))?;
        let Some(info) = manifest.outputs.iter().find(|info| info.name == name) else {
            return Err(CallError::Outputs(format!("a tensor \"{name}\", which is none of its outputs")));
        };
        let tensor =
            nn::from_wasi(tensor, info.dtype).map_err(|cause| CallError::Outputs(format!("\"{name}\": {cause}")))?;
        outputs.push((name, tensor));
    }
    Ok(outputs)
}

fn start(program: &Program, slice: &Slice) -> Result<(Store<State>, Stage), SandboxError> {
    let limits = &program.limits;
    let init = |error: wasmtime::Error| SandboxError::Init(root_cause(&error));
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.handles + program.manifest.inputs.len() + program.manifest.outputs.len());
    let state = State {
        table,
        nn: slice.context(),
        limits: StoreLimitsBuilder::new()
            .memory_size(limits.memory)
            .table_elements(limits.table_elements)
            .instances(16)
            .memories(4)
            .tables(16)
            .trap_on_grow_failure(true)
            .build(),
        call: slice.call(),
    };
    let mut store = Store::new(program.pre.instance_pre().engine(), state);
    store.limiter(|state| &mut state.limits);
    let guest_time = limits.guest_time;
    store.epoch_deadline_callback(move |store| {
        let call = store.data().call.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = call.guest_time();
        if spent > guest_time {
            return Err(wasmtime::format_err!(
                "it computed for {} ms itself, {} ms are allowed",
                spent.as_millis(),
                guest_time.as_millis()
            ));
        }
        Ok(UpdateDeadline::Continue(1))
    });
    slice.begin(Instant::now(), None);
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(limits.call_bytes);
    let stage = program.pre.instantiate(&mut store).map_err(init)?;
    let answer = stage.defer_stage_runner().call_init(&mut store).map_err(init)?;
    let Call { failure, .. } = slice.end();
    answer.map_err(|message| SandboxError::Init(failure.unwrap_or(message)))?;
    Ok((store, stage))
}

/// Without wasmtime's backtrace, which names only addresses in a stripped guest.
fn root_cause(error: &wasmtime::Error) -> String {
    error.chain().last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether `tensors` are exactly those of `wanted`, whatever their order; if not, what is wrong.
fn check(wanted: &[TensorInfo], tensors: &[Named]) -> Result<(), String> {
    for info in wanted {
        let mut matching = tensors.iter().filter(|(name, _)| *name == info.name);
        let Some((_, tensor)) = matching.next() else {
            return Err(format!("no tensor {info}"));
        };
        if matching.next().is_some() {
            return Err(format!("tensor \"{}\" twice", info.name));
        }
        if tensor.dtype != info.dtype || !info.admits(&tensor.shape) {
            return Err(format!("{}{:?} instead of {info}", tensor.dtype, tensor.shape));
        }
    }
    match tensors.iter().find(|(name, _)| wanted.iter().all(|info| info.name != *name)) {
        Some((name, _)) => Err(format!("an unexpected tensor \"{name}\"")),
        None => Ok(()),
    }
}
