//! One inference over HTTP: body in, checked request, answer out.

use super::body::Held;
use super::coding::{Coding, KNOWN};
use super::error::refusal;
use super::request::Parsed;
use super::routes::{Api, Target};
use super::{InferError, InferRequest, ModelMetadata, binary, body, request, response};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Work on more bytes than this is done off the threads that serve connections: reading a MiB of JSON takes
/// milliseconds, in which nobody else would be answered.
const LARGE: usize = 1 << 20;
/// Characters of an `Idempotency-Key`: several identifiers of any common kind.
const MAX_KEY: usize = 256;
/// Characters that JSON takes for a byte of a tensor, about.
const JSON_PER_BYTE: usize = 3;

/// Where work on large bodies is done: on threads of its own, no more at a time than there are cores, so that many
/// large requests neither hold up small ones nor all take memory at once.
#[derive(Debug)]
pub(super) struct Workshop(Arc<Semaphore>);

impl Workshop {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(cores)))
    }

    /// Does `work`, which takes as long as going through `bytes` does.
    ///
    /// # Errors
    /// Those of `work`, and [`InferError::Failed`] where it panics.
    async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, InferError> + Send + 'static,
    ) -> Result<T, InferError> {
        if bytes <= LARGE {
            return work();
        }
        let bench = Arc::clone(&self.0).acquire_owned().await.map_err(|e| InferError::Failed(e.to_string()))?;
        let work = tokio::task::spawn_blocking(move || {
            let _bench = bench;
            work()
        });
        work.await.map_err(|e| InferError::Failed(format!("the server failed on this request: {e}")))?
    }
}

pub(super) async fn infer(State(api): State<Arc<Api>>, target: Target, headers: HeaderMap, body: Body) -> Response {
    match answer(&api, target, &headers, body).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn answer(api: &Api, target: Target, headers: &HeaderMap, body: Body) -> Result<Response, Response> {
    let checked = api.find(target).and_then(|(model, version)| {
        api.backend.admit(&model.name, body::declared(headers))?;
        let header_length = binary::header_length(headers).map_err(InferError::Invalid)?;
        Ok((model, version, header_length))
    });
    let (model, version, header_length) = match checked {
        Ok(found) => found,
        Err(error) => return Err(body::refuse_unread(headers, body, error.into_response()).await),
    };
    let coding = match Coding::of_body(headers) {
        Ok(coding) => coding,
        Err(message) => {
            let mut answer = refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message);
            answer.headers_mut().insert(header::ACCEPT_ENCODING, KNOWN);
            return Err(body::refuse_unread(headers, body, answer).await);
        }
    };
    let (body, held) = body::read(headers, body, &api.options, &api.memory).await?;
    let received = Received { model: Arc::new(model), version, header_length, coding, body, held };
    run(api, headers, received).await.map_err(IntoResponse::into_response)
}

/// A request whose body is there, and not looked into yet.
struct Received {
    model: Arc<ModelMetadata>,
    version: Option<String>,
    header_length: Option<usize>,
    coding: Option<Coding>,
    body: Vec<u8>,
    held: Held,
}

async fn run(api: &Api, headers: &HeaderMap, received: Received) -> Result<Response, InferError> {
    let Received { model, version, header_length, coding, body, mut held } = received;
    let limit = api.options.max_body_bytes;
    let memory = api.memory.clone();
    // What a compressed body holds is not known before; it may be large.
    let bytes = if coding.is_some() { usize::MAX } else { body.len() };
    let read = {
        let model = Arc::clone(&model);
        move || {
            let body = match coding {
                Some(coding) => {
                    let expanded = coding.expand(&body, limit)?;
                    memory.fit(&mut held, expanded.len())?;
                    expanded
                }
                None => body,
            };
            let parsed = request::parse(&model, &body, header_length)?;
            // The tensors have been copied out: from here on the request takes what they take. In JSON, numbers may
            // have been shorter.
            drop(body);
            memory.fit(&mut held, parsed.inputs.iter().map(|(_, tensor)| tensor.data.len()).sum())?;
            Ok((parsed, held))
        }
    };
    let (Parsed { inputs, budget, id, outputs }, held) = api.workshop.run(bytes, read).await?;
    let trace = trace_id(headers);
    let key = key(headers)?;
    let request = InferRequest { model: model.name.clone(), version: version.clone(), inputs, budget, trace, key };
    let computed = api.backend.infer(request).await?;
    // The backend kept the inputs until now, to send them again if need be.
    drop(held);
    let coding = Coding::wanted(headers);
    // Binary data goes to the socket from where it is; only what is written anew takes time.
    let written = coding.is_some() || outputs.iter().any(|output| !output.binary);
    let bytes = computed.outputs.iter().map(|(_, tensor)| tensor.data.len()).sum::<usize>();
    let bytes = if written { bytes.saturating_mul(JSON_PER_BYTE) } else { 0 };
    let write = move || {
        let answer = response::build(&model, version.as_deref(), id.as_deref(), &outputs, computed)?;
        binary::respond(answer, coding)
    };
    api.workshop.run(bytes, write).await
}

/// What the client calls the request, to repeat it without having it run twice.
fn key(headers: &HeaderMap) -> Result<Option<String>, InferError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) && !key.contains([' ', '\t']) => Ok(Some(key.to_owned())),
        _ => Err(InferError::Invalid(format!("Idempotency-Key takes 1 to {MAX_KEY} visible characters of ASCII"))),
    }
}

/// The trace id of a W3C `traceparent` header (`version-trace-parent-flags`), 0 where there is none that can be read.
fn trace_id(headers: &HeaderMap) -> u128 {
    let field = headers.get("traceparent").and_then(|v| v.to_str().ok()).and_then(|v| v.split('-').nth(1));
    field.filter(|f| f.len() == 32).and_then(|f| u128::from_str_radix(f, 16).ok()).unwrap_or(0)
}
