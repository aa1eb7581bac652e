//! One stage of one generation at work: decode → sandbox → encode, each on a thread of its own, joined by short queues,
//! so that the three overlap for different frames.

use super::ailing::Unreached;
use super::drift::Drift;
use super::loaded::Loaded;
use super::runner::{Health, Queues};
use crate::buffer::Pool;
use crate::engine::Named;
use crate::relay::chooser::Cores;
use crate::relay::codec::{self, Choice, Codec};
use crate::relay::frame::{Failure, FailureKind, Part, Tag};
use crate::relay::traffic::{Credit, Incoming, Origin, Outgoing};
use crate::relay::{Limits, LinkRate};
use crate::sandbox::{RunError, SandboxError};
use crate::telemetry::{Counter, Timings};
use serde::Serialize;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Frames between two threads of a slot.
const BETWEEN: usize = 1;

/// Who a slot is, for failures and logs.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: String,
    pub pipeline: String,
    pub generation: u64,
    pub stage: usize,
}

impl Identity {
    pub fn origin(&self) -> Origin {
        Origin { node: self.node.clone(), stage: self.stage }
    }
}

/// What a slot has done since it was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames that came in.
    pub received: Counter,
    /// Frames that went out, failures included.
    pub sent: Counter,
    /// Requests that failed in this stage.
    pub failed: Counter,
    /// Encoded bytes of tensors in and out.
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub decode: Timings,
    /// Inside the engine.
    pub compute: Timings,
    /// Whether that has become longer.
    pub drift: Drift,
    /// The call into the component, without the engine's time.
    pub sandbox: Timings,
    pub encode: Timings,
    /// How fast the link to the next stage is.
    pub link: LinkRate,
    /// Nodes of the next stage to which there is none.
    pub unreached: Unreached,
    pub codec_in_use: InUse,
}

/// The codec of the latest frame, where the node chooses.
#[derive(Debug, Default)]
pub struct InUse(Mutex<Option<Codec>>);

impl InUse {
    pub fn get(&self) -> Option<Codec> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the latest, and gives the one before.
    pub fn replace(&self, codec: Codec) -> Option<Codec> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(codec)
    }
}

/// [`Counters`] as JSON.
#[derive(Debug, Serialize)]
pub struct CountersJson {
    frames_received: u64,
    frames_sent: u64,
    requests_failed: u64,
    bytes_in: u64,
    bytes_out: u64,
    decode: crate::telemetry::Summary,
    compute: crate::telemetry::Summary,
    sandbox: crate::telemetry::Summary,
    encode: crate::telemetry::Summary,
    /// Rate of the link to the next stage while it is busy, in Mbit/s; `null` until enough was sent.
    link_mbit: Option<f64>,
    /// Median compute time of the latest requests over that of early ones; `null` until there were enough.
    pub drift: Option<f64>,
}

/// A series of [`CountersJson`] by the name that Prometheus knows it by.
type Series = (&'static str, fn(&CountersJson) -> f64);

impl CountersJson {
    /// What Prometheus is told.
    pub const SERIES: [Series; 8] = [
        ("frames_received", |c| c.frames_received as f64),
        ("frames_sent", |c| c.frames_sent as f64),
        ("requests_failed", |c| c.requests_failed as f64),
        ("bytes_in", |c| c.bytes_in as f64),
        ("bytes_out", |c| c.bytes_out as f64),
        ("decode_seconds", |c| c.decode.sum_us / 1e6),
        ("compute_seconds", |c| c.compute.sum_us / 1e6),
        ("encode_seconds", |c| c.encode.sum_us / 1e6),
    ];
}

impl Counters {
    /// Frames that came in and have not gone out.
    pub fn in_flight(&self) -> u64 {
        self.received.get().saturating_sub(self.sent.get())
    }

    pub fn json(&self) -> CountersJson {
        CountersJson {
            frames_received: self.received.get(),
            frames_sent: self.sent.get(),
            requests_failed: self.failed.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            decode: self.decode.summary(),
            compute: self.compute.summary(),
            sandbox: self.sandbox.summary(),
            encode: self.encode.summary(),
            link_mbit: self.link.mbit(),
            drift: self.drift.ratio(),
        }
    }
}

/// What the threads of a slot share.
pub(super) struct Shared {
    pub identity: Identity,
    pub loaded: Arc<Loaded>,
    pub counters: Arc<Counters>,
    pub health: Arc<Health>,
    pub codec: Choice,
    /// What `auto` may choose from besides lossless codecs.
    pub lossy: Vec<Codec>,
    pub cores: Cores,
    pub pool: Pool,
    /// Bytes of one tensor.
    pub max_tensor: usize,
    /// Names of the tensors that enter and leave, in the order in which frames number them.
    entering: Vec<String>,
    pub leaving: Vec<String>,
}

/// A request on its way through the slot, failed or not.
pub(super) struct Job<T> {
    pub tag: Tag,
    pub deadline: Option<Instant>,
    pub content: Result<Tensors<T>, Failure>,
    /// Time that this node has spent on it so far, waiting apart.
    pub work: Duration,
    /// Held until the sandbox takes the request up.
    pub credit: Option<Credit>,
}

pub(super) struct Tensors<T> {
    pub own: T,
    /// Passed on as they came, under the number that they leave with.
    pub forwards: Vec<Part>,
}

/// Starts the threads of a slot over `loaded`. They end when the returned sender is dropped.
pub fn start(
    identity: Identity,
    loaded: Arc<Loaded>,
    (codec, lossy): (Choice, Vec<Codec>),
    (counters, health): (Arc<Counters>, Arc<Health>),
    limits: &Limits,
    out: mpsc::Sender<Outgoing>,
) -> Result<mpsc::UnboundedSender<Incoming>, SandboxError> {
    let names = |infos: Vec<&defer_partition::TensorInfo>| infos.into_iter().map(|info| info.name.clone()).collect();
    let manifest = &loaded.artifact.manifest;
    let (entering, leaving) = (names(manifest.entering()), names(manifest.leaving()));
    let instance = loaded.instance()?;
    let shared = Arc::new(Shared {
        identity,
        loaded,
        counters,
        health,
        codec,
        lossy,
        cores: Cores::here(),
        pool: limits.pool.clone(),
        max_tensor: limits.max_tensor,
        entering,
        leaving,
    });
    // Bounded by the credit that each connection is given.
    let (inlet, incoming) = mpsc::unbounded_channel();
    let (decoded, to_run) = sync_channel(BETWEEN);
    let (computed, to_encode) = sync_channel(BETWEEN);
    let queues = Queues { jobs: to_run, next: computed };
    let spawn = |what: &str, work: Box<dyn FnOnce() + Send>| {
        let name = format!("{what} {}/{}", shared.identity.pipeline, shared.identity.stage);
        thread::Builder::new().name(name).spawn(work).map_err(start_error)
    };
    let of = Arc::clone(&shared);
    spawn("decode", Box::new(move || of.decode_all(incoming, &decoded)))?;
    let of = Arc::clone(&shared);
    spawn("run", Box::new(move || of.compute_all(instance, queues)))?;
    let of = Arc::clone(&shared);
    spawn("encode", Box::new(move || of.encode_all(&to_encode, &out)))?;
    Ok(inlet)
}

fn start_error(error: io::Error) -> SandboxError {
    SandboxError::Start(format!("no thread for a stage: {error}"))
}

impl Shared {
    fn decode_all(&self, mut incoming: mpsc::UnboundedReceiver<Incoming>, next: &SyncSender<Job<Vec<Named>>>) {
        while let Some(Incoming { tag, deadline, content, credit }) = incoming.blocking_recv() {
            let started = Instant::now();
            let content = content.and_then(|parts| self.decode(parts));
            let work = started.elapsed();
            self.counters.decode.record(work);
            if next.send(Job { tag, deadline, content, work, credit: Some(credit) }).is_err() {
                return;
            }
        }
    }

    /// Decodes what the stage computes from, and sets aside what it passes on.
    fn decode(&self, parts: Vec<Part>) -> Result<Tensors<Vec<Named>>, Failure> {
        let manifest = &self.loaded.artifact.manifest;
        let (mut own, mut forwards) = (Vec::with_capacity(manifest.inputs.len()), Vec::new());
        for part in parts {
            let Some(name) = self.entering.get(usize::from(part.name)) else {
                return Err(self.failure(FailureKind::Invalid, format!("no tensor number {} enters here", part.name)));
            };
            let is_input = manifest.inputs.iter().any(|info| info.name == *name);
            if let Some(number) = self.forwarded(name) {
                if !is_input {
                    forwards.push(Part { name: number, tensor: part.tensor });
                    continue;
                }
                // Used here and passed on: needed twice, since the engine takes the buffer.
                forwards.push(Part { name: number, tensor: part.tensor.copy(&self.pool) });
            }
            let tensor = codec::decode(part.tensor, &self.pool)
                .map_err(|error| self.failure(FailureKind::Damaged, format!("tensor \"{name}\": {error}")))?;
            own.push((name.clone(), tensor));
        }
        Ok(Tensors { own, forwards })
    }

    /// The number under which the tensor `name` leaves, if it is passed on.
    fn forwarded(&self, name: &str) -> Option<u16> {
        let forwards = &self.loaded.artifact.manifest.forwards;
        forwards.iter().find(|info| info.name == name)?;
        self.leaving.iter().position(|leaving| leaving == name).and_then(|at| u16::try_from(at).ok())
    }

    pub fn run_failure(&self, error: &RunError) -> Failure {
        let kind = if matches!(error, RunError::Inputs(_)) { FailureKind::Invalid } else { FailureKind::Stage };
        self.failure(kind, error.to_string())
    }

    pub fn failure(&self, kind: FailureKind, cause: String) -> Failure {
        self.counters.failed.add(1);
        let Identity { node, pipeline, generation, stage } = &self.identity;
        tracing::debug!(pipeline, generation, stage, cause, "a request failed");
        Failure { node: node.clone(), stage: *stage, kind, cause: vec![cause] }
    }
}
