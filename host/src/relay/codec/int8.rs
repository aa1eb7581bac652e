//! 8-bit integers with a scale per channel: a value is its integer times its channel's scale. Errors
//! are at most 1/510 of the channel's largest magnitude where nothing in the tensor is negative, else 1/254.
//!
//! Format: a byte, 0 for integers 0…255, 1 for -127…127; a scale per channel (`f32`); the integers, as the next layer
//! writes them. A channel is what the first two dimensions select, where there are three or more; else all is one channel.

use super::layer::{Fault, Form, Layer, Unfit};
use super::simd::{self, Sign};
use super::zfp::Positive;
use crate::buffer::Pool;
use defer_partition::DType;

/// Integers, as the next layer writes them.
pub(super) struct Int8<L> {
    pub next: L,
    pub steps: Steps,
}

/// How many different integers are used. The fewer, the less an entropy coder has to write; decoders need not know.
#[derive(Clone, Copy)]
pub(super) enum Steps {
    All,
    /// As many as keep errors within this share of the channel's largest magnitude.
    Within(Positive),
}

impl Steps {
    /// The largest integer, if there are enough of them.
    fn largest(self, sign: Sign) -> Result<f32, Unfit> {
        match self {
            Steps::All => Ok(sign.steps()),
            // An error is half a step at most, and a little more for the multiplications.
            Steps::Within(share) => match (0.5001 / share.get()).ceil().max(1.0) as f32 {
                steps if steps <= sign.steps() => Ok(steps),
                _ => Err(Unfit::TooFine),
            },
        }
    }
}

/// Values per channel; 0 only if there are no values at all.
fn channel(form: &Form<'_>) -> usize {
    match form.shape {
        [n, c, rest @ ..] if !rest.is_empty() => form.count.checked_div(n * c).unwrap_or(0),
        _ => form.count,
    }
}

/// What a channel's values are divided by, and its inverse, for integers up to `largest`. A channel so small that its
/// scale would not be a normal number becomes zeros.
fn scale(magnitude: f32, largest: f32) -> (f32, f32) {
    let scale = magnitude / largest;
    if scale >= f32::MIN_POSITIVE { (scale, largest / magnitude) } else { (0.0, 0.0) }
}

impl<L: Layer> Int8<L> {
    fn integers(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, integers: &mut Vec<u8>) -> Result<(), Unfit> {
        let whole = simd::survey(cells);
        if !whole.is_finite() {
            return Err(Unfit::NotFinite);
        }
        let sign = whole.sign;
        let largest = self.steps.largest(sign)?;
        out.push(sign as u8);
        for values in cells.chunks_exact((4 * channel(form)).max(1)) {
            let (scale, inverse) = scale(simd::survey(values).magnitude, largest);
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
        let done = self
            .integers(cells, form, out, &mut integers)
            .and_then(|()| self.next.encode(&integers, &narrow, out, pool));
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
        if self.next.is_raw() && data.len() == narrow.len() {
            expand(data, out);
            return Ok(());
        }
        let mut integers = pool.take(narrow.len());
        let decoded = self.next.decode(data, &narrow, &mut integers, pool);
        if decoded.is_ok() {
            expand(&integers, out);
        }
        pool.give(integers);
        decoded
    }
}
