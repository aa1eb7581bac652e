//! The relay's frame: what stands on the wire, and nothing of how it gets there.
//!
//! Little-endian throughout. A fixed part of [`FIXED`] bytes, then `head` bytes, then `body` bytes:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `DFRH` |
//! | 4 | 2 | protocol version |
//! | 6 | 1 | kind: 1 hello, 2 data, 3 error, 4 credit, 5 ping |
//! | 7 | 1 | 0 |
//! | 8 | 8 | pipeline: the first 8 bytes of the SHA-256 of its name |
//! | 16 | 8 | dispatcher incarnation |
//! | 24 | 8 | generation |
//! | 32 | 8 | seq |
//! | 40 | 4 | attempt |
//! | 44 | 4 | length of the head |
//! | 48 | 8 | remaining time budget in µs, 0 for none |
//! | 56 | 16 | trace id |
//! | 72 | 8 | length of the body |
//! | 80 | 8 | XXH3-64 of bytes 0–79 and the head |
//!
//! The head of a data frame is a `u16` count, then per tensor: name index `u16`, dtype `u8` (ONNX's number), rank `u8`,
//! codec `u8`, 0 `u8`, length of the codec's parameters `u16`, encoded length `u64`, XXH3-64 of the encoded bytes `u64`,
//! the dimensions as `u64`, the parameters. Its body is the encoded tensors in the same order. The head of a hello and of
//! an error is JSON, that of a credit a `u32`, that of a ping empty; none of these has a body.

use super::codec::{Codec, Encoded};
use defer_partition::{DType, byte_len};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::hash::Hasher as _;
use thiserror::Error;
use twox_hash::XxHash3_64;

pub const MAGIC: [u8; 4] = *b"DFRH";
pub const VERSION: u16 = 1;
/// Bytes of the fixed part.
pub const FIXED: usize = 88;
/// A head is at most this long: some thousand tensors.
pub const MAX_HEAD: usize = 128 * 1024;
/// Dimensions of a tensor at most.
pub const MAX_RANK: usize = 64;

/// A pipeline's name as it stands in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PipelineId(pub u64);

impl PipelineId {
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self(u64::from_le_bytes(*digest.first_chunk().expect("SHA-256 has 32 bytes")))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Data = 2,
    Error = 3,
    Credit = 4,
    Ping = 5,
}

impl Kind {
    fn from_id(id: u8) -> Option<Self> {
        [Self::Hello, Self::Data, Self::Error, Self::Credit, Self::Ping].into_iter().find(|kind| *kind as u8 == id)
    }
}

/// What identifies a frame: which pipeline and generation it belongs to, and which request it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    pub pipeline: PipelineId,
    /// Drawn anew at each start of a dispatcher.
    pub incarnation: u64,
    pub generation: u64,
    /// The dispatcher's number of the request.
    pub seq: u64,
    /// How many times the request was replayed.
    pub attempt: u32,
    /// Time left to answer it, in µs; 0 for no limit. Clocks differ, so it is never an absolute time.
    pub budget_us: u64,
    pub trace: u128,
}

/// The fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    pub kind: Kind,
    pub tag: Tag,
    pub head_len: usize,
    pub body_len: u64,
    checksum: u64,
}

/// One tensor in a data frame. `name` indexes the hop's tensor names, sorted by their bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub name: u16,
    pub tensor: Encoded,
}

/// What the head of a data frame says about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct PartHead {
    pub name: u16,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub codec: Codec,
    pub encoded_len: usize,
    pub checksum: u64,
}

/// A request that failed, on its way to the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Node on which it failed.
    pub node: String,
    /// Stage in which it failed.
    pub stage: usize,
    pub kind: FailureKind,
    /// What failed, outermost first.
    pub cause: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The tensors do not fit the stage.
    Invalid,
    /// The stage or its engine failed.
    Stage,
    /// The time budget was used up.
    Expired,
    /// The frame arrived damaged.
    Damaged,
}

/// Why bytes are no frame. After one of these, where the next frame starts is not known: the connection ends.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("no relay frame: it begins with {0:02x?} instead of \"DFRH\"; is the peer a relay port of defer-host?")]
    Magic([u8; 4]),
    #[error("the peer speaks relay protocol version {theirs}, this node version {VERSION}; update the older one")]
    Version { theirs: u16 },
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("checksum of the frame's head is {got:016x}, the frame says {declared:016x}")]
    Checksum { declared: u64, got: u64 },
    #[error("{what} of {got} is over the limit of {limit}{cure}")]
    TooLarge { what: &'static str, got: u64, limit: u64, cure: &'static str },
    #[error("malformed {kind:?} frame: {cause}")]
    Malformed { kind: Kind, cause: String },
}

/// Writes fixed part and head of a frame.
pub fn write_head(kind: Kind, tag: &Tag, head: &[u8], body_len: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED + head.len());
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend([kind as u8, 0]);
    out.extend(tag.pipeline.0.to_le_bytes());
    out.extend(tag.incarnation.to_le_bytes());
    out.extend(tag.generation.to_le_bytes());
    out.extend(tag.seq.to_le_bytes());
    out.extend(tag.attempt.to_le_bytes());
    let head_len = u32::try_from(head.len()).expect("heads are bounded by MAX_HEAD");
    out.extend(head_len.to_le_bytes());
    out.extend(tag.budget_us.to_le_bytes());
    out.extend(tag.trace.to_le_bytes());
    out.extend(body_len.to_le_bytes());
    let checksum = checksum(&out, head);
    out.extend(checksum.to_le_bytes());
    out.extend(head);
    out
}

fn checksum(fixed: &[u8], head: &[u8]) -> u64 {
    let mut hasher = XxHash3_64::new();
    hasher.write(fixed);
    hasher.write(head);
    hasher.finish()
}

/// Reads the fixed part. The checksum is checked by [`Fixed::check`], once the head is there too.
pub fn read_fixed(bytes: &[u8; FIXED]) -> Result<Fixed, FrameError> {
    let mut fields = Fields(bytes);
    let magic = fields.array();
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let theirs = u16::from_le_bytes(fields.array());
    if theirs != VERSION {
        return Err(FrameError::Version { theirs });
    }
    let [kind, _] = fields.array();
    let kind = Kind::from_id(kind).ok_or(FrameError::Kind(kind))?;
    let pipeline = PipelineId(fields.u64());
    let (incarnation, generation, seq) = (fields.u64(), fields.u64(), fields.u64());
    let attempt = u32::from_le_bytes(fields.array());
    let head_len = u32::from_le_bytes(fields.array()) as usize;
    let budget_us = fields.u64();
    let trace = u128::from_le_bytes(fields.array());
    let (body_len, checksum) = (fields.u64(), fields.u64());
    let tag = Tag { pipeline, incarnation, generation, seq, attempt, budget_us, trace };
    if head_len > MAX_HEAD {
        let (got, limit) = (head_len as u64, MAX_HEAD as u64);
        return Err(FrameError::TooLarge { what: "a frame's head", got, limit, cure: "" });
    }
    Ok(Fixed { kind, tag, head_len, body_len, checksum })
}

impl Fixed {
    /// Checks the checksum over the bytes it was read from and its head.
    pub fn check(&self, bytes: &[u8; FIXED], head: &[u8]) -> Result<(), FrameError> {
        let got = checksum(&bytes[..FIXED - 8], head);
        if got == self.checksum { Ok(()) } else { Err(FrameError::Checksum { declared: self.checksum, got }) }
    }
}

/// The head of a data frame that carries `parts`.
pub fn data_head(parts: &[Part]) -> Vec<u8> {
    let mut head = Vec::with_capacity(2 + parts.len() * 64);
    head.extend(u16::try_from(parts.len()).expect("hops carry few tensors").to_le_bytes());
    for Part { name, tensor } in parts {
        head.extend(name.to_le_bytes());
        head.push(tensor.dtype as u8);
        head.push(u8::try_from(tensor.shape.len()).expect("rank is checked where a tensor enters the chain"));
        let parameters = tensor.codec.parameters();
        head.extend([tensor.codec.id(), 0]);
        head.extend(u16::try_from(parameters.len()).expect("codecs have few parameters").to_le_bytes());
        head.extend((tensor.data.len() as u64).to_le_bytes());
        head.extend(tensor.checksum.to_le_bytes());
        for &dim in &tensor.shape {
            head.extend((dim as u64).to_le_bytes());
        }
        head.extend_from_slice(&parameters);
    }
    head
}

/// Reads the head of a data frame, holding every length against `max_tensor` (bytes of one tensor, encoded or not) and
/// the sum against `body_len`, so that nothing is allocated for a length that is not plausible.
pub fn read_data_head(head: &[u8], body_len: u64, max_tensor: usize) -> Result<Vec<PartHead>, FrameError> {
    let malformed = |cause: &str| FrameError::Malformed { kind: Kind::Data, cause: cause.to_owned() };
    let short = || malformed("its head ends early");
    let mut fields = Fields(head);
    let count = u16::from_le_bytes(fields.get().ok_or_else(short)?);
    let mut parts = Vec::new();
    let mut total = 0u64;
    for _ in 0..count {
        let name = u16::from_le_bytes(fields.get().ok_or_else(short)?);
        let [dtype, rank, codec, _] = fields.get().ok_or_else(short)?;
        let dtype =
            DType::from_onnx(i32::from(dtype)).ok_or_else(|| malformed(&format!("unknown element type {dtype}")))?;
        if usize::from(rank) > MAX_RANK {
            return Err(malformed(&format!("a tensor of rank {rank}")));
        }
        let parameters = u16::from_le_bytes(fields.get().ok_or_else(short)?);
        let encoded_len = u64::from_le_bytes(fields.get().ok_or_else(short)?);
        let checksum = u64::from_le_bytes(fields.get().ok_or_else(short)?);
        let mut shape = Vec::with_capacity(usize::from(rank));
        for _ in 0..rank {
            let dim = u64::from_le_bytes(fields.get().ok_or_else(short)?);
            shape.push(usize::try_from(dim).map_err(|_| malformed("a dimension is larger than memory"))?);
        }
        let parameters = fields.bytes(usize::from(parameters)).ok_or_else(short)?;
        let codec = Codec::from_wire(codec, parameters).map_err(|cause| malformed(&cause))?;
        let too_large = |got: u64| FrameError::TooLarge {
            what: "a tensor's bytes",
            got,
            limit: max_tensor as u64,
            cure: " (serve --max-tensor-mb)",
        };
        let raw_len = byte_len(dtype, &shape).filter(|&len| len <= max_tensor);
        let Some(raw_len) = raw_len else {
            return Err(too_large(byte_len(dtype, &shape).map_or(u64::MAX, |len| len as u64)));
        };
        // What a codec does not make smaller travels raw.
        let encoded_len = match usize::try_from(encoded_len) {
            Ok(len) if len <= raw_len => len,
            _ => return Err(too_large(encoded_len)),
        };
        total = total.saturating_add(encoded_len as u64);
        parts.push(PartHead { name, dtype, shape, codec, encoded_len, checksum });
    }
    if !fields.0.is_empty() {
        return Err(malformed("bytes follow its last tensor"));
    }
    if total != body_len {
        return Err(malformed(&format!("its tensors need {total} bytes, its body has {body_len}")));
    }
    Ok(parts)
}

/// Little-endian fields, read one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    fn get<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    /// For the fixed part, whose length is known.
    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.get().expect("the fixed part holds all its fields")
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> (Tag, Vec<Part>) {
        let tag = Tag {
            pipeline: PipelineId::of("ocr-rec"),
            incarnation: 3,
            generation: 4,
            seq: 5,
            attempt: 6,
            budget_us: 7,
            trace: 8,
        };
        let data = vec![1, 2, 3, 4, 5, 6];
        let checksum = XxHash3_64::oneshot(&data);
        let tensor = Encoded { dtype: DType::Uint8, shape: vec![1, 2, 3], codec: Codec::Raw, data, checksum };
        (tag, vec![Part { name: 9, tensor }])
    }

    fn read(bytes: &[u8], max_tensor: usize) -> Result<(Fixed, Vec<PartHead>), FrameError> {
        let (fixed_bytes, head) = bytes.split_first_chunk::<FIXED>().expect("long enough");
        let fixed = read_fixed(fixed_bytes)?;
        fixed.check(fixed_bytes, &head[..fixed.head_len.min(head.len())])?;
        let parts = read_data_head(&head[..fixed.head_len], fixed.body_len, max_tensor)?;
        Ok((fixed, parts))
    }

    #[test]
    fn a_data_frame_comes_back_as_it_was() {
        let (tag, parts) = sample();
        let bytes = write_head(Kind::Data, &tag, &data_head(&parts), 6);
        let (fixed, heads) = read(&bytes, 100).expect("our own frame");
        assert_eq!((fixed.kind, fixed.tag, fixed.body_len), (Kind::Data, tag, 6));
        assert_eq!((heads[0].name, &heads[0].shape, heads[0].encoded_len), (9, &vec![1, 2, 3], 6));
    }

    #[test]
    fn each_broken_field_has_its_own_error() {
        let (tag, parts) = sample();
        let good = write_head(Kind::Data, &tag, &data_head(&parts), 6);
        let broken = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            read(&bytes, 100).expect_err("a broken frame")
        };
        assert!(matches!(broken(0, b'X'), FrameError::Magic(_)));
        assert_eq!(broken(4, 9), FrameError::Version { theirs: 9 });
        assert_eq!(broken(6, 99), FrameError::Kind(99));
        assert!(matches!(broken(47, 0xff), FrameError::TooLarge { what: "a frame's head", .. }));
        for at in [8, 20, 33, 41, 50, 60, 75, 81, FIXED + 3] {
            assert!(matches!(broken(at, 0xee), FrameError::Checksum { .. }), "byte {at}");
        }
    }

    #[test]
    fn implausible_lengths_are_refused_before_anything_is_allocated() {
        let (tag, mut parts) = sample();
        parts[0].tensor.shape = vec![1 << 60];
        let bytes = write_head(Kind::Data, &tag, &data_head(&parts), 6);
        assert!(matches!(read(&bytes, 100), Err(FrameError::TooLarge { got, .. }) if got == 1 << 60));
        let (_, parts) = sample();
        let bytes = write_head(Kind::Data, &tag, &data_head(&parts), 1 << 60);
        assert!(matches!(read(&bytes, 100), Err(FrameError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn any_head_gives_parts_or_an_error(head in prop::collection::vec(any::<u8>(), 0..200), body in any::<u64>()) {
            let _ = read_data_head(&head, body, 1 << 20);
        }
    }
}
