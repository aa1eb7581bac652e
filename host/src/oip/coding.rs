//! Compressed bodies: `gzip` and `deflate`, as HTTP names them (RFC 9110, section 8.4.1).

use super::InferError;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use axum::http::{HeaderMap, HeaderValue};
use flate2::Compression;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use std::fmt;
use std::io::{self, Read, Write};

/// What this server can undo and do, for `Accept-Encoding`.
pub(super) const KNOWN: HeaderValue = HeaderValue::from_static("gzip, deflate");

/// Tensors are noisy: more effort gains little, and takes much longer.
const EFFORT: Compression = Compression::fast();
/// Shorter bodies fit a packet as they are.
const WORTH_IT: usize = 1024;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    /// The zlib format, whatever its name says. Some clients send bare deflate data, which is read too.
    Deflate,
}

impl Coding {
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            _ => None,
        }
    }

    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        })
    }

    /// How the body of a request is compressed, if it is.
    ///
    /// # Errors
    /// A message naming a coding that is not served, or more than one.
    pub(super) fn of_body(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let mut coding = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let names = value.to_str().map_err(|_| format!("cannot read the Content-Encoding {value:?}"))?;
            let names = names.split(',').map(str::trim);
            for name in names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")) {
                let known = Self::named(name).ok_or_else(|| {
                    format!("bodies with Content-Encoding \"{name}\" are not served; use gzip, deflate or none")
                })?;
                if coding.replace(known).is_some() {
                    return Err("bodies that are compressed twice are not served; compress once or not at all".into());
                }
            }
        }
        Ok(coding)
    }

    /// The coding that the client likes best of those served here; `None` to send the body as it is, which is also the
    /// answer to a client that names nothing known: it can still refuse what it gets.
    pub(super) fn wanted(headers: &HeaderMap) -> Option<Self> {
        let (mut best, mut any) = (None, None);
        let mut named = Vec::new();
        for value in headers.get_all(ACCEPT_ENCODING) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let (name, weight) = weighed(item);
                if name == "*" {
                    any = Some(weight);
                } else if let Some(coding) = Self::named(name) {
                    named.push(coding);
                    best = better(best, (coding, weight));
                }
            }
        }
        // The wildcard speaks for what was not named.
        for coding in [Coding::Gzip, Coding::Deflate].into_iter().filter(|coding| !named.contains(coding)) {
            best = any.map_or(best, |weight| better(best, (coding, weight)));
        }
        best.map(|(coding, _)| coding)
    }

    /// The bytes that `body` stands for, at most `limit`. Takes memory for what is there, not for what is claimed.
    ///
    /// # Errors
    /// [`InferError::TooLarge`], or [`InferError::Invalid`] where it is damaged, cut off, or followed by more.
    pub fn expand(self, body: &[u8], limit: usize) -> Result<Vec<u8>, InferError> {
        let (expanded, rest) = match self {
            Coding::Gzip => {
                // A gzip file may consist of several; anything else after one is an error of the decoder's.
                let mut decoder = MultiGzDecoder::new(body);
                (read(&mut decoder, limit)?, decoder.into_inner())
            }
            Coding::Deflate if is_zlib(body) => {
                let mut decoder = ZlibDecoder::new(body);
                (read(&mut decoder, limit)?, decoder.into_inner())
            }
            Coding::Deflate => {
                let mut decoder = DeflateDecoder::new(body);
                (read(&mut decoder, limit)?, decoder.into_inner())
            }
        };
        if rest.is_empty() {
            return Ok(expanded);
        }
        Err(damaged(&format!("{} bytes follow after its end", rest.len())))
    }

    /// Compresses `parts`, one after another, and frees each.
    pub(super) fn compress(self, parts: Vec<Vec<u8>>) -> io::Result<Vec<u8>> {
        fn all<W: Write>(mut encoder: W, parts: Vec<Vec<u8>>) -> io::Result<W> {
            for part in parts {
                encoder.write_all(&part)?;
            }
            Ok(encoder)
        }
        match self {
            Coding::Gzip => all(GzEncoder::new(Vec::new(), EFFORT), parts)?.finish(),
            Coding::Deflate => all(ZlibEncoder::new(Vec::new(), EFFORT), parts)?.finish(),
        }
    }
}

/// Whether a body of `bytes` is worth compressing.
pub(super) fn worth_it(bytes: usize) -> bool {
    bytes >= WORTH_IT
}

/// A coding's name and weight in thousandths. A weight that cannot be read counts as none.
fn weighed(item: &str) -> (&str, u16) {
    let (name, parameter) = item.split_once(';').unwrap_or((item, "q=1"));
    let weight = parameter.trim().strip_prefix(['q', 'Q']).and_then(|rest| rest.trim().strip_prefix('='));
    let weight = weight.and_then(|w| w.trim().parse::<f32>().ok()).filter(|w| (0.0..=1.0).contains(w));
    // At most 1000.
    (name.trim(), weight.map_or(0, |w| (w * 1000.0) as u16))
}

/// The heavier of the two; at equal weights the first, and never one that the client refuses.
fn better(best: Option<(Coding, u16)>, next: (Coding, u16)) -> Option<(Coding, u16)> {
    match best {
        _ if next.1 == 0 => best,
        Some((_, weight)) if weight >= next.1 => best,
        _ => Some(next),
    }
}

fn damaged(how: &dyn fmt::Display) -> InferError {
    InferError::Invalid(format!("the body is not what its Content-Encoding says: {how}"))
}

fn read(decoder: &mut impl Read, limit: usize) -> Result<Vec<u8>, InferError> {
    let mut expanded = Vec::new();
    // One byte more than allowed shows that there is more, without reading on.
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(most).read_to_end(&mut expanded).map_err(|e| damaged(&e))?;
    if expanded.len() > limit {
        return Err(InferError::TooLarge(format!("the body expands to more than {limit} bytes")));
    }
    Ok(expanded)
}

/// Whether `body` begins as zlib data does: method 8, and a check that makes both bytes a multiple of 31 (RFC 1950).
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..] if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0)
}
