//! Encodings whose length depends on a tensor's shape only: how well activations compress tells what they are activations
//! of, and so the length of a frame gives the answer away (Kannan et al., SPIE 13054), encrypted or not.
//!
//! `f16`, `int8` and ZFP at a fixed rate have such a length anyway, and need only be kept from giving way to another codec.
//! For sparse tensors a bound is declared: values beyond it are dropped, the smallest magnitudes first, and what is
//! missing is filled with zeros.
//!
//! Format of the last: a bitmap as in `sparse.rs`, the values, zeros.

use super::layer::{Fault, Form, Layer, Unfit};
use super::sparse::split_bitmap;
use super::zfp::Positive;
use super::{scratch, simd};
use crate::buffer::Pool;
use defer_partition::DType;
use std::cell::RefCell;

/// Which encoding of constant length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Constant {
    F16,
    Int8,
    /// ZFP, so many bits per value.
    ZfpRate(Positive),
    /// Room for this share of the values.
    Density(Positive),
}

impl Constant {
    /// The largest magnitude that its encoding can carry.
    pub(super) fn limit(self) -> f32 {
        match self {
            Constant::F16 => half::f16::MAX.to_f32(),
            _ => f32::MAX,
        }
    }
}

/// `cells`, which are floats, without NaN (0 instead) and what is beyond `limit`: falling back to another codec would show.
pub(super) fn tame(cells: &[u8], limit: f32, out: &mut Vec<u8>) {
    out.extend(cells.as_chunks::<4>().0.iter().flat_map(|cell| {
        let value = f32::from_le_bytes(*cell);
        let tamed = if value.is_nan() { 0.0 } else { value.clamp(-limit, limit) };
        tamed.to_le_bytes()
    }));
}

/// Sparse, with room for this share of the values.
pub(super) struct Bounded(pub Positive);

impl Bounded {
    /// Values that there is room for.
    fn room(&self, count: usize) -> usize {
        ((count as f64 * self.0.get()).ceil() as usize).min(count)
    }
}

thread_local! {
    static MAGNITUDES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

fn magnitude(cell: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*cell) & 0x7fff_ffff
}

/// Makes the smallest magnitudes of `cells` zero until at most `room` others are left.
fn thin(cells: &mut [u8], room: usize) {
    let (cells, _) = cells.as_chunks_mut::<4>();
    if room >= cells.len() {
        return;
    }
    let (least, mut ties) = MAGNITUDES.with_borrow_mut(|magnitudes| {
        magnitudes.clear();
        magnitudes.extend(cells.iter().map(magnitude));
        let (larger, &mut least, _) = magnitudes.select_nth_unstable_by(room, |a, b| b.cmp(a));
        // Those equal to the largest one that is too many have room only as far as larger ones leave it.
        (least, room - larger.iter().filter(|&&larger| larger > least).count())
    });
    for cell in cells.iter_mut() {
        let own = magnitude(cell);
        let stays = own > least || own == least && ties > 0;
        if own == least && ties > 0 {
            ties -= 1;
        }
        if !stays {
            *cell = [0; 4];
        }
    }
}

impl Layer for Bounded {
    fn encode(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Unfit> {
        if form.dtype != DType::Fp32 {
            return Err(Unfit::NotFloats);
        }
        let room = self.room(form.count);
        let end = out.len() + form.count.div_ceil(8) + 4 * room;
        let start = out.len();
        simd::pack(cells, 4, out);
        if out.len() > end {
            out.truncate(start);
            scratch::with(cells.len(), |thinned| {
                thinned.copy_from_slice(cells);
                thin(thinned, room);
                simd::pack(thinned, 4, out);
            });
        }
        out.resize(end, 0);
        Ok(())
    }

    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Fault> {
        if form.dtype != DType::Fp32 {
            return Err(Fault::new("only FP32 is rounded"));
        }
        let (bitmap, data) = split_bitmap(data, form.count)?;
        let values = 4 * simd::ones(bitmap);
        let want = 4 * self.room(form.count);
        if data.len() != want || values > want {
            return Err(Fault::new(format!("{values} bytes of values in {}, where {want} are declared", data.len())));
        }
        simd::unpack(bitmap, &data[..values], 4, form.count, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_magnitudes_stay(values in prop::collection::vec(-9i8..10, 0..60), room in 0usize..70) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let mut cells: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            thin(&mut cells, room);
            let thinned: Vec<f32> = cells.as_chunks::<4>().0.iter().map(|cell| f32::from_le_bytes(*cell)).collect();
            let others = values.iter().filter(|value| **value != 0.0).count();
            let kept = thinned.iter().filter(|value| **value != 0.0).count();
            prop_assert_eq!(kept, others.min(room));
            let least = thinned.iter().filter(|value| **value != 0.0).map(|value| value.abs()).fold(f32::MAX, f32::min);
            for (was, is) in values.iter().zip(&thinned) {
                prop_assert!(was == is || *is == 0.0 && was.abs() <= least);
            }
        }
    }
}
