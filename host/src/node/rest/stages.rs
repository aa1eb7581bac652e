//! Swaps, and what a dispatcher asks and says of them.

use super::Shared;
use crate::dispatcher::nodes::{Pulse, Verdict};
use crate::http::{ApiError, Path, announced, status_of};
use crate::node::swap::{SwapError, Swapped};
use crate::node::table::PrepareError;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};

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
        SwapError::Draining | SwapError::Ignored(_) | SwapError::Prepare(PrepareError::Draining) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        SwapError::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
        SwapError::Store(error) => error.status(),
        SwapError::Prepare(PrepareError::Persist { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        SwapError::Refused { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
        SwapError::Artifact(_) | SwapError::Unfit { .. } | SwapError::Prepare(_) | SwapError::Gone(_) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    };
    ApiError::from_error(status_of(error, status), error)
}

pub(super) async fn pulse(State(node): Shared) -> Json<Pulse> {
    Json(Pulse { epoch: node.epoch(), draining: node.is_draining(), candidates: node.candidates().waiting() })
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
