//! Adapts a [`Session`] to wasi-nn's backend traits, and tensors to wasi-nn's.
//!
//! wasi-nn knows seven element types. The others travel under the one of equal size (8 bits as `U8`, 16 as `FP16`, 32 as
//! `I32`, 64 as `I64`), the same bytes and dimensions; the manifest's type, by the tensor's name, is authoritative.

use crate::artifact::Manifest;
use crate::buffer::Pool;
use crate::engine::watchdog::{Watch, watch};
use crate::engine::{Named, SharedSession};
use defer_partition::{DType, Tensor, TensorInfo, byte_len};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wasmtime_wasi_nn::backend::{BackendError, BackendExecutionContext, BackendGraph, Id, NamedTensor};
use wasmtime_wasi_nn::wit::{TensorType, WasiNnCtx};
use wasmtime_wasi_nn::{ExecutionContext, Graph, GraphRegistry, Registry, Tensor as WasiTensor};

/// The name under which the guest finds its graph.
const GRAPH: &str = "slice";

/// What happened during the current call, noted on the host's side.
#[derive(Debug)]
pub(super) struct Call {
    started: Instant,
    /// When the engine is to be stopped.
    deadline: Option<Instant>,
    /// Whether it was.
    pub stopped: bool,
    /// Time spent in the engine so far.
    pub engine: Duration,
    /// Why the engine failed, which wasi-nn does not pass on.
    pub failure: Option<String>,
}

impl Call {
    fn new(started: Instant, deadline: Option<Instant>) -> Self {
        Self { started, deadline, stopped: false, engine: Duration::ZERO, failure: None }
    }

    /// Time spent outside the engine so far.
    pub fn guest_time(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.engine)
    }
}

/// The loaded graph that a component runs on. Clones share it.
#[derive(Clone)]
pub(super) struct Slice {
    session: SharedSession,
    manifest: Arc<Manifest>,
    pool: Pool,
    call: Arc<Mutex<Call>>,
}

impl Slice {
    pub fn new(session: SharedSession, manifest: Arc<Manifest>, pool: Pool) -> Self {
        Self { session, manifest, pool, call: Arc::new(Mutex::new(Call::new(Instant::now(), None))) }
    }

    pub fn call(&self) -> Arc<Mutex<Call>> {
        Arc::clone(&self.call)
    }

    pub fn session(&self) -> &SharedSession {
        &self.session
    }

    pub fn begin(&self, started: Instant, deadline: Option<Instant>) {
        *self.note() = Call::new(started, deadline);
    }

    pub fn end(&self) -> Call {
        std::mem::replace(&mut *self.note(), Call::new(Instant::now(), None))
    }

    fn note(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wasi-nn context that holds this graph by name, and no backend that would load another from bytes.
    pub fn context(&self) -> WasiNnCtx {
        let graph: Box<dyn BackendGraph> = Box::new(self.clone());
        WasiNnCtx::new([], Registry::from(OneGraph(Graph::from(graph))))
    }

    fn compute(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, String> {
        let mut named = Vec::with_capacity(inputs.len());
        for NamedTensor { name, tensor } in inputs {
            let info =
                find(&self.manifest.inputs, &name).ok_or_else(|| format!("the slice has no input \"{name}\""))?;
            named.push((name, from_wasi(tensor, info.dtype)?));
        }
        let result = self.run(&named);
        for (_, tensor) in named {
            self.pool.give(tensor.data);
        }
        result?.into_iter().map(|(name, tensor)| Ok(NamedTensor { name, tensor: to_wasi(tensor)? })).collect()
    }

    /// Runs the session, and stops it at the call's deadline where the engine can be stopped.
    fn run(&self, inputs: &[Named]) -> Result<Vec<Named>, String> {
        let deadline = self.note().deadline;
        // Waiting for another's run is not the component's time either.
        let waiting = Instant::now();
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        // A component may call more than once in its time.
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let mut note = self.note();
            note.engine += waiting.elapsed();
            note.stopped = true;
            return Err("no time is left".to_owned());
        }
        // Armed while the session is locked: it stops this run and no other's.
        let watch = session.brake().zip(deadline).map(|(brake, deadline)| {
            brake.release();
            watch(deadline, brake)
        });
        let result = session.run(inputs, &self.pool);
        let stopped = watch.is_some_and(Watch::end);
        drop(session);
        let mut note = self.note();
        note.engine += waiting.elapsed();
        note.stopped |= stopped && result.is_err();
        result.map_err(|error| error.to_string())
    }
}

fn find<'a>(infos: &'a [TensorInfo], name: &str) -> Option<&'a TensorInfo> {
    infos.iter().find(|info| info.name == name)
}

impl BackendGraph for Slice {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let context: Box<dyn BackendExecutionContext> = Box::new(self.clone());
        Ok(context.into())
    }
}

impl BackendExecutionContext for Slice {
    fn set_input(&mut self, _: Id, _: &WasiTensor) -> Result<(), BackendError> {
        Err(preview1())
    }

    fn get_output(&mut self, _: Id) -> Result<WasiTensor, BackendError> {
        Err(preview1())
    }

    fn compute(&mut self, inputs: Option<Vec<NamedTensor>>) -> Result<Option<Vec<NamedTensor>>, BackendError> {
        let inputs = inputs.ok_or_else(preview1)?;
        Slice::compute(self, inputs).map(Some).map_err(|cause| {
            let error = BackendError::BackendAccess(wasmtime::format_err!("{cause}"));
            self.note().failure = Some(cause);
            error
        })
    }
}

/// These calls belong to core modules, which are no components and so never get here.
fn preview1() -> BackendError {
    BackendError::BackendAccess(wasmtime::format_err!("only wasi-nn's component interface is offered"))
}

struct OneGraph(Graph);

impl GraphRegistry for OneGraph {
    fn get(&self, name: &str) -> Option<&Graph> {
        (name == GRAPH).then_some(&self.0)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Graph> {
        (name == GRAPH).then_some(&mut self.0)
    }
}

/// wasi-nn's type for elements of `dtype`.
fn carrier(dtype: DType) -> TensorType {
    match dtype {
        DType::Fp16 => TensorType::Fp16,
        DType::Fp32 => TensorType::Fp32,
        DType::Fp64 => TensorType::Fp64,
        DType::Bf16 => TensorType::Bf16,
        DType::Uint8 | DType::Int8 | DType::Bool => TensorType::U8,
        DType::Uint16 | DType::Int16 => TensorType::Fp16,
        DType::Int32 | DType::Uint32 => TensorType::I32,
        DType::Int64 | DType::Uint64 => TensorType::I64,
    }
}

pub(super) fn to_wasi(tensor: Tensor) -> Result<WasiTensor, String> {
    let Tensor { dtype, shape, data } = tensor;
    let dimensions = shape
        .iter()
        .map(|&dim| u32::try_from(dim).map_err(|_| format!("dimension {dim} is over wasi-nn's limit of 32 bits")))
        .collect::<Result<_, _>>()?;
    Ok(WasiTensor::new(dimensions, carrier(dtype), data))
}

pub(super) fn from_wasi(tensor: WasiTensor, dtype: DType) -> Result<Tensor, String> {
    let WasiTensor { dimensions, ty, data } = tensor;
    if ty != carrier(dtype) {
        return Err(format!("a tensor of wasi-nn type {ty:?} where {dtype} travels as {:?}", carrier(dtype)));
    }
    let shape: Vec<usize> = dimensions.iter().map(|&dim| dim as usize).collect();
    if byte_len(dtype, &shape) != Some(data.len()) {
        return Err(format!("{} bytes for a tensor {dtype}{shape:?}", data.len()));
    }
    Ok(Tensor { dtype, shape, data })
}
