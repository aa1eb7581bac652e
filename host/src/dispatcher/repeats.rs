//! Requests that clients may repeat without having them run twice: those with an `Idempotency-Key`.
//!
//! The first request with a key runs, even where its client goes away meanwhile; whoever repeats it within the window gets
//! the same answer. What failed is not kept: its repetition is another try.

use super::service::Service;
use crate::engine::Named;
use crate::oip::{Backend, InferError, InferRequest, InferResponse, ModelMetadata, ModelStats};
use async_trait::async_trait;
use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use twox_hash::XxHash3_64;

/// Keys that are remembered at most; the oldest go first.
const KEYS: usize = 4096;
/// Bytes of answers that are remembered at most.
const BYTES: usize = 64 << 20;

type Outcome = Result<Arc<InferResponse>, InferError>;

/// A service that answers repeated requests with what it answered before.
pub struct Repeats {
    service: Arc<Service>,
    window: Duration,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Debug)]
struct Known {
    /// What was asked.
    inputs: u64,
    since: Instant,
    /// Bytes of the answer.
    bytes: usize,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Repeats {
    /// Remembers answers for `window`.
    pub fn new(service: Arc<Service>, window: Duration) -> Self {
        Self { service, window, known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the request with this key comes to: another one's outcome, or that of a run that this starts.
    fn join(&self, key: &str, request: InferRequest) -> Result<watch::Receiver<Option<Outcome>>, InferError> {
        let inputs = fingerprint(&request.inputs);
        let mut known = self.known();
        let now = Instant::now();
        known.retain(|_, known| now - known.since < self.window || known.outcome.borrow().is_none());
        if let Some(before) = known.get(key) {
            if before.inputs != inputs {
                let text = format!("Idempotency-Key \"{key}\" was used for other inputs; give each request its own");
                return Err(InferError::Invalid(text));
            }
            return Ok(before.outcome.clone());
        }
        let (tell, outcome) = watch::channel(None);
        let entry = Known { inputs, since: now, bytes: 0, outcome: outcome.clone() };
        known.insert(key.to_owned(), entry);
        make_room(&mut known);
        drop(known);
        let (service, all, key) = (Arc::clone(&self.service), Arc::clone(&self.known), key.to_owned());
        tokio::spawn(async move {
            let result = service.infer(request).await.map(Arc::new);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            match &result {
                Ok(response) => {
                    if let Some(known) = all.get_mut(&key) {
                        known.since = Instant::now();
                        known.bytes = response.outputs.iter().map(|(_, tensor)| tensor.data.len()).sum();
                    }
                }
                Err(_) => drop(all.remove(&key)),
            }
            tell.send_replace(Some(result));
            make_room(&mut all);
        });
        Ok(outcome)
    }
}

/// Forgets the oldest answers beyond the limits; what is still being computed stays.
fn make_room(known: &mut HashMap<String, Known>) {
    let mut bytes: usize = known.values().map(|known| known.bytes).sum();
    while bytes > BYTES || known.len() > KEYS {
        let done = known.iter().filter(|(_, known)| known.outcome.borrow().is_some());
        let Some(oldest) = done.min_by_key(|(_, known)| known.since).map(|(key, _)| key.clone()) else { return };
        bytes -= known.remove(&oldest).map_or(0, |known| known.bytes);
    }
}

fn fingerprint(inputs: &[Named]) -> u64 {
    let mut hasher = XxHash3_64::new();
    for (name, tensor) in inputs {
        hasher.write(name.as_bytes());
        hasher.write(tensor.dtype.name().as_bytes());
        tensor.shape.iter().for_each(|dim| hasher.write_usize(*dim));
        hasher.write(&tensor.data);
    }
    hasher.finish()
}

#[async_trait]
impl Backend for Repeats {
    fn ready(&self) -> bool {
        self.service.ready()
    }

    fn models(&self) -> Vec<ModelMetadata> {
        self.service.models()
    }

    fn model_ready(&self, name: &str) -> bool {
        self.service.model_ready(name)
    }

    fn stats(&self, name: &str) -> Vec<ModelStats> {
        self.service.stats(name)
    }

    fn admit(&self, model: &str, body_bytes: Option<u64>) -> Result<(), InferError> {
        self.service.admit(model, body_bytes)
    }

    async fn infer(&self, mut request: InferRequest) -> Result<InferResponse, InferError> {
        let Some(key) = request.key.take().filter(|_| !self.window.is_zero()) else {
            return self.service.infer(request).await;
        };
        let lost = || InferError::Failed("the dispatcher lost the request".to_owned());
        let mut outcome = self.join(&key, request)?;
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| lost())?.clone();
        outcome.ok_or_else(lost)?.map(|response| InferResponse::clone(&response))
    }
}
