//! The loops as anyone would write them: what the others must equal, and what machines without them run.

use super::{Sign, Survey};
use half::f16;

pub fn shuffle(cells: &[u8], width: usize, planes: &mut [u8]) {
    let count = cells.len() / width;
    for (i, plane) in planes.chunks_exact_mut(count.max(1)).enumerate() {
        for (to, cell) in plane.iter_mut().zip(cells.chunks_exact(width)) {
            *to = cell[i];
        }
    }
}

pub fn shuffle4(cells: &[u8], planes: &mut [u8]) {
    let count = cells.len() / 4;
    let (a, rest) = planes.split_at_mut(count);
    let (b, rest) = rest.split_at_mut(count);
    let (c, d) = rest.split_at_mut(count);
    for (i, cell) in cells.as_chunks::<4>().0.iter().enumerate() {
        [a[i], b[i], c[i], d[i]] = *cell;
    }
}

pub fn unshuffle(planes: &[&[u8]], out: &mut Vec<u8>) {
    let count = planes.first().map_or(0, |plane| plane.len());
    let start = out.len();
    out.resize(start + count * planes.len(), 0);
    for (i, plane) in planes.iter().enumerate() {
        for (cell, byte) in out[start..].chunks_exact_mut(planes.len()).zip(*plane) {
            cell[i] = *byte;
        }
    }
}

pub fn unshuffle4([a, b, c, d]: [&[u8]; 4], out: &mut Vec<u8>) {
    let low = a.iter().zip(b).zip(c.iter().zip(d));
    out.extend(low.flat_map(|((a, b), (c, d))| [*a, *b, *c, *d]));
}

pub fn pack<const W: usize>(cells: &[u8], out: &mut Vec<u8>) {
    let (cells, _) = cells.as_chunks::<W>();
    let bitmap = out.len();
    out.resize(bitmap + cells.len().div_ceil(8), 0);
    out.reserve(cells.len() * W);
    for (i, cells) in cells.chunks(8).enumerate() {
        let mut bits = 0;
        for (bit, cell) in cells.iter().enumerate() {
            if *cell != [0; W] {
                bits |= 1 << bit;
                out.extend_from_slice(cell);
            }
        }
        out[bitmap + i] = bits;
    }
}

pub fn unpack<const W: usize>(bitmap: &[u8], values: &[u8], count: usize, out: &mut Vec<u8>) {
    let mut values = values.as_chunks::<W>().0.iter();
    out.reserve(count * W);
    for i in 0..count {
        let is_there = bitmap[i / 8] >> (i % 8) & 1 == 1;
        let cell = if is_there { values.next() } else { None };
        out.extend_from_slice(cell.unwrap_or(&[0; W]));
    }
}

pub fn ones(bitmap: &[u8]) -> usize {
    let (words, rest) = bitmap.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word).count_ones() as usize);
    words.sum::<usize>() + rest.iter().map(|byte| byte.count_ones() as usize).sum::<usize>()
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|float| f32::from_le_bytes(*float))
}

pub fn to_halves(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let mut is_finite = true;
    out.extend(floats(bytes).flat_map(|float| {
        let half = f16::from_f32(float);
        is_finite &= half.is_finite();
        half.to_le_bytes()
    }));
    is_finite
}

pub fn from_halves(halves: &[u8], out: &mut Vec<u8>) {
    let halves = halves.as_chunks::<2>().0.iter();
    out.extend(halves.flat_map(|half| f16::from_le_bytes(*half).to_f32().to_le_bytes()));
}

pub fn survey(bytes: &[u8]) -> Survey {
    let (magnitude, any) = floats(bytes).fold((0, 0), |(magnitude, any), float| {
        let bits = float.to_bits();
        (magnitude.max(bits & 0x7fff_ffff), any | bits)
    });
    Survey::from_bits(magnitude, any)
}

pub fn quantise(bytes: &[u8], inverse: f32, sign: Sign, out: &mut Vec<u8>) {
    match sign {
        Sign::Unsigned => out.extend(floats(bytes).map(|float| (float * inverse).round_ties_even() as u8)),
        Sign::Signed => out.extend(floats(bytes).map(|float| (float * inverse).round_ties_even() as i8 as u8)),
    }
}

pub fn dequantise(integers: &[u8], scale: f32, sign: Sign, out: &mut Vec<u8>) {
    let integers = integers.iter();
    match sign {
        Sign::Unsigned => out.extend(integers.flat_map(|&n| (f32::from(n) * scale).to_le_bytes())),
        Sign::Signed => out.extend(integers.flat_map(|&n| (f32::from(n as i8) * scale).to_le_bytes())),
    }
}

impl Survey {
    /// From the largest bit pattern without its sign, and all patterns or-ed.
    pub(super) fn from_bits(magnitude: u32, any: u32) -> Self {
        let sign = if any >> 31 == 0 { Sign::Unsigned } else { Sign::Signed };
        Self { magnitude: f32::from_bits(magnitude), sign }
    }
}
