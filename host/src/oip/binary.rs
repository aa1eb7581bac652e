//! The binary tensor data extension: a JSON header, then the raw tensors one after another in the order in which the
//! header lists them, each dense, row-major and little-endian. The HTTP header [`HEADER_LENGTH`] says where the JSON
//! ends.

use super::InferError;
use super::coding::{self, Coding};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use defer_partition::{DType, byte_len};
use futures_util::stream;
use std::convert::Infallible;

/// The HTTP header that carries the byte length of the JSON part; its presence alone makes a body binary.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// A body in its two parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts<'a> {
    pub json: &'a [u8],
    /// The raw tensors; `None` where the body is JSON throughout.
    pub tensors: Option<&'a [u8]>,
}

/// The byte length of the JSON part that `headers` give, if they give one.
///
/// # Errors
/// A message naming the header where it is repeated or no number.
pub fn header_length(headers: &HeaderMap) -> Result<Option<usize>, String> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("the header Inference-Header-Content-Length is given twice".into());
    }
    let text = value.to_str().unwrap_or_default();
    match text.parse() {
        // `parse` accepts a sign, which HTTP lengths have not.
        Ok(length) if !text.starts_with('+') => Ok(Some(length)),
        _ => Err(format!("the header Inference-Header-Content-Length must be a byte count, got {value:?}")),
    }
}

/// Cuts `body` where its JSON part ends.
///
/// # Errors
/// A message with both lengths where the body is shorter than its JSON part is said to be.
pub fn split(body: &[u8], header_length: Option<usize>) -> Result<Parts<'_>, String> {
    let Some(length) = header_length else { return Ok(Parts { json: body, tensors: None }) };
    let (json, tensors) = body.split_at_checked(length).ok_or_else(|| {
        format!("Inference-Header-Content-Length is {length} bytes, the whole body is only {}", body.len())
    })?;
    Ok(Parts { json, tensors: Some(tensors) })
}

/// Takes one tensor's bytes off the front of `rest`, checking that `declared` is what the shape takes.
///
/// # Errors
/// The rest of a sentence that begins with the tensor's name.
pub fn take<'a>(rest: &mut &'a [u8], declared: u64, dtype: DType, shape: &[usize]) -> Result<&'a [u8], String> {
    let len = byte_len(dtype, shape).ok_or_else(|| format!("has shape {shape:?}, more bytes than can be counted"))?;
    if u64::try_from(len) != Ok(declared) {
        return Err(format!("has a binary_data_size of {declared} bytes, but {dtype}{shape:?} takes {len}"));
    }
    let (taken, after) = rest
        .split_at_checked(len)
        .ok_or_else(|| format!("takes {len} bytes, but the body holds only {} more", rest.len()))?;
    *rest = after;
    if dtype == DType::Bool
        && let Some(at) = taken.iter().position(|&b| b > 1)
    {
        return Err(format!("is BOOL, but its byte {at} is {}; only 0 and 1 are truth values", taken[at]));
    }
    Ok(taken)
}

/// An answer's body in its two parts.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) json: Vec<u8>,
    /// The raw tensors; `None` where all outputs are in the JSON.
    pub(super) tensors: Option<Vec<Vec<u8>>>,
}

/// The response of `answer`, compressed by `coding` if it is worth it. Without compression the tensors' bytes go to the
/// socket from where they are. [`HEADER_LENGTH`] counts the JSON as it is when expanded, as in requests.
///
/// # Errors
/// [`InferError::Failed`] where compression fails.
pub(super) fn respond(answer: Answer, coding: Option<Coding>) -> Result<Response, InferError> {
    let Answer { json, tensors } = answer;
    let json_length = json.len();
    let media = if tensors.is_some() { "application/octet-stream" } else { "application/json" };
    let lengths = tensors.iter().flatten().map(Vec::len);
    let coding = coding.filter(|_| coding::worth_it(json_length + lengths.sum::<usize>()));
    let binary = tensors.is_some();
    let mut parts: Vec<Vec<u8>> = std::iter::once(json).chain(tensors.into_iter().flatten()).collect();
    if let Some(coding) = coding {
        let compressed =
            coding.compress(parts).map_err(|e| InferError::Failed(format!("cannot compress the answer: {e}")))?;
        parts = vec![compressed];
    }
    let length: usize = parts.iter().map(Vec::len).sum();
    // An empty chunk carries nothing, and some clients take one for the end.
    let chunks = parts.into_iter().map(Bytes::from).filter(|chunk| !chunk.is_empty());
    let body = Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>).collect::<Vec<_>>()));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, coding.header());
    }
    if binary {
        headers.insert(HEADER_LENGTH, HeaderValue::from(json_length));
    }
    Ok(response)
}
