//! How a tensor's bytes travel over one hop.
//!
//! A codec is chosen per tensor and hop; its number and parameters stand in the frame beside the tensor, so that both ends
//! need not agree on anything beforehand. Decoders are total: any bytes give a tensor of the declared size, or an error.
//!
//! Codecs are made of layers (`layer.rs`), one file each; `table.rs` says which there are and what numbers they have.

mod choice;
mod constant;
mod f16;
mod int8;
mod layer;
mod lz4;
mod planes;
mod raw;
mod scratch;
mod simd;
mod sparse;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod zfp;
mod zstd;

pub use choice::Choice;
pub use constant::Constant;
pub use table::Codec;
pub use zfp::{Mode, Positive};

use crate::buffer::Pool;
use defer_partition::{DType, Tensor, byte_len};
use layer::{Fault, Form, Unfit};
use thiserror::Error;
use twox_hash::XxHash3_64;

/// A tensor as it travels.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub codec: Codec,
    pub data: Vec<u8>,
    /// XXH3-64 of `data`.
    pub checksum: u64,
}

impl Encoded {
    /// The same again, in a buffer of the pool.
    pub fn copy(&self, pool: &Pool) -> Self {
        let mut data = pool.take(self.data.len());
        data.extend_from_slice(&self.data);
        Self { dtype: self.dtype, shape: self.shape.clone(), codec: self.codec, data, checksum: self.checksum }
    }
}

/// Why bytes from the wire are no tensor.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    #[error("checksum of the encoded bytes is {got:016x}, its frame says {declared:016x}")]
    Checksum { declared: u64, got: u64 },
    #[error("{codec} data decodes to {got} bytes, the shape needs {want}")]
    Length { codec: Codec, got: usize, want: usize },
    #[error("malformed {codec} data: {cause}")]
    Malformed { codec: Codec, cause: String },
    #[error("a tensor of shape {0:?} is larger than memory")]
    TooLarge(Vec<usize>),
}

/// Encodes `tensor`, consuming it.
///
/// A tensor that a lossy codec cannot carry (not of 32-bit floats, or with an infinity or a NaN in it) is encoded by that
/// codec's lossless stand-in; one that would not become smaller travels raw. A codec of constant size has no stand-in:
/// NaN becomes 0, an infinity the largest number there is, and any other element type travels raw.
pub fn encode(tensor: Tensor, codec: Codec, pool: &Pool) -> Encoded {
    let smaller = match (attempt(&tensor, codec, pool), codec) {
        (Err(Unfit::NotFinite), Codec::ConstantSize(constant)) => {
            let mut data = pool.take(tensor.data.len());
            constant::tame(&tensor.data, constant.limit(), &mut data);
            let tamed = Tensor { data, shape: tensor.shape.clone(), ..tensor };
            let done = attempt(&tamed, codec, pool);
            pool.give(tamed.data);
            done
        }
        (done, Codec::ConstantSize(_)) => done,
        (Err(Unfit::NotFloats | Unfit::NotFinite | Unfit::TooLarge | Unfit::TooFine), codec) if codec.is_lossy() => {
            attempt(&tensor, codec.stand_in(), pool)
        }
        (done, _) => done,
    };
    let Tensor { dtype, shape, data } = tensor;
    let (codec, data) = match smaller {
        Ok((codec, encoded)) => {
            pool.give(data);
            (codec, encoded)
        }
        Err(_) => (Codec::Raw, data),
    };
    let checksum = XxHash3_64::oneshot(&data);
    Encoded { dtype, shape, codec, data, checksum }
}

/// The encoding, and the codec with the parameters that it was made with.
fn attempt(Tensor { dtype, shape, data }: &Tensor, codec: Codec, pool: &Pool) -> Result<(Codec, Vec<u8>), Unfit> {
    if codec == Codec::Raw || data.is_empty() {
        return Err(Unfit::NotSmaller);
    }
    let codec = codec.settle(*dtype, data)?;
    let form = Form { dtype: *dtype, shape, width: dtype.size(), count: data.len() / dtype.size() };
    // Room for what goes before the values: bitmap, scales, lengths of planes.
    let mut out = pool.take(data.len() + data.len() / 8 + 64);
    match codec.with_layer(|layer| layer.encode(data, &form, &mut out, pool)) {
        Ok(()) if out.len() < data.len() => Ok((codec.as_it_travels(), out)),
        done => {
            pool.give(out);
            Err(done.err().unwrap_or(Unfit::NotSmaller))
        }
    }
}

/// Checks and decodes what came over the wire, consuming it.
pub fn decode(encoded: Encoded, pool: &Pool) -> Result<Tensor, CodecError> {
    let got = XxHash3_64::oneshot(&encoded.data);
    if got != encoded.checksum {
        return Err(CodecError::Checksum { declared: encoded.checksum, got });
    }
    let Encoded { dtype, shape, codec, data, .. } = encoded;
    let Some(want) = byte_len(dtype, &shape) else {
        return Err(CodecError::TooLarge(shape));
    };
    if codec == Codec::Raw {
        return match data.len() {
            got if got == want => Ok(Tensor { dtype, shape, data }),
            got => Err(CodecError::Length { codec, got, want }),
        };
    }
    let form = Form { dtype, shape: &shape, width: dtype.size(), count: want / dtype.size() };
    let mut out = pool.take(want);
    let decoded = codec.with_layer(|layer| layer.decode(&data, &form, &mut out, pool));
    pool.give(data);
    match decoded {
        Ok(()) if out.len() == want => Ok(Tensor { dtype, shape, data: out }),
        Ok(()) => Err(CodecError::Length { codec, got: out.len(), want }),
        Err(Fault::Length { got, want }) => Err(CodecError::Length { codec, got, want }),
        Err(Fault::Malformed(cause)) => Err(CodecError::Malformed { codec, cause }),
    }
}
