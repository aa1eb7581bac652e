//! The dispatcher's admin port.

mod changes;

use super::generations::Generations;
use super::running::Running;
use super::service::Service;
use crate::http::{ApiError, method_not_allowed, not_found, require_token};
use crate::openapi;
use crate::relay::Token;
use crate::telemetry::Memory;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

/// What the admin port tells of.
pub struct Admin {
    pub service: Arc<Service>,
    pub generations: Arc<Generations>,
}

pub fn router(admin: Arc<Admin>, token: Token) -> Router {
    routes(token).with_state(admin)
}

fn routes(token: Token) -> Router<Arc<Admin>> {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/pipelines", get(pipelines))
        .route("/v1/artifacts/{digest}", put(changes::put_artifact).head(changes::has_artifact))
        .route("/v1/pipelines/{pipeline}/deploy", post(changes::deploy))
        .route("/v1/pipelines/{pipeline}/promote", post(changes::promote))
        .route("/v1/pipelines/{pipeline}/abort", post(changes::abort))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(token, require_token));
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(ready))
        .route(openapi::PATH, openapi::serve(openapi::admin))
        .method_not_allowed_fallback(method_not_allowed)
        .merge(guarded)
        .fallback(not_found)
}

async fn ready(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, ApiError> {
    if admin.service.is_up() {
        return Ok(Json(json!({"status": "ready"})));
    }
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "a node of the chain cannot be reached"))
}

async fn pipelines(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let Admin { service, generations } = &*admin;
    let (counters, owner) = (&service.counters, &generations.setup.owner);
    let all: Vec<Value> = generations.all().iter().map(|(state, running)| generation(&admin, state, running)).collect();
    let nodes: Vec<Value> = generations
        .fleet
        .members()
        .iter()
        .map(|node| {
            let failure = node.down().map(|down| down.cause);
            json!({"name": node.name(), "url": node.url().as_str(), "up": failure.is_none(), "failure": failure})
        })
        .collect();
    Json(json!({"pipelines": [{
        "name": service.metadata.name,
        "generations": all,
        "nodes": nodes,
        "dispatcher": {"name": owner.name, "incarnation": owner.incarnation},
        "up": service.is_up(),
        "counters": {
            "accepted": counters.accepted.get(),
            "answered": counters.answered.get(),
            "failed": counters.failed.get(),
            "refused": counters.refused.get(),
            "pending": service.pending(),
            "latency": counters.latency.summary(),
        },
    }]}))
}

fn generation(admin: &Admin, state: &str, running: &Running) -> Value {
    let stages: Vec<Value> = running
        .deployment
        .stages
        .iter()
        .map(|stage| {
            json!({
                "stage": stage.index,
                "node": stage.node.name(),
                "url": stage.node.url().as_str(),
                "relay": stage.node.relay(),
                "digest": stage.assignment.artifact,
                "codec": stage.assignment.codec,
            })
        })
        .collect();
    let answers = &running.answers;
    json!({
        "generation": running.number(),
        "state": state,
        "codec_in": running.ingress().codec(),
        "stages": stages,
        "counters": {
            "answered": answers.answered.get(),
            "failed": answers.failed.get(),
            "pending": admin.generations.place.ledger.pending_in(running.number()),
            "latency": answers.latency.summary(),
        },
    })
}

/// Prometheus text format 0.0.4.
async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let service = &admin.service;
    let counters = &service.counters;
    let mut text = String::new();
    for (name, value) in [
        ("accepted", counters.accepted.get()),
        ("answered", counters.answered.get()),
        ("failed", counters.failed.get()),
        ("refused", counters.refused.get()),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE defer_requests_{name}_total counter\ndefer_requests_{name}_total {value}");
    }
    let latency = counters.latency.summary();
    let _ = writeln!(
        text,
        "# TYPE defer_request_seconds summary\ndefer_request_seconds_sum {}\ndefer_request_seconds_count {}",
        latency.sum_us / 1e6,
        latency.count
    );
    for (name, value) in [
        ("requests_pending", service.pending() as u64),
        ("chain_up", u64::from(service.is_up())),
        ("resident_memory_bytes", Memory::now().resident_bytes),
    ] {
        let _ = writeln!(text, "# TYPE defer_{name} gauge\ndefer_{name} {value}");
    }
    type Series = (&'static str, &'static str, fn(&Running) -> u64);
    let series: [Series; 2] =
        [("answered", "counter", |r| r.answers.answered.get()), ("failed", "counter", |r| r.answers.failed.get())];
    let all = admin.generations.all();
    for (name, kind, value) in series {
        let _ = writeln!(text, "# TYPE defer_generation_{name}_total {kind}");
        for (state, running) in &all {
            let (number, value) = (running.number(), value(running));
            let _ =
                writeln!(text, "defer_generation_{name}_total{{generation=\"{number}\",state=\"{state}\"}} {value}");
        }
    }
    let _ = writeln!(text, "# TYPE defer_node_up gauge");
    for node in admin.generations.fleet.members() {
        let name = node.name().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = writeln!(text, "defer_node_up{{node=\"{name}\"}} {}", u8::from(node.is_up()));
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
        openapi::tests::assert_describes(&openapi::admin(), &routes(Token::default()));
    }
}
