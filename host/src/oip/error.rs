//! What can go wrong with an inference, and how each kind is told over HTTP.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;

/// Why an inference gave no answer. The kind decides the status code; the message is for the client to read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InferError {
    /// 404
    #[error("unknown model \"{name}\"; this server has {}", quoted(known))]
    UnknownModel { name: String, known: Vec<String> },
    /// 404
    #[error("unknown version \"{version}\" of model \"{model}\"; it has {}", quoted(known))]
    UnknownVersion { model: String, version: String, known: Vec<String> },
    /// 400: the request itself is wrong, and would be every time.
    #[error("{0}")]
    Invalid(String),
    /// 413: larger than the server takes.
    #[error("{0}")]
    TooLarge(String),
    /// 503: more requests than can wait.
    #[error("overloaded: {reason}")]
    Overloaded { reason: String, retry_after: Duration },
    /// 503: the chain is not there at the moment.
    #[error("unavailable: {reason}")]
    Unavailable { reason: String, retry_after: Duration },
    /// 504: the request's time budget ran out, or the server's.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// 500: a stage failed on this request; the message names the stage and the cause.
    #[error("{0}")]
    Failed(String),
}

impl InferError {
    /// The HTTP status that tells this kind.
    pub fn status(&self) -> StatusCode {
        match self {
            InferError::UnknownModel { .. } | InferError::UnknownVersion { .. } => StatusCode::NOT_FOUND,
            InferError::Invalid(_) => StatusCode::BAD_REQUEST,
            InferError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            InferError::Overloaded { .. } | InferError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            InferError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            InferError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            InferError::Overloaded { retry_after, .. } | InferError::Unavailable { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }
}

impl IntoResponse for InferError {
    fn into_response(self) -> Response {
        let mut response = refusal(self.status(), &self.to_string());
        if let Some(wait) = self.retry_after() {
            // The header counts whole seconds; 0 would invite a busy loop.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// An error of the HTTP layer: `{"error": message}` with `status`.
pub(super) fn refusal(status: StatusCode, message: &str) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a str,
    }
    (status, axum::Json(Body { error: message })).into_response()
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
}
