//! Every codec of the relay: any bytes decode to the declared size or give an error; any tensor comes back.
//!
//! An input is: codec, element type, mode, number of dimensions (a byte each), a `u16` per dimension, and bytes, which
//! are the encoded ones or the tensor's own.

use super::{Verdict, take};
use defer_host::buffer::Pool;
use defer_host::relay::codec::{self, Codec, Encoded};
use defer_partition::{DType, Tensor, byte_len};
use twox_hash::XxHash3_64;

/// Bytes of a tensor here; a frame's reader refuses larger ones before their codec is asked.
const MAX_TENSOR: usize = 256 << 10;

/// A tensor, its encoding, the tensor again, and what a codec works with.
pub fn memory(input: usize) -> usize {
    16 * MAX_TENSOR + 4 * input
}

pub fn run(mut input: &[u8]) -> Verdict {
    let [codec, dtype, mode, rank] = take(&mut input);
    let codec = Codec::ALL[usize::from(codec) % Codec::ALL.len()];
    let dtype = DType::ALL[usize::from(dtype) % DType::ALL.len()];
    let shape: Vec<usize> = (0..rank % 6).map(|_| usize::from(u16::from_le_bytes(take(&mut input)))).collect();
    let Some(len) = byte_len(dtype, &shape).filter(|&len| len <= MAX_TENSOR) else { return Verdict::Refused };
    if mode % 2 == 0 {
        return decodes(codec, Tensor { dtype, shape, data: Vec::new() }, len, input);
    }
    // A few bytes make a large tensor, with repetitions as activations have them.
    let data = input.iter().copied().cycle().take(len);
    let data: Vec<u8> = if input.is_empty() { vec![0; len] } else { data.collect() };
    comes_back(codec, Tensor { dtype, shape, data })
}

/// `bytes` as the encoding of a tensor like `declared`, which takes `len` bytes.
fn decodes(codec: Codec, declared: Tensor, len: usize, bytes: &[u8]) -> Verdict {
    // What a codec does not make smaller travels raw: a frame's reader refuses anything longer.
    if bytes.len() > len {
        return Verdict::Refused;
    }
    let Tensor { dtype, shape, .. } = declared;
    let checksum = XxHash3_64::oneshot(bytes);
    let encoded = Encoded { dtype, shape: shape.clone(), codec, data: bytes.to_vec(), checksum };
    let Ok(tensor) = codec::decode(encoded, &Pool::new(0)) else { return Verdict::Refused };
    assert_eq!((tensor.dtype, &tensor.shape, tensor.data.len()), (dtype, &shape, len), "{codec}");
    comes_back(codec, tensor)
}

fn comes_back(codec: Codec, tensor: Tensor) -> Verdict {
    let encoded = codec::encode(tensor.clone(), codec, &Pool::new(0));
    assert!(encoded.data.len() <= tensor.data.len(), "{codec}: a tensor that it would not shrink travels raw");
    let is_lossy = encoded.codec.is_lossy();
    let decoded = codec::decode(encoded, &Pool::new(0)).expect("our own encoding");
    assert_eq!((decoded.dtype, &decoded.shape, decoded.data.len()), (tensor.dtype, &tensor.shape, tensor.data.len()));
    assert!(!is_lossy || codec.is_lossy() && tensor.dtype == DType::Fp32, "{codec}");
    assert!(is_lossy || decoded == tensor, "{codec}");
    Verdict::Taken
}
