//! 16-bit floats (IEEE 754 binary16), rounded to nearest: 11 bits of significand, up to 65,504. Subnormal halves (below
//! 6.1e-5) have a step of 6e-8.

use super::layer::{Fault, Form, Layer, Unfit};
use super::simd;
use crate::buffer::Pool;
use defer_partition::DType;

/// Halves, as the next layer writes them.
pub(super) struct F16<L>(pub L);

impl<L: Layer> Layer for F16<L> {
    fn encode(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Unfit> {
        if form.dtype != DType::Fp32 {
            return Err(Unfit::NotFloats);
        }
        let narrow = Form { width: 2, ..*form };
        if self.0.is_raw() {
            return simd::to_halves(cells, out).then_some(()).ok_or(Unfit::NotFinite);
        }
        let mut halves = pool.take(narrow.len());
        let done = match simd::to_halves(cells, &mut halves) {
            true => self.0.encode(&halves, &narrow, out, pool),
            false => Err(Unfit::NotFinite),
        };
        pool.give(halves);
        done
    }

    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Fault> {
        if form.dtype != DType::Fp32 {
            return Err(Fault::new("only FP32 is rounded"));
        }
        let narrow = Form { width: 2, ..*form };
        if self.0.is_raw() && data.len() == narrow.len() {
            simd::from_halves(data, out);
            return Ok(());
        }
        let mut halves = pool.take(narrow.len());
        let decoded = self.0.decode(data, &narrow, &mut halves, pool);
        if decoded.is_ok() {
            simd::from_halves(&halves, out);
        }
        pool.give(halves);
        decoded
    }
}
