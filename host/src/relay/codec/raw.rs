//! No encoding: the receive buffer is the tensor.

use super::{Codec, CodecError};

pub(super) fn decode(data: Vec<u8>, want: usize) -> Result<Vec<u8>, CodecError> {
    if data.len() == want { Ok(data) } else { Err(CodecError::Length { codec: Codec::Raw, got: data.len(), want }) }
}
