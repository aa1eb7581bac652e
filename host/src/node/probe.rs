//! What a node measures when somebody asks: its own speed, and its link to another relay.

use super::Node;
use crate::http::{ApiError, status_of};
use crate::memory;
use crate::probe::path::{self, Path};
use crate::probe::speed;
use crate::probe::survey::{Means, Target};
use crate::telemetry::Memory;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use std::sync::Arc;
use tokio::sync::Mutex;

/// One thing is measured at a time: two would measure each other.
static BUSY: Mutex<()> = Mutex::const_new(());

/// Bytes that stages may still take here: what the machine and its control groups have left, within what `--memory-limit`
/// leaves beside the node itself. Until the engine was opened, its library is not among what the node takes.
pub fn usable(node: &Node) -> Option<u64> {
    let runtime = || node.runtime().bytes().unwrap_or_else(|| Memory::now().resident_bytes);
    let limit = node.config().memory_limit.map(|limit| limit.saturating_sub(runtime()));
    memory::available().or_else(memory::total).into_iter().chain(limit).min()
}

/// `POST /v1/probe/speed`.
pub async fn speed(State(node): State<Arc<Node>>) -> Result<Json<Means>, ApiError> {
    let _turn = turn()?;
    let failed =
        |error: &(dyn std::error::Error + 'static)| ApiError::from_error(StatusCode::INTERNAL_SERVER_ERROR, error);
    // First: what the node takes is measured before anything is computed.
    node.runtime().measure(&node.loader().engine).await.map_err(|error| failed(&error))?;
    let memory_bytes = usable(&node);
    let (engine, options) = (Arc::clone(&node.loader().engine), node.loader().options);
    let measured = tokio::task::spawn_blocking(move || speed::measure(engine.as_ref(), options)).await;
    let runs_per_s = measured.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().try_into().unwrap_or(u32::MAX));
    Ok(Json(Means { runs_per_s, memory_bytes, cores }))
}

/// `POST /v1/probe/link`.
pub async fn link(
    State(node): State<Arc<Node>>,
    target: Result<Json<Target>, JsonRejection>,
) -> Result<Json<Path>, ApiError> {
    let Json(target) =
        target.map_err(|error| ApiError::from_error(status_of(&error, StatusCode::BAD_REQUEST), &error))?;
    let _turn = turn()?;
    let context = node.context();
    let measured = path::measure(&target.relay, &context.node, &context.token, context.limits.clone()).await;
    Ok(Json(measured.map_err(|error| ApiError::from_error(StatusCode::BAD_GATEWAY, &error))?))
}

fn turn() -> Result<tokio::sync::MutexGuard<'static, ()>, ApiError> {
    let busy = "something is being measured on this node already; try again in a while";
    BUSY.try_lock().map_err(|_| ApiError::new(StatusCode::CONFLICT, busy))
}
