//! The protocol's paths.

use super::auth::authorise;
use super::body::Memory;
use super::config::config;
use super::error::refusal;
use super::infer::{Workshop, infer};
use super::{Backend, InferError, ModelMetadata, ModelStats, Options};
use crate::openapi;
use axum::Json;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use defer_partition::TensorInfo;
use serde_json::{Value, json};
use std::sync::Arc;

/// Parts of the protocol beyond its core that are served, as clients look them up.
const EXTENSIONS: [&str; 3] = ["binary_tensor_data", "model_configuration", "statistics"];

/// What handlers share.
pub(super) struct Api {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) options: Options,
    pub(super) memory: Memory,
    pub(super) workshop: Workshop,
}

/// The inference API over `backend`. Every answer that is no success is `{"error": "..."}`.
pub fn router(backend: Arc<dyn Backend>, options: Options) -> Router {
    let memory = Memory::new(options.request_memory.max(options.max_body_bytes));
    let api = Arc::new(Api { backend, options, memory, workshop: Workshop::new() });
    let guarded = Router::new()
        .route("/v2", get(server))
        .route("/v2/models/stats", get(all_stats))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/config", get(model_config))
        .route("/v2/models/{model}/stats", get(model_stats))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/config", get(model_config))
        .route("/v2/models/{model}/versions/{version}/stats", get(model_stats))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), authorise));
    // Probes and readers of the description need no secret.
    let open = Router::new()
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route(openapi::PATH, get(description))
        .method_not_allowed_fallback(wrong_method);
    guarded.merge(open).fallback(wrong_path).with_state(api)
}

/// The model, and the version if the path names one.
#[derive(serde::Deserialize)]
pub(super) struct ModelPath {
    model: String,
    version: Option<String>,
}

pub(super) type Target = Result<Path<ModelPath>, PathRejection>;

impl Api {
    /// The model of a path, which has to exist.
    pub(super) fn find(&self, target: Target) -> Result<(ModelMetadata, Option<String>), InferError> {
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
    Json(json!({ "name": "defer-host", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS }))
}

async fn description(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(openapi::inference(&api.backend.models()))
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

async fn model_config(State(api): State<Arc<Api>>, target: Target) -> Result<Json<Value>, InferError> {
    let (model, _) = api.find(target)?;
    Ok(Json(config(&model)))
}

async fn model_stats(State(api): State<Arc<Api>>, target: Target) -> Result<Json<Value>, InferError> {
    let (model, version) = api.find(target)?;
    let mut stats = api.backend.stats(&model.name);
    stats.retain(|stats| version.as_ref().is_none_or(|version| stats.version == *version));
    Ok(stats_answer(stats))
}

async fn all_stats(State(api): State<Arc<Api>>) -> Json<Value> {
    stats_answer(api.backend.models().iter().flat_map(|model| api.backend.stats(&model.name)).collect())
}

fn stats_answer(stats: Vec<ModelStats>) -> Json<Value> {
    Json(json!({ "model_stats": stats }))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not served at {}", uri.path()))
}

async fn wrong_path(uri: Uri) -> Response {
    refusal(StatusCode::NOT_FOUND, &format!("nothing is served at {}", uri.path()))
}
