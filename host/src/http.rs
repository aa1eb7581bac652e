//! What the REST ports of nodes and dispatchers have in common: the token, and errors as JSON.

use crate::relay::Token;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::error::Error;

/// Body of every answer that is no success.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
    /// What led to it, outermost first.
    #[serde(default)]
    pub cause: Vec<String>,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), cause: Vec::new() } }
    }

    /// `error` with everything that led to it.
    pub fn from_error(status: StatusCode, error: &dyn Error) -> Self {
        let mut cause = Vec::new();
        let mut source = error.source();
        while let Some(error) = source {
            cause.push(error.to_string());
            source = error.source();
        }
        Self { status, body: ErrorBody { error: error.to_string(), cause } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// Lets only requests through that bear the token, if there is one.
pub async fn require_token(State(token): State<Token>, request: Request, next: Next) -> Response {
    let presented = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if token.is_empty() || presented.is_some_and(|presented| token.is(presented)) {
        return next.run(request).await;
    }
    let cause = if presented.is_some() { "wrong token" } else { "a token is needed" };
    let error = format!("{cause}; send it as \"Authorization: Bearer …\" (client commands: --token-file)");
    ApiError::new(StatusCode::UNAUTHORIZED, error).into_response()
}

/// For paths that do not exist.
pub async fn not_found(request: Request) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("no such path: {} {}", request.method(), request.uri().path()))
}
