//! Swaps, and what a dispatcher asks and says of them.

use super::Shared;
use crate::dispatcher::nodes::{Pulse, Verdict};
use crate::http::{ApiError, Path, announced, status_of};
use crate::node::ailing::ailing;
use crate::node::swap::{SwapError, Swapped};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;

pub(super) async fn swap(
    State(node): Shared,
    Path((pipeline, index)): Path<(String, usize)>,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<Swapped>, ApiError> {
    node.swap(&pipeline, index, announced(&headers), &mut body).await.map(Json).map_err(|error| refusal(&error))
}

pub(super) async fn roll_back(
    State(node): Shared,
    Path((pipeline, index)): Path<(String, usize)>,
) -> Result<Json<Swapped>, ApiError> {
    node.roll_back(&pipeline, index).await.map(Json).map_err(|error| refusal(&error))
}

fn refusal(error: &SwapError) -> ApiError {
    let status = match error {
        SwapError::NotHere { .. } | SwapError::NothingBefore => StatusCode::NOT_FOUND,
        SwapError::Busy(_) => StatusCode::CONFLICT,
        SwapError::Draining | SwapError::Ignored(_) | SwapError::Deserted { .. } => StatusCode::SERVICE_UNAVAILABLE,
        SwapError::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
        SwapError::Store(error) => error.status(),
        SwapError::Prepare(error) => error.status(),
        SwapError::Refused { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
        SwapError::Artifact(_) | SwapError::Unfit { .. } | SwapError::Gone(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    ApiError::from_error(status_of(error, status), error)
}

/// Who asks.
#[derive(Deserialize)]
pub(super) struct Asking {
    incarnation: Option<u64>,
}

pub(super) async fn pulse(
    State(node): Shared,
    asking: Result<Query<Asking>, QueryRejection>,
) -> Result<Json<Pulse>, ApiError> {
    let Query(Asking { incarnation }) = asking.map_err(|error| super::bad_request(&error))?;
    let candidates = node.candidates().waiting(incarnation);
    let ailing = ailing(&node.generations());
    Ok(Json(Pulse { epoch: node.epoch(), draining: node.is_draining(), candidates, ailing }))
}

pub(super) async fn settle(
    State(node): Shared,
    Path(candidate): Path<u64>,
    verdict: Result<Json<Verdict>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(verdict) = verdict.map_err(|error| super::bad_request(&error))?;
    if node.candidates().settle(candidate, verdict) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let error = format!("no candidate {candidate} waits for that word; it was taken, withdrawn, or settled before");
    Err(ApiError::new(StatusCode::CONFLICT, error))
}
