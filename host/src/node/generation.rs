//! Generations on this node: which stages of which pipeline it runs, for which dispatcher, and where their output goes.

use super::loaded::Loaded;
use super::outlet::{self, Next};
use super::runner::Health;
use super::slot::{self, Counters, Identity};
use crate::artifact::Digest;
use crate::relay::frame::PipelineId;
use crate::relay::traffic::Incoming;
use crate::relay::{Codec, CodecChoice, Connection, Limits, Tag, Token};
use crate::sandbox::SandboxError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Nodes of the next stage that a stage may send to, each over a connection of its own.
const MOST_NEXT: usize = 256;

/// Body of `PUT /v1/pipelines/{p}/generations/{g}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    pub dispatcher: Owner,
    /// How long the dispatcher's claim lasts without being renewed, in ms.
    pub lease_ms: u64,
    /// This node's stages.
    pub stages: Vec<Assignment>,
    /// Engines that stages already run on elsewhere, by name: a node that measures its engines takes the same for a replica.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub engines: BTreeMap<usize, String>,
}

/// The dispatcher that a pipeline belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub name: String,
    /// Drawn anew at each start.
    pub incarnation: u64,
    /// Incarnations of its earlier lives: what is theirs is its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heir_of: Vec<u64>,
}

/// One stage for this node to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub index: usize,
    /// SHA-256 of its artifact, which must be on the node already.
    pub artifact: Digest,
    /// Where its output goes: each frame to one of these, the nodes of the next stage. Empty for the last stage, from which the
    /// dispatcher collects.
    #[serde(default)]
    pub next: Vec<Hop>,
    /// Codec of what it sends.
    #[serde(default)]
    pub codec: CodecChoice,
    /// Lossy codecs that `auto` may use as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lossy: Vec<Codec>,
}

impl Assignment {
    /// # Errors
    /// What it asks for that no stage can do, whatever its artifact is.
    pub fn check(&self) -> Result<(), String> {
        if self.next.len() > MOST_NEXT {
            return Err(format!("{} next nodes are given, {MOST_NEXT} are possible", self.next.len()));
        }
        if let Some(hop) = self.next.iter().find(|hop| hop.stage != self.index + 1) {
            return Err(format!("it is to send to stage {}, the next one is {}", hop.stage, self.index + 1));
        }
        if let Some(codec) = self.lossy.iter().find(|codec| !CodecChoice::may_allow(**codec)) {
            return Err(format!("{codec} is no lossy codec that auto could choose"));
        }
        if self.lossy.len() > CodecChoice::MOST_LOSSY {
            let (given, most) = (self.lossy.len(), CodecChoice::MOST_LOSSY);
            return Err(format!("{given} lossy codecs are allowed, auto chooses among {most} at most"));
        }
        Ok(())
    }
}

/// A node that runs the next stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Address of its relay, `host:port`.
    pub relay: String,
    pub stage: usize,
}

/// How far a generation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Loaded and warmed up; dropped again if its lease ends before anyone uses it.
    Prepared,
    /// In use.
    Active,
    /// Finishing what is in it.
    Draining,
    /// One of its stages does not compute: its engine did not stop. Said of that stage only.
    Failed,
}

/// A generation of one pipeline, as far as it is on this node.
pub struct Generation {
    pub pipeline: String,
    pub number: u64,
    pub prepare: Prepare,
    pub slots: BTreeMap<usize, Slot>,
    state: Mutex<State>,
    lease_until: Mutex<Instant>,
    used: AtomicBool,
    /// Ends all its connections.
    cancel: CancellationToken,
}

/// One stage of a generation.
pub struct Slot {
    pub loaded: Arc<Loaded>,
    pub counters: Arc<Counters>,
    pub health: Arc<Health>,
    pub codec: CodecChoice,
    pub lossy: Vec<Codec>,
    /// Tensors in a frame that enters.
    pub entering: usize,
    inlet: mpsc::UnboundedSender<Incoming>,
    collectors: mpsc::Sender<Connection>,
}

/// What a generation needs of the node to run.
#[derive(Clone)]
pub struct Context {
    pub node: String,
    pub token: Token,
    pub limits: Limits,
}

impl Generation {
    /// Starts the stages of `prepare` over what was loaded for each, in the same order.
    pub fn start(
        context: &Context,
        pipeline: &str,
        number: u64,
        prepare: Prepare,
        loaded: Vec<Arc<Loaded>>,
    ) -> Result<Self, SandboxError> {
        let cancel = CancellationToken::new();
        // Whatever fails below, threads and tasks already started must end.
        let guard = cancel.clone().drop_guard();
        let mut slots = BTreeMap::new();
        for (assignment, loaded) in prepare.stages.iter().zip(loaded) {
            let identity = Identity {
                node: context.node.clone(),
                pipeline: pipeline.to_owned(),
                generation: number,
                stage: assignment.index,
            };
            let counters = Arc::new(Counters::default());
            let health = Arc::new(Health::default());
            let (out, frames) = mpsc::channel(outlet::QUEUE);
            let inlet = slot::start(
                identity.clone(),
                Arc::clone(&loaded),
                (assignment.codec, assignment.lossy.clone()),
                (Arc::clone(&counters), Arc::clone(&health)),
                &context.limits,
                out,
            )?;
            let (collectors, collected) = mpsc::channel(4);
            let next = match assignment.next.as_slice() {
                [] => Next::Collected(collected),
                hops => Next::Dial(hops.to_vec()),
            };
            let outlet = outlet::Outlet {
                identity,
                incarnation: prepare.dispatcher.incarnation,
                token: context.token.clone(),
                limits: context.limits.clone(),
                counters: Arc::clone(&counters),
            };
            tokio::spawn(cancel.clone().run_until_cancelled_owned(outlet.run(next, frames)));
            let entering = loaded.artifact.manifest.entering().len();
            let (codec, lossy) = (assignment.codec, assignment.lossy.clone());
            let slot = Slot { loaded, counters, health, codec, lossy, entering, inlet, collectors };
            slots.insert(assignment.index, slot);
        }
        guard.disarm();
        let lease_until = Mutex::new(Instant::now() + Duration::from_millis(prepare.lease_ms));
        Ok(Self {
            pipeline: pipeline.to_owned(),
            number,
            prepare,
            slots,
            state: Mutex::new(State::Prepared),
            lease_until,
            used: AtomicBool::new(false),
            cancel,
        })
    }

    pub fn state(&self) -> State {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state == State::Prepared && self.used.load(Ordering::Relaxed) { State::Active } else { state }
    }

    /// Someone feeds or collects it: from now on it does not expire.
    pub fn activate(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    pub fn drain(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Draining;
    }

    /// The owner is alive and still wants it.
    pub fn renew(&self, lease_ms: u64) {
        *self.lease_until.lock().unwrap_or_else(PoisonError::into_inner) =
            Instant::now() + Duration::from_millis(lease_ms);
    }

    /// Whether the owner was heard of within its lease.
    pub fn is_leased(&self) -> bool {
        *self.lease_until.lock().unwrap_or_else(PoisonError::into_inner) > Instant::now()
    }

    /// Whether nobody will miss it: prepared, never used, and its lease over.
    pub fn is_expired(&self) -> bool {
        self.state() == State::Prepared && !self.is_leased()
    }

    /// Frames inside any of its stages.
    pub fn in_flight(&self) -> u64 {
        self.slots.values().map(|slot| slot.counters.in_flight()).sum()
    }

    /// Ends its connections, and with them its threads once nobody holds it any more.
    pub fn end(&self) {
        self.cancel.cancel();
    }

    /// Cancelled when the generation is dropped from the node.
    pub fn ended(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Why a frame with this tag has no business in this generation, if so.
    pub fn refuses(&self, tag: &Tag) -> Option<String> {
        let own = self.prepare.dispatcher.incarnation;
        if tag.pipeline != PipelineId::of(&self.pipeline) {
            return Some(format!("a frame of another pipeline on a connection for \"{}\"", self.pipeline));
        }
        if tag.generation != self.number {
            return Some(format!("a frame of generation {} on a connection for {}", tag.generation, self.number));
        }
        (tag.incarnation != own)
            .then(|| format!("a frame of dispatcher incarnation {:x}, not {own:x}", tag.incarnation))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Slot {
    /// Hands a frame to the stage.
    pub fn deliver(&self, incoming: Incoming) -> Result<(), String> {
        let bytes = incoming.content.iter().flatten().map(|part| part.tensor.data.len() as u64).sum();
        self.counters.received.add(1);
        self.counters.bytes_in.add(bytes);
        self.inlet.send(incoming).map_err(|_| "the stage is being dropped".to_owned())
    }

    /// Hands over a connection on which the dispatcher collects. It replaces the one before.
    pub async fn collect(&self, connection: Connection) {
        // The receiving end lives as long as the generation.
        let _ = self.collectors.send(connection).await;
    }
}
