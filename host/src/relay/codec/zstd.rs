//! Zstandard (RFC 8878), one frame, at its fastest level that still has an entropy stage.

use super::layer::Fault;
use super::planes::Squeeze;
use super::scratch;
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

/// Levels below 1 leave literals as they are.
const LEVEL: i32 = 1;

pub(super) struct Zstd;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Squeeze for Zstd {
    const GAIN: usize = 16;

    fn squeeze(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        // Room for one byte less than there are: what does not fit is of no use.
        scratch::with(bytes.len().saturating_sub(1), |room| {
            COMPRESSOR.with_borrow_mut(|slot| {
                if slot.is_none() {
                    *slot = Compressor::new(LEVEL).ok();
                }
                let len = slot.as_mut()?.compress_to_buffer(bytes, room).ok()?;
                out.extend_from_slice(&room[..len]);
                Some(len)
            })
        })
    }

    fn expand(&self, data: &[u8], bytes: &mut [u8]) -> Result<usize, Fault> {
        DECOMPRESSOR.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = Some(Decompressor::new().map_err(Fault::new)?);
            }
            let decompressor = slot.as_mut().expect("made above");
            decompressor.decompress_to_buffer(data, bytes).map_err(Fault::new)
        })
    }
}
