//! Calls of the admin port that change what runs.

use super::Admin;
use crate::artifact::Digest;
use crate::dispatcher::rollout::{self, RolledOut, RolloutError, Way};
use crate::http::{ApiError, Path, announced, status_of};
use crate::node::StoreError;
use crate::pipeline::Pipeline;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

type Shared = State<Arc<Admin>>;

fn parse_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error: String| ApiError::new(StatusCode::BAD_REQUEST, error))
}

pub(super) async fn has_artifact(State(admin): Shared, Path(digest): Path<String>) -> Result<StatusCode, ApiError> {
    let digest = parse_digest(&digest)?;
    let found = admin.generations.place.artifacts.find(&digest).await;
    Ok(if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

pub(super) async fn put_artifact(
    State(admin): Shared,
    Path(digest): Path<String>,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<Value>, ApiError> {
    let digest = parse_digest(&digest)?;
    let refusal = |error: StoreError| ApiError::from_error(error.status(), &error);
    let store = admin.generations.place.artifacts.store().map_err(refusal)?;
    store.put(&digest, announced(&headers), &mut body).await.map_err(refusal)?;
    tokio::task::spawn_blocking(move || admin.generations.tidy(Some(digest)));
    Ok(Json(json!({"digest": digest})))
}

/// How to go over to the pipeline in the body.
#[derive(Deserialize)]
pub(super) struct Manner {
    /// Send this part of the requests to it first.
    canary: Option<f64>,
    /// Drop the old one before the new one is loaded.
    #[serde(default)]
    stop_first: bool,
}

pub(super) async fn deploy(
    State(admin): Shared,
    Path(pipeline): Path<String>,
    manner: Result<Query<Manner>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RolledOut>, ApiError> {
    let Query(Manner { canary, stop_first }) = manner.map_err(|error| bad_request(&error))?;
    let way = match (canary, stop_first) {
        (None, false) => Way::Switch,
        (None, true) => Way::StopFirst,
        (Some(share), false) if share > 0.0 && share < 1.0 => Way::Canary(share),
        (Some(_), false) => return Err(invalid("canary takes a part of the requests, between 0 and 1")),
        (Some(_), true) => return Err(invalid("a canary runs beside the old pipeline; stop_first stops that first")),
    };
    let body = body.map_err(|error| bad_request(&error))?;
    let new = Pipeline::parse(&body, std::path::Path::new("the body")).map_err(|error| bad_request(&error))?;
    if new.name != pipeline {
        return Err(invalid(format!("the path is of pipeline \"{pipeline}\", the body of \"{}\"", new.name)));
    }
    // In a task of its own: a client that hangs up does not leave a half-made change behind.
    let task = tokio::spawn(async move { rollout::deploy(&admin.generations, new, way).await });
    let done = task.await.map_err(|error| ApiError::from_error(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    done.map(Json).map_err(|error| refusal(&error))
}

pub(super) async fn promote(State(admin): Shared, Path(pipeline): Path<String>) -> Result<Json<RolledOut>, ApiError> {
    is_served(&admin, pipeline)?;
    rollout::promote(&admin.generations).map(Json).map_err(|error| refusal(&error))
}

pub(super) async fn abort(State(admin): Shared, Path(pipeline): Path<String>) -> Result<Json<Value>, ApiError> {
    is_served(&admin, pipeline)?;
    let generation = rollout::abort(&admin.generations).map_err(|error| refusal(&error))?;
    Ok(Json(json!({"generation": generation, "state": "active"})))
}

fn is_served(admin: &Admin, asked: String) -> Result<(), ApiError> {
    let served = admin.service.metadata.name.clone();
    if served == asked { Ok(()) } else { Err(refusal(&RolloutError::Unknown { served, asked })) }
}

fn refusal(error: &RolloutError) -> ApiError {
    ApiError::from_error(error.status(), error)
}

fn invalid(error: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, error)
}

fn bad_request(error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::from_error(status_of(error, StatusCode::BAD_REQUEST), error)
}
