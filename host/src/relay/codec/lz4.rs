//! LZ4, block format (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>).

use super::{Codec, CodecError};
use crate::buffer::Pool;
use lz4_flex::block;

pub(super) fn max_encoded_len(raw_len: usize) -> usize {
    block::get_maximum_output_size(raw_len)
}

pub(super) fn encode(data: Vec<u8>, pool: &Pool) -> (Codec, Vec<u8>) {
    let mut out = pool.take(max_encoded_len(data.len()));
    out.resize(max_encoded_len(data.len()), 0);
    match block::compress_into(&data, &mut out) {
        Ok(len) if len < data.len() => {
            out.truncate(len);
            pool.give(data);
            (Codec::Lz4, out)
        }
        _ => {
            pool.give(out);
            (Codec::Raw, data)
        }
    }
}

pub(super) fn decode(data: Vec<u8>, want: usize, pool: &Pool) -> Result<Vec<u8>, CodecError> {
    let mut out = pool.take(want);
    out.resize(want, 0);
    let got = block::decompress_into(&data, &mut out)
        .map_err(|error| CodecError::Malformed { codec: Codec::Lz4, cause: error.to_string() })?;
    if got != want {
        return Err(CodecError::Length { codec: Codec::Lz4, got, want });
    }
    pool.give(data);
    Ok(out)
}
