//! What the REST ports of nodes and dispatchers have in common: the token, and errors as JSON.

use crate::port::Stalled;
use crate::relay::Token;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{self, FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::time::Duration;
use tokio::time::timeout;

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

    /// `error` with everything that led to it, and that it does not say itself.
    pub fn from_error(status: StatusCode, error: &dyn Error) -> Self {
        let mut body = ErrorBody { error: error.to_string(), cause: Vec::new() };
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Other crates' errors often quote their own source.
            if !body.cause.last().unwrap_or(&body.error).contains(&text) {
                body.cause.push(text);
            }
            source = error.source();
        }
        Self { status, body }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        let body = ErrorBody { error: "the path does not fit".to_owned(), cause: vec![rejection.body_text()] };
        Self { status: rejection.status(), body }
    }
}

/// axum's extractor of the path's parameters, but what does not fit becomes JSON like every other error.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let extract::Path(parameters) = extract::Path::from_request_parts(parts, state).await?;
        Ok(Self(parameters))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// `otherwise`, unless what led to `error` is a client that stood still in the middle of its request.
pub fn status_of(error: &(dyn Error + 'static), otherwise: StatusCode) -> StatusCode {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<Stalled>() {
            return StatusCode::REQUEST_TIMEOUT;
        }
        cause = error.source();
    }
    otherwise
}

/// The length that the client announced for its body.
pub fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A refused body is read up to this much and this long before the connection closes: a client that is still writing
/// would otherwise see a reset connection instead of the answer.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Reads and forgets what the client is still sending, within bounds.
pub async fn drain(mut body: Body) {
    let rest = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > DRAIN_BYTES {
                break;
            }
        }
    };
    // Running out of time is as good an end as any.
    let _ = timeout(DRAIN_TIME, rest).await;
}

/// Lets only requests through that bear the token, if there is one.
pub async fn require_token(State(token): State<Token>, request: Request, next: Next) -> Response {
    let presented = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if token.is_empty() || presented.is_some_and(|presented| token.is(presented)) {
        return next.run(request).await;
    }
    let cause = if presented.is_some() { "wrong token" } else { "a token is needed" };
    let error = format!("{cause}; send it as \"Authorization: Bearer …\" (client commands: --token-file)");
    let mut answer = ApiError::new(StatusCode::UNAUTHORIZED, error).into_response();
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// For paths that do not exist.
pub async fn not_found(request: Request) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("no such path: {} {}", request.method(), request.uri().path()))
}

/// For paths that exist, with another method.
pub async fn method_not_allowed(request: Request) -> ApiError {
    let error = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;

    #[derive(Debug, thiserror::Error)]
    enum Link {
        #[error("the chain broke")]
        Outer(#[source] Box<Link>),
        #[error("stage 1: {0}")]
        Quoting(#[source] Box<Link>),
        #[error("no space left")]
        Root,
    }

    #[test]
    fn a_cause_is_told_once() {
        for (error, want) in [
            (Link::Root, &["no space left"][..]),
            (Link::Quoting(Box::new(Link::Root)), &["stage 1: no space left"]),
            (Link::Outer(Box::new(Link::Root)), &["the chain broke", "no space left"]),
            (
                Link::Outer(Box::new(Link::Quoting(Box::new(Link::Root)))),
                &["the chain broke", "stage 1: no space left"],
            ),
        ] {
            let ErrorBody { error, cause } = ApiError::from_error(StatusCode::CONFLICT, &error).body;
            assert_eq!([vec![error], cause].concat(), want);
        }
    }

    #[tokio::test]
    async fn what_a_router_refuses_by_itself_is_json_too() {
        let router = Router::new()
            .route("/things/{number}", get(async |Path(number): Path<u8>| number.to_string()))
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (method, path, status, because) in [
            ("GET", "/things/300", 400, "300"),
            ("GET", "/things/x", 400, "`x`"),
            ("DELETE", "/things/3", 405, "/things/3 does not take DELETE"),
            ("GET", "/thongs", 404, "no such path: GET /thongs"),
        ] {
            let request = client.request(method.parse().unwrap(), format!("{base}{path}"));
            let reply = request.send().await.unwrap();
            assert_eq!(reply.status(), status, "{method} {path}");
            let ErrorBody { error, cause } = reply.json().await.unwrap();
            assert!([vec![error], cause].concat().join(": ").contains(because), "{method} {path}");
        }
        assert_eq!(client.get(format!("{base}/things/3")).send().await.unwrap().text().await.unwrap(), "3");
    }
}
