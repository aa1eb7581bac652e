//! The chain behind the inference protocol: admission, encoding, waiting.

use super::generations::{Generations, Trouble};
use super::ledger::Reply;
use super::placement::has;
use super::running::Running;
use crate::buffer::Pool;
use crate::engine::Named;
use crate::oip::stats::{Recorder, Steps};
use crate::oip::{Backend, InferError, InferRequest, InferResponse, ModelMetadata, ModelStats};
use crate::relay::frame::{Failure, FailureKind, MAX_RANK, Part};
use crate::telemetry::{Counter, Timings};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// When a refused client may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a request waits for a chain that is being mended.
const MENDING: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);
const UNREACHABLE: &str = "a node of the chain cannot be reached; the dispatcher keeps trying";
const REPLACED: &str = "the pipeline is being replaced";

/// What a dispatcher has done since it started.
#[derive(Debug, Default)]
pub struct Counters {
    pub accepted: Counter,
    pub answered: Counter,
    pub failed: Counter,
    pub refused: Counter,
    /// From acceptance to answer.
    pub latency: Timings,
    /// The same and its parts, as the inference protocol asks for them.
    pub steps: Recorder,
}

/// One pipeline, as clients see it.
pub struct Service {
    pub metadata: ModelMetadata,
    pub counters: Counters,
    generations: Arc<Generations>,
    pool: Pool,
    /// Bytes of one tensor.
    max_tensor: usize,
    places: Semaphore,
    /// Requests in the chains and before them.
    capacity: usize,
    patience: Duration,
    stopping: AtomicBool,
}

/// What a [`Service`] is made of.
pub struct Parts {
    pub metadata: ModelMetadata,
    pub generations: Arc<Generations>,
    pub pool: Pool,
    pub max_tensor: usize,
    /// Requests accepted and not answered, at most.
    pub capacity: usize,
    /// How long an answer may take where the client names no limit.
    pub patience: Duration,
}

impl Service {
    pub fn new(parts: Parts) -> Self {
        let Parts { metadata, generations, pool, max_tensor, capacity, patience } = parts;
        Self {
            metadata,
            counters: Counters::default(),
            generations,
            pool,
            max_tensor,
            places: Semaphore::new(capacity),
            capacity,
            patience,
            stopping: AtomicBool::new(false),
        }
    }

    /// Accepts no more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Bytes that a request may have: every input as large as the nodes take, and room for its header.
    pub fn max_body_bytes(&self) -> usize {
        self.max_tensor.saturating_mul(self.metadata.inputs.len().max(1)).saturating_add(1 << 20)
    }

    pub fn pending(&self) -> usize {
        self.generations.place.ledger.pending()
    }

    pub fn is_up(&self) -> bool {
        self.generations.active().is_some_and(|running| running.is_up())
    }

    fn unavailable(&self, reason: &str) -> InferError {
        self.counters.refused.add(1);
        InferError::Unavailable { reason: reason.to_owned(), retry_after: RETRY_AFTER }
    }

    /// Why a request would not be accepted now, if so. A chain that is broken is a reason only where nothing mends it.
    fn closed(&self) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("the dispatcher is shutting down".to_owned());
        }
        if let Trouble::Stuck(reason) = &*self.generations.trouble.borrow() {
            return Some(reason.clone());
        }
        let Some(active) = self.generations.active() else { return Some(REPLACED.to_owned()) };
        (!active.is_up() && !self.has_spare(&active)).then(|| UNREACHABLE.to_owned())
    }

    /// Whether there is a node to move a stage to.
    fn has_spare(&self, active: &Running) -> bool {
        let homes = active.deployment.homes();
        self.generations.fleet.up().any(|node| !has(&homes, node))
    }

    /// The generation to send a request through, once there is one with its links up.
    async fn ingress(&self) -> Result<Arc<Running>, InferError> {
        let end = Instant::now() + MENDING;
        loop {
            if let Some(reason) = self.closed() {
                return Err(self.unavailable(&reason));
            }
            if let Some(running) = self.generations.pick().filter(|running| running.is_up()) {
                return Ok(running);
            }
            if Instant::now() > end {
                return Err(self.unavailable(UNREACHABLE));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn overloaded(&self) -> InferError {
        self.counters.refused.add(1);
        let reason = format!("{} requests are pending, and that is the limit (dispatch --queue)", self.capacity);
        InferError::Overloaded { reason, retry_after: RETRY_AFTER }
    }

    /// Encodes what the first stage needs; inputs that no stage uses end here.
    fn encode(&self, running: &Running, inputs: Vec<Named>) -> Result<Vec<Part>, InferError> {
        let mut entering = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            if tensor.shape.len() > MAX_RANK {
                let text =
                    format!("input \"{name}\" has {} dimensions; nodes take at most {MAX_RANK}", tensor.shape.len());
                return Err(InferError::Invalid(text));
            }
            if tensor.data.len() > running.max_tensor {
                let (got, limit) = (tensor.data.len(), running.max_tensor);
                let text = format!("input \"{name}\" has {got} bytes; the nodes take {limit} (serve --max-tensor-mb)");
                return Err(InferError::Invalid(text));
            }
            if let Some(number) = running.entering.iter().position(|entering| *entering == name) {
                let number = u16::try_from(number).expect("hops carry few tensors");
                entering.push((number, tensor));
            }
        }
        let mut parts = running.ingress().encode(entering, &self.pool);
        parts.sort_by_key(|part| part.name);
        Ok(parts)
    }

    /// Runs an accepted request, and tells where its time went:
    /// - `input`: encoding its tensors for the first hop;
    /// - `queue`: from there until its frame went onto the first link, which is waiting for the chain's credit;
    /// - `infer`: from there until the frame that answers arrived from the last link. That is everything in the chain:
    ///   transport, and decoding, computing, encoding and waiting in every stage, and again where it was sent again;
    /// - `output`: decoding the outputs and waking the request.
    async fn run(&self, first: Arc<Running>, request: InferRequest) -> Result<(Vec<Named>, Steps), InferError> {
        let accepted = Instant::now();
        let deadline = accepted + request.budget.unwrap_or(self.patience);
        let mut running = first;
        let mut parts = if running.ingress().is_cheap() {
            self.encode(&running, request.inputs)?
        } else {
            // Compression would hold up other requests.
            tokio::task::block_in_place(|| self.encode(&running, request.inputs))?
        };
        let encoded = Instant::now();
        let ledger = &self.generations.place.ledger;
        let (frame, _entry, answer) = loop {
            match ledger.enter(running.number(), parts, request.trace, deadline) {
                Ok(entered) => break entered,
                // The ingress has turned meanwhile.
                Err(back) => {
                    let next = self.ingress().await?;
                    let renumbered = next.renumber(&back.into(), &running.entering).map_err(InferError::Failed)?;
                    parts = renumbered.to_vec();
                    running = next;
                }
            }
        };
        let wait = async {
            running.feed(frame).await;
            answer.await
        };
        let answer = tokio::time::timeout_at(deadline.into(), wait).await.map_err(|_| {
            running.answers.failed.add(1);
            let waited = request.budget.unwrap_or(self.patience).as_secs_f64();
            InferError::TimedOut(format!("no answer from the chain within {waited} s"))
        })?;
        let Reply { answer, generation, sent, arrived } =
            answer.map_err(|_| InferError::Failed("the dispatcher lost the request".to_owned()))?;
        let answered = Instant::now();
        if let Some(by) = self.generations.find(generation) {
            match &answer {
                Ok(_) => {
                    by.answers.answered.add(1);
                    by.answers.latency.record(answered - accepted);
                }
                Err(_) => by.answers.failed.add(1),
            }
        }
        let outputs = answer.map_err(|failure| self.failed(&failure))?;
        let sent = sent.unwrap_or(encoded);
        let arrived = arrived.unwrap_or(answered);
        let steps = Steps {
            total: answered - accepted,
            queue: sent.saturating_duration_since(encoded),
            input: encoded - accepted,
            infer: arrived.saturating_duration_since(sent),
            output: answered.saturating_duration_since(arrived),
        };
        Ok((outputs, steps))
    }

    fn failed(&self, failure: &Failure) -> InferError {
        let Failure { node, stage, kind, cause } = failure;
        let cause = cause.join(": ");
        let text = match *stage {
            usize::MAX => cause,
            stage => format!("stage {}/{stage} on node \"{node}\": {cause}", self.metadata.name),
        };
        match kind {
            FailureKind::Invalid => InferError::Invalid(text),
            FailureKind::Expired => InferError::TimedOut(text),
            FailureKind::Stage | FailureKind::Damaged => InferError::Failed(text),
        }
    }
}

#[async_trait]
impl Backend for Service {
    fn ready(&self) -> bool {
        self.is_up() && !self.stopping.load(Ordering::Relaxed)
    }

    fn models(&self) -> Vec<ModelMetadata> {
        vec![self.metadata.clone()]
    }

    fn model_ready(&self, name: &str) -> bool {
        name == self.metadata.name && self.ready()
    }

    fn stats(&self, name: &str) -> Vec<ModelStats> {
        let ModelMetadata { name: own, versions, .. } = &self.metadata;
        // All versions are the one pipeline; today there is one.
        let known = versions.iter().filter(|_| name == own);
        known.map(|version| self.counters.steps.stats(own, version)).collect()
    }

    fn admit(&self, _model: &str, _body_bytes: Option<u64>) -> Result<(), InferError> {
        if let Some(reason) = self.closed() {
            return Err(self.unavailable(&reason));
        }
        if self.places.available_permits() == 0 { Err(self.overloaded()) } else { Ok(()) }
    }

    async fn infer(&self, request: InferRequest) -> Result<InferResponse, InferError> {
        if let Some(reason) = self.closed() {
            return Err(self.unavailable(&reason));
        }
        let _place = self.places.try_acquire().map_err(|_| self.overloaded())?;
        let running = self.ingress().await?;
        self.counters.accepted.add(1);
        let started = Instant::now();
        let result = self.run(running, request).await;
        match &result {
            Ok((_, steps)) => {
                self.counters.answered.add(1);
                self.counters.latency.record(steps.total);
                self.counters.steps.success(*steps);
            }
            Err(_) => {
                self.counters.failed.add(1);
                self.counters.steps.failure(started.elapsed());
            }
        }
        result.map(|(outputs, _)| InferResponse { outputs })
    }
}
