//! The chain behind the inference protocol: admission, encoding, waiting.

use super::chain::Chain;
use super::ledger::{Ledger, Reply};
use crate::buffer::Pool;
use crate::engine::Named;
use crate::oip::stats::{Recorder, Steps};
use crate::oip::{Backend, InferError, InferRequest, InferResponse, ModelMetadata, ModelStats};
use crate::relay::codec::{self, Codec};
use crate::relay::frame::{Failure, FailureKind, MAX_RANK, Part};
use crate::telemetry::{Counter, Timings};
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// When a refused client may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    ledger: Arc<Ledger>,
    chain: RwLock<Option<Arc<Chain>>>,
    /// Names of the tensors that enter the first stage, in the order in which frames number them.
    entering: Vec<String>,
    codec: Codec,
    pool: Pool,
    /// Bytes of one tensor.
    max_tensor: usize,
    places: Semaphore,
    /// Requests in the chain and before it.
    capacity: usize,
    patience: Duration,
    stopping: AtomicBool,
}

/// What a [`Service`] is made of.
pub struct Parts {
    pub metadata: ModelMetadata,
    pub ledger: Arc<Ledger>,
    pub entering: Vec<String>,
    pub codec: Codec,
    pub pool: Pool,
    pub max_tensor: usize,
    /// Requests accepted and not answered, at most.
    pub capacity: usize,
    /// How long an answer may take where the client names no limit.
    pub patience: Duration,
}

impl Service {
    pub fn new(parts: Parts) -> Self {
        let Parts { metadata, ledger, entering, codec, pool, max_tensor, capacity, patience } = parts;
        Self {
            metadata,
            counters: Counters::default(),
            ledger,
            chain: RwLock::default(),
            entering,
            codec,
            pool,
            max_tensor,
            places: Semaphore::new(capacity),
            capacity,
            patience,
            stopping: AtomicBool::new(false),
        }
    }

    /// Turns requests to `chain`.
    pub fn serve_by(&self, chain: Arc<Chain>) {
        *self.chain.write().unwrap_or_else(PoisonError::into_inner) = Some(chain);
    }

    /// Accepts no more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Closes the links.
    pub fn close(&self) {
        *self.chain.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Bytes that a request may have: every input as large as the nodes take, and room for its header.
    pub fn max_body_bytes(&self) -> usize {
        self.max_tensor.saturating_mul(self.metadata.inputs.len().max(1)).saturating_add(1 << 20)
    }

    pub fn pending(&self) -> usize {
        self.ledger.pending()
    }

    pub fn is_up(&self) -> bool {
        self.chain().is_some_and(|chain| chain.is_up())
    }

    fn chain(&self) -> Option<Arc<Chain>> {
        self.chain.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The chain to send a request through now, or why not.
    fn open(&self) -> Result<Arc<Chain>, InferError> {
        let unavailable = |reason: &str| {
            self.counters.refused.add(1);
            Err(InferError::Unavailable { reason: reason.to_owned(), retry_after: RETRY_AFTER })
        };
        if self.stopping.load(Ordering::Relaxed) {
            return unavailable("the dispatcher is shutting down");
        }
        match self.chain() {
            Some(chain) if chain.is_up() => Ok(chain),
            _ => unavailable("a node of the chain cannot be reached; the dispatcher keeps trying"),
        }
    }

    fn overloaded(&self) -> InferError {
        self.counters.refused.add(1);
        let reason = format!("{} requests are pending, and that is the limit (dispatch --queue)", self.capacity);
        InferError::Overloaded { reason, retry_after: RETRY_AFTER }
    }

    /// Encodes what the first stage needs; inputs that no stage uses end here.
    fn encode(&self, inputs: Vec<Named>) -> Result<Vec<Part>, InferError> {
        let mut parts = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            if tensor.shape.len() > MAX_RANK {
                let text =
                    format!("input \"{name}\" has {} dimensions; nodes take at most {MAX_RANK}", tensor.shape.len());
                return Err(InferError::Invalid(text));
            }
            if tensor.data.len() > self.max_tensor {
                let (got, limit) = (tensor.data.len(), self.max_tensor);
                let text = format!("input \"{name}\" has {got} bytes; the nodes take {limit} (serve --max-tensor-mb)");
                return Err(InferError::Invalid(text));
            }
            if let Some(number) = self.entering.iter().position(|entering| *entering == name) {
                let number = u16::try_from(number).expect("hops carry few tensors");
                parts.push(Part { name: number, tensor: codec::encode(tensor, self.codec, &self.pool) });
            }
        }
        parts.sort_by_key(|part| part.name);
        Ok(parts)
    }

    /// Runs an accepted request, and tells where its time went:
    /// - `input`: encoding its tensors for the first hop;
    /// - `queue`: from there until its frame went onto the first link, which is waiting for the chain's credit;
    /// - `infer`: from there until the frame that answers arrived from the last link. That is everything in the chain:
    ///   transport, and decoding, computing, encoding and waiting in every stage, and again where it was sent again;
    /// - `output`: decoding the outputs and waking the request.
    async fn run(&self, chain: &Chain, request: InferRequest) -> Result<(Vec<Named>, Steps), InferError> {
        let accepted = Instant::now();
        let deadline = accepted + request.budget.unwrap_or(self.patience);
        let parts = if self.codec == Codec::Raw {
            self.encode(request.inputs)?
        } else {
            // Compression would hold up other requests.
            tokio::task::block_in_place(|| self.encode(request.inputs))?
        };
        let encoded = Instant::now();
        let (frame, _entry, answer) = self.ledger.enter(parts, request.trace, deadline);
        let wait = async {
            chain.feed(frame).await;
            answer.await
        };
        let answer = tokio::time::timeout_at(deadline.into(), wait).await.map_err(|_| {
            let waited = request.budget.unwrap_or(self.patience).as_secs_f64();
            InferError::TimedOut(format!("no answer from the chain within {waited} s"))
        })?;
        let Reply { answer, sent, arrived } =
            answer.map_err(|_| InferError::Failed("the dispatcher lost the request".to_owned()))?;
        let outputs = answer.map_err(|failure| self.failed(&failure))?;
        let answered = Instant::now();
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
        self.open()?;
        if self.places.available_permits() == 0 { Err(self.overloaded()) } else { Ok(()) }
    }

    async fn infer(&self, request: InferRequest) -> Result<InferResponse, InferError> {
        let chain = self.open()?;
        let _place = self.places.try_acquire().map_err(|_| self.overloaded())?;
        self.counters.accepted.add(1);
        let started = Instant::now();
        let result = self.run(&chain, request).await;
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
