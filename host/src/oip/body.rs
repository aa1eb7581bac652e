//! Reading a request's body within limits, and answering one that is not worth reading.

use super::error::refusal;
use super::{InferError, Options};
use crate::http::{drain, status_of};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What memory for bodies is counted in.
const PAGE: usize = 4096;

/// Memory that all requests may take together, from the first byte of their bodies until they are answered.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pages: Arc<Semaphore>,
    bytes: usize,
}

/// Memory that one request takes, its body or the tensors that were in it; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Held(Option<OwnedSemaphorePermit>);

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let pages = bytes.div_ceil(PAGE).min(Semaphore::MAX_PERMITS);
        Self { pages: Arc::new(Semaphore::new(pages)), bytes }
    }

    /// Makes `held` what `bytes` take: gives back what is beyond that, or takes more if there is as much.
    ///
    /// # Errors
    /// [`InferError::Overloaded`], or [`InferError::TooLarge`] where it would never fit; `held` is as it was, then.
    pub(super) fn fit(&self, held: &mut Held, bytes: usize) -> Result<(), InferError> {
        let have = held.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let want = bytes.div_ceil(PAGE);
        if want <= have {
            held.0 = held.0.take().and_then(|mut permit| permit.split(want));
            return Ok(());
        }
        if bytes > self.bytes {
            let text = format!("the request takes {bytes} bytes of memory, and {} is the limit", self.bytes);
            return Err(InferError::TooLarge(text + " (dispatch --request-memory-mb)"));
        }
        let more = u32::try_from(want - have).unwrap_or(u32::MAX);
        let Ok(grown) = Arc::clone(&self.pages).try_acquire_many_owned(more) else {
            let reason = format!(
                "pending requests take the {} MiB that they may (dispatch --request-memory-mb)",
                self.bytes >> 20
            );
            return Err(InferError::Overloaded { reason, retry_after: Duration::from_secs(1) });
        };
        match &mut held.0 {
            Some(held) => held.merge(grown),
            empty => *empty = Some(grown),
        }
        Ok(())
    }
}

/// The length that the client declared.
pub(super) fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body, in one allocation where its length is declared, and the memory that it counts for: as much as came,
/// not as was declared. The error is the answer to send, ready made.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    options: &Options,
    memory: &Memory,
) -> Result<(Vec<u8>, Held), Response> {
    let limit = options.max_body_bytes;
    let too_large = || InferError::TooLarge(format!("the body is larger than {limit} bytes")).into_response();
    let declared = declared(headers).unwrap_or(0);
    let Some(expected) = usize::try_from(declared).ok().filter(|&d| d <= limit) else {
        return Err(refuse_unread(headers, body, too_large()).await);
    };
    let mut read = Vec::new();
    let mut held = Held::default();
    if read.try_reserve_exact(expected).is_err() {
        let reason = format!("no memory for a body of {expected} bytes");
        return Err(InferError::Overloaded { reason, retry_after: Duration::from_secs(1) }.into_response());
    }
    loop {
        let frame = match timeout(options.idle_timeout, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok((read, held)),
            Ok(Some(Err(e))) => {
                let status = status_of(&e, StatusCode::BAD_REQUEST);
                return Err(refusal(status, &format!("the body broke off: {e}")));
            }
            Err(_) => {
                let seconds = options.idle_timeout.as_secs_f32();
                let message = format!("nothing more of the body came for {seconds} s");
                return Err(refusal(StatusCode::REQUEST_TIMEOUT, &message));
            }
        };
        if let Some(chunk) = frame.data_ref() {
            if chunk.len() > limit - read.len() {
                return Err(refuse_unread(headers, body, too_large()).await);
            }
            if let Err(error) = memory.fit(&mut held, read.len() + chunk.len()) {
                drop((read, held));
                return Err(refuse_unread(headers, body, error.into_response()).await);
            }
            read.extend_from_slice(chunk);
        }
    }
}

/// `answer`, once the rest of the body is out of the way. A client that waits for `100 Continue` has sent nothing and is
/// not asked to.
pub(super) async fn refuse_unread(headers: &HeaderMap, body: Body, answer: Response) -> Response {
    if !headers.contains_key(header::EXPECT) {
        drain(body).await;
    }
    answer
}
