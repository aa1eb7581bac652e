//! The protocol's paths.

use super::error::refusal;
use super::{Backend, InferError, InferRequest, ModelMetadata, binary, body, request, response};
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use defer_partition::TensorInfo;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How the inference port behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bodies larger than this are refused with 413.
    pub max_body_bytes: usize,
    /// How long a client may pause in the middle of a body before it is given up.
    pub idle_timeout: Duration,
    /// What a client must send as `Authorization: Bearer`; `None` where the port is open. `/v2/health/*` never asks,
    /// so that probes need no secret.
    pub api_token: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_body_bytes: 256 << 20, idle_timeout: Duration::from_secs(30), api_token: None }
    }
}

struct Api {
    backend: Arc<dyn Backend>,
    options: Options,
}

/// The inference API over `backend`. Every answer that is no success is `{"error": "..."}`.
pub fn router(backend: Arc<dyn Backend>, options: Options) -> Router {
    let api = Arc::new(Api { backend, options });
    let guarded = Router::new()
        .route("/v2", get(server))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), authorise));
    let open = Router::new()
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .method_not_allowed_fallback(wrong_method);
    guarded.merge(open).fallback(wrong_path).with_state(api)
}

/// The model, and the version if the path names one.
#[derive(serde::Deserialize)]
struct ModelPath {
    model: String,
    version: Option<String>,
}

type Target = Result<Path<ModelPath>, PathRejection>;

impl Api {
    /// The model of a path, which has to exist.
    fn find(&self, target: Target) -> Result<(ModelMetadata, Option<String>), InferError> {
        let Path(ModelPath { model: name, version }) =
            target.map_err(|e| InferError::Invalid(format!("cannot read the model's name in the path: {e}")))?;
        let Some(model) = self.backend.model(&name) else {
            let known = self.backend.models().into_iter().map(|m| m.name).collect();
            return Err(InferError::UnknownModel { name, known });
        };
        match version {
            Some(version) if !model.versions.contains(&version) => {
                Err(InferError::UnknownVersion { model: name, version, known: model.versions })
            }
            version => Ok((model, version)),
        }
    }
}

async fn server() -> Json<Value> {
    Json(json!({
        "name": "defer-host",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data"],
    }))
}

async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    if api.backend.ready() { Json(json!({ "ready": true })).into_response() } else { not_ready("the server") }
}

async fn metadata(State(api): State<Arc<Api>>, target: Target) -> Result<Json<Value>, InferError> {
    let (model, _) = api.find(target)?;
    let describe = |tensors: &[TensorInfo]| -> Vec<Value> {
        tensors.iter().map(|t| json!({ "name": t.name, "datatype": t.dtype, "shape": t.shape })).collect()
    };
    Ok(Json(json!({
        "name": model.name,
        "versions": model.versions,
        "platform": model.platform,
        "inputs": describe(&model.inputs),
        "outputs": describe(&model.outputs),
    })))
}

async fn model_ready(State(api): State<Arc<Api>>, target: Target) -> Result<Response, InferError> {
    let (model, _) = api.find(target)?;
    if api.backend.model_ready(&model.name) {
        return Ok(Json(json!({ "name": model.name, "ready": true })).into_response());
    }
    Ok(not_ready(&format!("model \"{}\"", model.name)))
}

fn not_ready(what: &str) -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("{what} is not ready"))
}

async fn infer(State(api): State<Arc<Api>>, target: Target, headers: HeaderMap, body: Body) -> Response {
    let checked = api.find(target).and_then(|(model, version)| {
        api.backend.admit(&model.name, body::declared(&headers))?;
        Ok((model, version))
    });
    let (model, version) = match checked {
        Ok(found) => found,
        Err(error) => return refuse_unread(&headers, body, error.into_response()).await,
    };
    if let Some(coding) =
        headers.get(header::CONTENT_ENCODING).filter(|c| !c.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let message = format!("bodies with Content-Encoding {coding:?} are not served; send the body as it is");
        let answer = refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message);
        return refuse_unread(&headers, body, answer).await;
    }
    let body = match body::read(&headers, body, &api.options).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    run(&api, model, version, &headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(
    api: &Api,
    model: ModelMetadata,
    version: Option<String>,
    headers: &HeaderMap,
    body: Vec<u8>,
) -> Result<Response, InferError> {
    let header_length = binary::header_length(headers).map_err(InferError::Invalid)?;
    let request::Parsed { inputs, budget, id, outputs } = request::parse(&model, &body, header_length)?;
    // The tensors have been copied out; the body must not take memory while they travel.
    drop(body);
    let trace = trace_id(headers);
    let request = InferRequest { model: model.name.clone(), version: version.clone(), inputs, budget, trace };
    let answer = api.backend.infer(request).await?;
    response::build(&model, version.as_deref(), id.as_deref(), &outputs, answer)
}

/// The trace id of a W3C `traceparent` header (`version-trace-parent-flags`), 0 where there is none that can be read.
fn trace_id(headers: &HeaderMap) -> u128 {
    let field = headers.get("traceparent").and_then(|v| v.to_str().ok()).and_then(|v| v.split('-').nth(1));
    field.filter(|f| f.len() == 32).and_then(|f| u128::from_str_radix(f, 16).ok()).unwrap_or(0)
}

async fn refuse_unread(headers: &HeaderMap, body: Body, answer: Response) -> Response {
    body::drain(headers, body).await;
    answer
}

async fn authorise(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Some(token) = &api.options.api_token else { return next.run(request).await };
    if bearer(request.headers()).is_some_and(|given| same(given, token.as_bytes())) {
        return next.run(request).await;
    }
    let message = "a token is needed here; send it as \"Authorization: Bearer TOKEN\"";
    let mut answer = refusal(StatusCode::UNAUTHORIZED, message);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    let (parts, body) = request.into_parts();
    refuse_unread(&parts.headers, body, answer).await
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that depends on the given length only, so that a token cannot be guessed byte by byte.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let differing = given.iter().enumerate().fold(0, |acc, (i, byte)| {
        // A longer guess is compared with what is there, again and again; its length fails it in the end.
        let want = expected.get(i % expected.len().max(1)).copied().unwrap_or_default();
        acc | (byte ^ want)
    });
    std::hint::black_box(differing) == 0 && given.len() == expected.len() && !expected.is_empty()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not served at {}", uri.path()))
}

async fn wrong_path(uri: Uri) -> Response {
    refusal(StatusCode::NOT_FOUND, &format!("nothing is served at {}", uri.path()))
}
