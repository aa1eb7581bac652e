//! Which cells are not zero, and those cells: for what comes out of a ReLU.
//!
//! Zero is the bit pattern of zeros alone, so that -0.0 is a value like any other.
//!
//! Format: a byte 1; a bitmap of one bit per cell, the first one lowest in the first byte, unused bits 0; then the cells
//! that are not zero, as the next layer writes them. Or a byte 0, and all cells as the next layer writes them, where there
//! are too few zeros for that to be shorter.

use super::layer::{Fault, Form, Layer, Unfit};
use super::simd;
use crate::buffer::Pool;

pub(super) struct Sparse<L>(pub L);

const DENSE: u8 = 0;
const SPARSE: u8 = 1;

impl<L: Layer> Layer for Sparse<L> {
    fn encode(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Unfit> {
        let start = out.len();
        let bitmap = form.count.div_ceil(8);
        out.push(SPARSE);
        if self.0.is_raw() {
            simd::pack(cells, form.width, out);
            if out.len() - start < 1 + form.len() {
                return Ok(());
            }
        } else {
            let mut packed = pool.take(bitmap + form.len());
            simd::pack(cells, form.width, &mut packed);
            let done = (packed.len() < form.len()).then(|| {
                let (bitmap, values) = packed.split_at(bitmap);
                out.extend_from_slice(bitmap);
                self.0.encode(values, &Form { count: values.len() / form.width, ..*form }, out, pool)
            });
            pool.give(packed);
            if let Some(done) = done {
                return done;
            }
        }
        out.truncate(start);
        out.push(DENSE);
        self.0.encode(cells, form, out, pool)
    }

    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Fault> {
        let (kind, data) = match data.split_first() {
            Some((&kind, data)) if kind <= SPARSE => (kind, data),
            _ => return Err(Fault::new("it begins with neither 0 nor 1")),
        };
        if kind == DENSE {
            return self.0.decode(data, form, out, pool);
        }
        let (bitmap, data) = split_bitmap(data, form.count)?;
        let inner = Form { count: simd::ones(bitmap), ..*form };
        if self.0.is_raw() && data.len() == inner.len() {
            simd::unpack(bitmap, data, form.width, form.count, out);
            return Ok(());
        }
        let mut values = pool.take(inner.len());
        let decoded = self.0.decode(data, &inner, &mut values, pool);
        if decoded.is_ok() {
            simd::unpack(bitmap, &values, form.width, form.count, out);
        }
        pool.give(values);
        decoded
    }
}

/// The bitmap of `count` cells in front of `data`, and the rest.
pub(super) fn split_bitmap(data: &[u8], count: usize) -> Result<(&[u8], &[u8]), Fault> {
    let (bitmap, rest) = data.split_at_checked(count.div_ceil(8)).ok_or_else(|| Fault::new("its bitmap ends early"))?;
    match (bitmap.last(), count % 8) {
        (Some(last), used @ 1..) if last >> used != 0 => Err(Fault::new("its bitmap has bits beyond the last cell")),
        _ => Ok((bitmap, rest)),
    }
}
