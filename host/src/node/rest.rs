//! The REST port: one handler per call of the node's API.

mod stages;

use super::generation::{Generation, Prepare};
use super::probe;
use super::slot::CountersJson;
use super::table::Node;
use crate::artifact::Digest;
use crate::engine;
use crate::http::{ApiError, Path, announced, method_not_allowed, not_found, require_token, status_of};
use crate::openapi;
use crate::relay::{Token, frame};
use crate::telemetry::Memory;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// How long `DELETE` waits for a generation's frames to leave.
const DRAIN: Duration = Duration::from_secs(10);

/// Bytes of an artifact that are sent at once.
const CHUNK: usize = 256 * 1024;

type Shared = State<Arc<Node>>;

/// All routes of a node.
pub fn router(node: Arc<Node>) -> Router {
    routes(node.config().token.clone()).with_state(node)
}

fn routes(token: Token) -> Router<Arc<Node>> {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/node", get(describe))
        .route("/v1/stages", get(list))
        .route("/v1/artifacts/{digest}", put(upload).get(artifact).head(has_artifact))
        .route("/v1/pipelines/{pipeline}/generations/{generation}", put(prepare).delete(remove))
        .route("/v1/stages/{pipeline}/{index}", put(stages::swap))
        .route("/v1/stages/{pipeline}/{index}/rollback", post(stages::roll_back))
        .route("/v1/pulse", get(stages::pulse))
        .route("/v1/candidates/{candidate}", post(stages::settle))
        .route("/v1/probe/speed", post(probe::speed))
        .route("/v1/probe/link", post(probe::link))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(token, require_token));
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(ready))
        .route("/v1/relay", get(relay))
        .route(openapi::PATH, openapi::serve(openapi::node))
        .method_not_allowed_fallback(method_not_allowed)
        .merge(guarded)
        .fallback(not_found)
}

/// Every assigned stage is loaded and warmed up before its generation is listed: what makes a node unready is a drain, or an
/// engine that keeps a stage's thread.
async fn ready(State(node): Shared) -> Result<Json<Value>, ApiError> {
    if node.is_draining() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the node is shutting down"));
    }
    let generations = node.generations();
    for generation in &generations {
        for (index, slot) in &generation.slots {
            if let Some(cause) = slot.health.failure() {
                let error = format!("stage {index} of pipeline \"{}\" does not compute: {cause}", generation.pipeline);
                return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error));
            }
        }
    }
    Ok(Json(json!({"status": "ready", "generations": generations.len()})))
}

/// For those who have a token, and want the relay's proof that this node knows it before they show it.
async fn relay(State(node): Shared) -> Json<Value> {
    Json(json!({"relay": node.config().stated_relay()}))
}

async fn describe(State(node): Shared) -> Json<Value> {
    let (config, loader) = (node.config(), node.loader());
    Json(json!({
        "name": config.name,
        "version": env!("CARGO_PKG_VERSION"),
        "arch": std::env::consts::ARCH,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "threads": loader.options.threads,
        "memory": Memory::now(),
        "usable_memory_bytes": probe::usable(&node),
        "runtime_memory_bytes": node.runtime().bytes(),
        "speed": crate::probe::speed::latest(),
        "drift": drift(&node),
        "abandoned_threads": engine::abandoned::count(),
        "engines": engine::list(&loader.engines()),
        "sandbox": loader.sandbox.executor(),
        "protocol": frame::VERSION,
        "relay": config.relay.to_string(),
        "advertise": config.advertise,
        "max_tensor_bytes": config.max_tensor,
        "store_limit_bytes": config.store_limit,
        "uptime_s": node.uptime().as_secs(),
    }))
}

/// That of the stage that has become slowest.
fn drift(node: &Node) -> Option<f64> {
    let generations = node.generations();
    let slots = generations.iter().flat_map(|generation| generation.slots.values());
    slots.filter_map(|slot| slot.counters.drift.ratio()).reduce(f64::max)
}

#[derive(Serialize)]
struct SlotJson {
    pipeline: String,
    index: usize,
    count: usize,
    generation: u64,
    digest: Digest,
    dispatcher: String,
    /// Of the dispatcher's life that made the generation.
    incarnation: u64,
    engine: &'static str,
    state: super::generation::State,
    /// Why it does not compute, where `state` is `failed`.
    failure: Option<String>,
    codec: crate::relay::CodecChoice,
    /// Lossy codecs that `auto` may use.
    lossy: Vec<crate::relay::Codec>,
    /// Of the latest frame, where `codec` is `auto`.
    codec_in_use: Option<crate::relay::Codec>,
    weights_bytes: u64,
    prepacking: bool,
    loaded_ms: f64,
    counters: CountersJson,
}

fn slots(generation: &Generation) -> impl Iterator<Item = SlotJson> + '_ {
    generation.slots.iter().map(|(&index, slot)| {
        let manifest = &slot.loaded.artifact.manifest;
        let failure = slot.health.failure();
        SlotJson {
            pipeline: generation.pipeline.clone(),
            index,
            count: manifest.count,
            generation: generation.number,
            digest: slot.loaded.digest,
            dispatcher: generation.prepare.dispatcher.name.clone(),
            incarnation: generation.prepare.dispatcher.incarnation,
            engine: slot.loaded.engine(),
            state: if failure.is_some() { super::generation::State::Failed } else { generation.state() },
            failure,
            codec: slot.codec,
            lossy: slot.lossy.clone(),
            codec_in_use: slot.counters.codec_in_use.get(),
            weights_bytes: manifest.weights_bytes,
            prepacking: slot.loaded.prepacking == engine::Prepacking::On,
            loaded_ms: slot.loaded.load_time.as_secs_f64() * 1e3,
            counters: slot.counters.json(),
        }
    })
}

async fn list(State(node): Shared) -> Json<Value> {
    let generations = node.generations();
    let stages: Vec<SlotJson> = generations.iter().flat_map(|generation| slots(generation)).collect();
    Json(json!({"stages": stages}))
}

fn parse_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error: String| ApiError::new(StatusCode::BAD_REQUEST, error))
}

async fn has_artifact(State(node): Shared, Path(digest): Path<String>) -> Result<StatusCode, ApiError> {
    let digest = parse_digest(&digest)?;
    let found = tokio::task::spawn_blocking(move || node.store().find(&digest).is_some()).await.unwrap_or(false);
    Ok(if found { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

/// Its bytes, for a dispatcher that was not the one who sent them.
async fn artifact(State(node): Shared, Path(digest): Path<String>) -> Result<Response, ApiError> {
    let digest = parse_digest(&digest)?;
    let find = tokio::task::spawn_blocking(move || node.store().find(&digest));
    let missing = || ApiError::new(StatusCode::NOT_FOUND, format!("artifact {digest} is not on this node"));
    let path = find.await.ok().flatten().ok_or_else(missing)?;
    // It may be evicted in this moment; once open, its bytes stay.
    let file = tokio::fs::File::open(&path).await.map_err(|_| missing())?;
    let length =
        file.metadata().await.map_err(|error| ApiError::from_error(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    let headers = [(CONTENT_TYPE, "application/wasm".to_owned()), (CONTENT_LENGTH, length.len().to_string())];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file, CHUNK))).into_response())
}

async fn upload(
    State(node): Shared,
    Path(digest): Path<String>,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<Value>, ApiError> {
    let digest = parse_digest(&digest)?;
    if let Err(error) = node.store().put(&digest, announced(&headers), &mut body).await {
        return Err(ApiError::from_error(error.status(), &error));
    }
    // What nobody runs makes room for it at once, not only when it is asked for.
    tokio::task::spawn_blocking(move || node.evict(Some(digest)));
    Ok(Json(json!({"digest": digest})))
}

async fn prepare(
    State(node): Shared,
    Path((pipeline, generation)): Path<(String, u64)>,
    body: Result<Json<Prepare>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(body) = body.map_err(|error| bad_request(&error))?;
    // In a task of its own: a client that hangs up does not leave a half-made generation behind.
    let task = tokio::spawn(async move { node.prepare(&pipeline, generation, body).await });
    let prepared = task.await.map_err(|error| ApiError::from_error(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    let prepared = prepared.map_err(|error| ApiError::from_error(error.status(), &error))?;
    let stages: Vec<SlotJson> = slots(&prepared).collect();
    Ok(Json(json!({"state": prepared.state(), "generation": prepared.number, "stages": stages})))
}

/// What `DELETE` of a generation may say.
#[derive(Deserialize)]
struct Removal {
    /// Drop it only if it belongs to this dispatcher.
    incarnation: Option<u64>,
    /// How long to wait for what is in it, in ms.
    drain_ms: Option<u64>,
}

async fn remove(
    State(node): Shared,
    Path((pipeline, number)): Path<(String, u64)>,
    removal: Result<Query<Removal>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let Query(removal) = removal.map_err(|error| bad_request(&error))?;
    let Some(generation) = node.generation(&pipeline, number) else {
        let error = format!("no generation {number} of pipeline \"{pipeline}\" is on this node");
        return Err(ApiError::new(StatusCode::NOT_FOUND, error));
    };
    let owner = &generation.prepare.dispatcher;
    if removal.incarnation.is_some_and(|incarnation| incarnation != owner.incarnation) {
        let error = format!("generation {number} of pipeline \"{pipeline}\" belongs to dispatcher \"{}\"", owner.name);
        return Err(ApiError::new(StatusCode::CONFLICT, error));
    }
    node.remove(&generation, removal.drain_ms.map_or(DRAIN, Duration::from_millis)).await;
    Ok(StatusCode::NO_CONTENT)
}

fn bad_request(error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::from_error(status_of(error, StatusCode::BAD_REQUEST), error)
}

/// Prometheus text format 0.0.4.
async fn metrics(State(node): Shared) -> impl IntoResponse {
    let memory = Memory::now();
    let mut text = String::new();
    for (name, value) in [
        ("resident_memory_bytes", memory.resident_bytes),
        ("anonymous_memory_bytes", memory.anonymous_bytes),
        ("abandoned_threads", engine::abandoned::count() as u64),
        ("uptime_seconds", node.uptime().as_secs()),
        ("spare_buffer_bytes", node.loader().pool.spare_bytes() as u64),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE defer_{name} gauge\ndefer_{name} {value}");
    }
    if let Some(drift) = drift(&node) {
        let _ = writeln!(text, "# TYPE defer_drift gauge\ndefer_drift {drift}");
    }
    let generations = node.generations();
    let slots: Vec<SlotJson> = generations.iter().flat_map(|generation| slots(generation)).collect();
    for (name, value) in CountersJson::SERIES {
        let _ = writeln!(text, "# TYPE defer_stage_{name}_total counter");
        for slot in &slots {
            let SlotJson { index, generation, counters, .. } = slot;
            let pipeline = slot.pipeline.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let value = value(counters);
            let _ = writeln!(
                text,
                "defer_stage_{name}_total{{pipeline=\"{pipeline}\",stage=\"{index}\",generation=\"{generation}\"}} {value}"
            );
        }
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

#[cfg(test)]
mod tests {
    use super::routes;
    use crate::openapi;
    use crate::relay::Token;

    #[test]
    fn the_description_is_what_the_router_serves() {
        openapi::tests::assert_describes(&openapi::node(), &routes(Token::default()));
    }
}
