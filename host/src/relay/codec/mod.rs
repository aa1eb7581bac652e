//! How a tensor's bytes travel over one hop.
//!
//! A codec is chosen per tensor and hop; its id stands in the frame beside the tensor, so that both ends need not agree
//! on anything beforehand. Decoders are total: any bytes give a tensor of the declared size, or an error.

mod lz4;
mod raw;

use crate::buffer::Pool;
use defer_partition::{DType, Tensor, byte_len};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;
use twox_hash::XxHash3_64;

/// Identifies a codec on the wire. The numbers never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Codec {
    /// The bytes as they are.
    #[default]
    Raw = 0,
    /// LZ4 block format, without a size in front: the shape gives it.
    Lz4 = 1,
}

impl Codec {
    pub const ALL: [Codec; 2] = [Codec::Raw, Codec::Lz4];

    /// The codec with the wire's number `id`.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// Its number on the wire.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Its name in command lines, JSON and reports.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Raw => "raw",
            Codec::Lz4 => "lz4",
        }
    }

    /// The most bytes that an encoding of `raw_len` bytes may have.
    pub fn max_encoded_len(self, raw_len: usize) -> usize {
        match self {
            Codec::Raw => raw_len,
            Codec::Lz4 => lz4::max_encoded_len(raw_len),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Codec {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| {
            format!("unknown codec \"{name}\"; this version has {}", Self::ALL.map(Codec::name).join(", "))
        })
    }
}

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

/// Encodes `tensor`, consuming it. Where `codec` would not make it smaller, the tensor travels raw.
pub fn encode(tensor: Tensor, codec: Codec, pool: &Pool) -> Encoded {
    let Tensor { dtype, shape, data } = tensor;
    let (codec, data) = match codec {
        Codec::Raw => (Codec::Raw, data),
        Codec::Lz4 => lz4::encode(data, pool),
    };
    let checksum = XxHash3_64::oneshot(&data);
    Encoded { dtype, shape, codec, data, checksum }
}

/// Checks and decodes what came over the wire, consuming it.
pub fn decode(encoded: Encoded, pool: &Pool) -> Result<Tensor, CodecError> {
    let got = XxHash3_64::oneshot(&encoded.data);
    if got != encoded.checksum {
        return Err(CodecError::Checksum { declared: encoded.checksum, got });
    }
    let Encoded { dtype, shape, codec, data, .. } = encoded;
    let Some(len) = byte_len(dtype, &shape) else {
        return Err(CodecError::TooLarge(shape));
    };
    let data = match codec {
        Codec::Raw => raw::decode(data, len)?,
        Codec::Lz4 => lz4::decode(data, len, pool)?,
    };
    Ok(Tensor { dtype, shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(bytes: Vec<u8>) -> Tensor {
        Tensor { dtype: DType::Uint8, shape: vec![bytes.len()], data: bytes }
    }

    proptest! {
        #[test]
        fn every_codec_gives_back_every_bit(bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..5000)) {
            let pool = Pool::new(1 << 20);
            for codec in Codec::ALL {
                let encoded = encode(tensor(bytes.clone()), codec, &pool);
                prop_assert!(encoded.data.len() <= bytes.len());
                prop_assert_eq!(decode(encoded, &pool).expect("our own encoding"), tensor(bytes.clone()));
            }
        }

        #[test]
        fn any_bytes_give_the_declared_size_or_an_error(data in prop::collection::vec(any::<u8>(), 0..300), len in 0usize..2000) {
            let pool = Pool::new(1 << 20);
            for codec in Codec::ALL {
                let checksum = XxHash3_64::oneshot(&data);
                let encoded = Encoded { dtype: DType::Uint8, shape: vec![len], codec, data: data.clone(), checksum };
                if let Ok(tensor) = decode(encoded, &pool) {
                    prop_assert_eq!(tensor.data.len(), len);
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let pool = Pool::new(1 << 20);
        for codec in Codec::ALL {
            let mut encoded = encode(tensor(vec![7; 1000]), codec, &pool);
            encoded.data[3] ^= 1;
            assert!(matches!(decode(encoded, &pool), Err(CodecError::Checksum { .. })));
        }
    }

    #[test]
    fn empty_and_scalar_tensors_travel() {
        let pool = Pool::new(1 << 20);
        for codec in Codec::ALL {
            for (shape, data) in [(vec![2, 0, 3], vec![]), (vec![], vec![1, 2, 3, 4])] {
                let tensor = Tensor { dtype: DType::Fp32, shape, data };
                assert_eq!(decode(encode(tensor.clone(), codec, &pool), &pool), Ok(tensor));
            }
        }
    }
}
