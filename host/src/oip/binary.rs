//! The binary tensor data extension: a JSON header, then the raw tensors one after another in the order in which the
//! header lists them, each dense, row-major and little-endian. The HTTP header [`HEADER_LENGTH`] says where the JSON
//! ends.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
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

pub(super) fn respond_json(json: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
}

/// A response of a JSON part and raw tensors. The tensors' bytes go to the socket from where they are.
pub(super) fn respond_binary(json: Vec<u8>, tensors: Vec<Vec<u8>>) -> Response {
    let json_length = json.len();
    // An empty chunk carries nothing, and some clients take one for the end.
    let chunks: Vec<_> = std::iter::once(json).chain(tensors).map(Bytes::from).filter(|c| !c.is_empty()).collect();
    let length: usize = chunks.iter().map(Bytes::len).sum();
    let body = Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(HEADER_LENGTH, HeaderValue::from(json_length));
    response
}
