//! LZ4, block format (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>).

use super::layer::{Fault, Form, Layer, Unfit};
use super::planes::Squeeze;
use super::scratch;
use crate::buffer::Pool;
use lz4_flex::block::{self, CompressTable};
use std::cell::RefCell;

pub(super) struct Lz4;

thread_local! {
    static TABLE: RefCell<CompressTable> = RefCell::new(CompressTable::large());
}

impl Squeeze for Lz4 {
    /// It is there for its speed.
    const GAIN: usize = 4;

    fn squeeze(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        scratch::with(block::get_maximum_output_size(bytes.len()), |room| {
            let len = TABLE.with_borrow_mut(|table| block::compress_into_with_table(bytes, room, table)).ok()?;
            (len < bytes.len()).then(|| {
                out.extend_from_slice(&room[..len]);
                len
            })
        })
    }

    fn expand(&self, data: &[u8], bytes: &mut [u8]) -> Result<usize, Fault> {
        block::decompress_into(data, bytes).map_err(Fault::new)
    }
}

impl Layer for Lz4 {
    fn encode(&self, cells: &[u8], _: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Unfit> {
        self.squeeze(cells, out).map(drop).ok_or(Unfit::NotSmaller)
    }

    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Fault> {
        let at = out.len();
        out.resize(at + form.len(), 0);
        match self.expand(data, &mut out[at..])? {
            got if got == form.len() => Ok(()),
            got => Err(Fault::Length { got, want: form.len() }),
        }
    }
}
