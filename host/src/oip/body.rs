//! Reading a request's body within a limit, and answering one that is not worth reading.

use super::error::refusal;
use super::{InferError, Options};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::timeout;

/// A refused body is read up to this much and this long before the connection closes: a client that is still writing
/// would otherwise see a reset connection instead of the answer.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// The length that the client declared.
pub(super) fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body, in one allocation where its length is declared. The error is the answer to send, ready made.
pub(super) async fn read(headers: &HeaderMap, mut body: Body, options: &Options) -> Result<Vec<u8>, Response> {
    let limit = options.max_body_bytes;
    let too_large = || refusal(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is larger than {limit} bytes"));
    let declared = declared(headers).unwrap_or(0);
    let Some(expected) = usize::try_from(declared).ok().filter(|&d| d <= limit) else {
        drain(headers, body).await;
        return Err(too_large());
    };
    let mut read = Vec::new();
    if read.try_reserve_exact(expected).is_err() {
        let reason = format!("no memory for a body of {expected} bytes");
        return Err(InferError::Overloaded { reason, retry_after: Duration::from_secs(1) }.into_response());
    }
    loop {
        let frame = match timeout(options.idle_timeout, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(read),
            Ok(Some(Err(e))) => {
                return Err(refusal(StatusCode::BAD_REQUEST, &format!("the body broke off: {e}")));
            }
            Err(_) => {
                let seconds = options.idle_timeout.as_secs_f32();
                let message = format!("nothing more of the body came for {seconds} s");
                return Err(refusal(StatusCode::REQUEST_TIMEOUT, &message));
            }
        };
        if let Some(chunk) = frame.data_ref() {
            if chunk.len() > limit - read.len() {
                drain(headers, body).await;
                return Err(too_large());
            }
            read.extend_from_slice(chunk);
        }
    }
}

/// Reads and forgets what the client is still sending, within bounds. A client that waits for `100 Continue` has sent
/// nothing and is not asked to.
pub(super) async fn drain(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let rest = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, bytes::Bytes::len);
            if seen > DRAIN_BYTES {
                break;
            }
        }
    };
    // Running out of time is as good an end as any.
    let _ = timeout(DRAIN_TIME, rest).await;
}
