//! The Open Inference Protocol, version 2, over REST: how clients that know nothing of stages and nodes ask for an
//! inference.
//!
//! The formats follow the protocol's [REST specification][spec] and its [binary tensor data extension][binary], which
//! `tritonclient.http` uses by default. A request's form is told by the header `Inference-Header-Content-Length` alone
//! (clients do not set `Content-Type`); each output's form by `binary_data` and `binary_data_output`. What is refused
//! rather than half supported: strings (`BYTES`), shared memory, classification, sequences.
//!
//! Whatever a client sends, memory stays within [`Options`], and work on large bodies leaves the threads that serve
//! connections alone.
//!
//! This module knows formats, names and shapes. What computes is behind [`Backend`], which the dispatcher implements.
//!
//! [spec]: https://github.com/kserve/open-inference-protocol
//! [binary]: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

mod auth;
pub mod binary;
mod body;
pub mod coding;
mod config;
mod error;
mod infer;
pub mod json;
mod numbers;
mod raw;
mod request;
mod response;
mod routes;
pub mod stats;
#[cfg(test)]
pub(crate) mod tests;

pub use binary::HEADER_LENGTH;
pub use error::InferError;
pub use request::{Parsed, Selection, parse};
pub use routes::router;
pub use stats::ModelStats;

use async_trait::async_trait;
use defer_partition::{Tensor, TensorInfo};
use std::time::Duration;

/// How the inference port behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bodies larger than this, as sent or once expanded, are refused with 413.
    pub max_body_bytes: usize,
    /// What all requests may take together, in bodies and the tensors from them, until they are answered; more are
    /// refused with 503. At least `max_body_bytes`.
    pub request_memory: usize,
    /// How long a client may pause in the middle of a body before it is given up.
    pub idle_timeout: Duration,
    /// What a client must send as `Authorization: Bearer`; `None` where the port is open. `/v2/health/*` and
    /// `/openapi.json` never ask, so that probes and readers need no secret.
    pub api_token: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_body_bytes: 256 << 20,
            request_memory: 1 << 30,
            idle_timeout: Duration::from_secs(30),
            api_token: None,
        }
    }
}

/// What is known of a model before it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelMetadata {
    pub name: String,
    /// The versions that can be asked for, oldest first; the last answers a request that names none.
    pub versions: Vec<String>,
    /// What the model is run by, such as `onnxruntime_onnx`.
    pub platform: String,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
}

/// One inference, checked: every input of the model is there once, with its element type, a shape that the model
/// admits and as many bytes as that shape takes.
#[derive(Debug)]
pub struct InferRequest {
    pub model: String,
    /// One of the model's versions; `None` where the client named none.
    pub version: Option<String>,
    /// In the order of the model's inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// How long the answer may take, from now; `None` where the client set no limit.
    pub budget: Option<Duration>,
    /// The trace that this request belongs to (W3C `traceparent`); 0 for none.
    pub trace: u128,
    /// A repetition of the request has the same (`Idempotency-Key`).
    pub key: Option<String>,
}

/// The answer to one inference.
#[derive(Clone, Debug, PartialEq)]
pub struct InferResponse {
    /// All outputs of the model, in any order; the router picks those that the client asked for.
    pub outputs: Vec<(String, Tensor)>,
}

/// What computes behind the protocol.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Whether every model is ready.
    fn ready(&self) -> bool;

    /// All models, for messages and listings.
    fn models(&self) -> Vec<ModelMetadata>;

    /// The model called `name`.
    fn model(&self, name: &str) -> Option<ModelMetadata> {
        self.models().into_iter().find(|m| m.name == name)
    }

    /// Whether an inference of `name` would be accepted now.
    fn model_ready(&self, name: &str) -> bool;

    /// What was measured of the model called `name` since the server started, one entry per version.
    fn stats(&self, name: &str) -> Vec<ModelStats>;

    /// Called before a request's body is read, so that a server with a full queue refuses it without taking its
    /// tensors into memory. `body_bytes` is what the client declared. Passing is no promise: `infer` may still refuse.
    ///
    /// # Errors
    /// [`InferError::Overloaded`] or [`InferError::Unavailable`].
    fn admit(&self, model: &str, body_bytes: Option<u64>) -> Result<(), InferError> {
        let _ = (model, body_bytes);
        Ok(())
    }

    /// Runs one inference. The future is dropped when the client goes away before the answer.
    async fn infer(&self, request: InferRequest) -> Result<InferResponse, InferError>;
}
