//! The token of the inference port.

use super::body;
use super::error::refusal;
use super::routes::Api;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;

/// Lets only requests through that bear the token, if there is one.
pub(super) async fn authorise(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Some(token) = &api.options.api_token else { return next.run(request).await };
    if bearer(request.headers()).is_some_and(|given| same(given, token.as_bytes())) {
        return next.run(request).await;
    }
    let message = "a token is needed here; send it as \"Authorization: Bearer TOKEN\"";
    let mut answer = refusal(StatusCode::UNAUTHORIZED, message);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    let (parts, body) = request.into_parts();
    body::refuse_unread(&parts.headers, body, answer).await
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that depends on the given length only, so that a token cannot be guessed byte by byte.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let differing = given.iter().enumerate().fold(0, |acc, (i, byte)| {
        // A longer guess is compared with what is there, again and again; its length fails it in the end.
        let want = expected.get(i % expected.len().max(1)).copied().unwrap_or_default();
        acc | (byte ^ want)
    });
    std::hint::black_box(differing) == 0 && given.len() == expected.len() && !expected.is_empty()
}
