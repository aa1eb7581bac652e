//! Why a change of what runs could not be made, as far as others decide by it.

use super::nodes::{Answered, NoRoom, Strange};
use axum::http::StatusCode;
use thiserror::Error;

/// In the chain of an error: something came that could not wait.
#[derive(Debug, Error)]
#[error("broken off, since a node of the pipeline was lost; try again")]
pub struct BrokenOff;

/// In the chain of an error: a node's own part of a generation could not be made.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct PartFailed {
    /// Stages and node.
    pub what: String,
    /// URL of the node.
    pub node: String,
}

/// In the chain of an error: one end of a prepared chain cannot be reached.
#[derive(Debug, Error)]
#[error("no link to {relay} within {seconds} s: can this machine reach it?")]
pub struct NoLink {
    pub relay: String,
    pub seconds: u64,
}

/// What to answer whoever asked for a change that failed so.
pub fn status(error: &anyhow::Error) -> StatusCode {
    if error.is::<NoRoom>() {
        return StatusCode::INSUFFICIENT_STORAGE;
    }
    if let Some(Answered { status, .. }) = error.downcast_ref::<Answered>() {
        return match *status {
            StatusCode::PAYLOAD_TOO_LARGE => StatusCode::INSUFFICIENT_STORAGE,
            StatusCode::INSUFFICIENT_STORAGE | StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => *status,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
    }
    let passing =
        error.is::<BrokenOff>() || error.is::<NoLink>() || error.is::<reqwest::Error>() || error.is::<Strange>();
    match passing {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
