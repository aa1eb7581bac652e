//! 8-bit integers with a scale per channel: a value is its integer times its channel's scale. Errors
//! are at most 1/510 of the channel's largest magnitude where nothing in the tensor is negative, else 1/254.
//!
//! Format: a byte, 0 for integers 0…255, 1 for -127…127; a scale per channel (`f32`); the integers, as the next layer
//! writes them. A channel is what the first two dimensions select, where there are three or more; else all is one channel.

use super::layer::{Fault, Form, Layer, Unfit};
use super::simd::{self, Sign};
use crate::buffer::Pool;
use defer_partition::DType;

/// Integers, as the next layer writes them.
pub(super) struct Int8<L>(pub L);

/// Values per channel; 0 only if there are no values at all.
fn channel(form: &Form<'_>) -> usize {
    match form.shape {
        [n, c, rest @ ..] if !rest.is_empty() => form.count.checked_div(n * c).unwrap_or(0),
        _ => form.count,
    }
}

/// What a channel's values are divided by, and its inverse. A channel so small that its scale would not be a normal
/// number becomes zeros.
fn scale(magnitude: f32, sign: Sign) -> (f32, f32) {
    let scale = magnitude / sign.steps();
    if scale >= f32::MIN_POSITIVE { (scale, sign.steps() / magnitude) } else { (0.0, 0.0) }
}

impl<L: Layer> Int8<L> {
    fn integers(cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, integers: &mut Vec<u8>) -> Result<(), Unfit> {
        let whole = simd::survey(cells);
        if !whole.is_finite() {
            return Err(Unfit::NotFinite);
        }
        let sign = whole.sign;
        out.push(sign as u8);
        for values in cells.chunks_exact((4 * channel(form)).max(1)) {
            let (scale, inverse) = scale(simd::survey(values).magnitude, sign);
            out.extend(scale.to_le_bytes());
            simd::quantise(values, inverse, sign, integers);
        }
        Ok(())
    }
}

impl<L: Layer> Layer for Int8<L> {
    fn encode(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Unfit> {
        if form.dtype != DType::Fp32 {
            return Err(Unfit::NotFloats);
        }
        let narrow = Form { width: 1, ..*form };
        let mut integers = pool.take(narrow.len());
        let done =
            Self::integers(cells, form, out, &mut integers).and_then(|()| self.0.encode(&integers, &narrow, out, pool));
        pool.give(integers);
        done
    }

    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Fault> {
        if form.dtype != DType::Fp32 {
            return Err(Fault::new("only FP32 is rounded"));
        }
        let (sign, data) = match data.split_first() {
            Some((0, data)) => (Sign::Unsigned, data),
            Some((1, data)) => (Sign::Signed, data),
            _ => return Err(Fault::new("it begins with neither 0 nor 1")),
        };
        let channel = channel(form);
        let channels = form.count.checked_div(channel).unwrap_or(0);
        let (scales, data) = data.split_at_checked(4 * channels).ok_or_else(|| Fault::new("its scales end early"))?;
        let (scales, _) = scales.as_chunks::<4>();
        let expand = |integers: &[u8], out: &mut Vec<u8>| {
            for (integers, scale) in integers.chunks_exact(channel.max(1)).zip(scales) {
                simd::dequantise(integers, f32::from_le_bytes(*scale), sign, out);
            }
        };
        let narrow = Form { width: 1, ..*form };
        if self.0.is_raw() && data.len() == narrow.len() {
            expand(data, out);
            return Ok(());
        }
        let mut integers = pool.take(narrow.len());
        let decoded = self.0.decode(data, &narrow, &mut integers, pool);
        if decoded.is_ok() {
            expand(&integers, out);
        }
        pool.give(integers);
        decoded
    }
}
