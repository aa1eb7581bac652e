//! The loops in AVX2 (with F16C and POPCNT, which every processor with AVX2 has).
#![allow(unsafe_code)] // vector loads and stores by pointer

use super::tables::{ONES, RANKS, append};
use super::{Sign, Survey, scalar};
use std::arch::x86_64::*;

/// Whether this processor has all that this file uses.
pub fn is_there() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") && is_x86_feature_detected!("popcnt")
}

pub fn shuffle4(cells: &[u8], planes: &mut [u8]) {
    assert_eq!(cells.len(), planes.len());
    // SAFETY: only called where `is_there`; both have the same length, a multiple of 4 but for a rest that is not touched.
    unsafe { shuffle4_avx2(cells.as_ptr(), planes.as_mut_ptr(), cells.len() / 4) };
}

/// # Safety
/// `cells` is readable and `planes` writable for `4 * count` bytes.
#[target_feature(enable = "avx2")]
unsafe fn shuffle4_avx2(cells: *const u8, planes: *mut u8, count: usize) {
    let by_byte = _mm256_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    );
    let join = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let whole = count / 32 * 32;
    for i in (0..whole).step_by(32) {
        // SAFETY: `i + 32 <= count`, so each of these loads and stores stays within the cells and one plane.
        unsafe {
            // Of 8 cells each: four times 8 bytes, one per plane.
            let eight = |n: usize| {
                let cells = _mm256_loadu_si256(cells.add(4 * i + 32 * n).cast());
                _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(cells, by_byte), join)
            };
            let (a, b, c, d) = (eight(0), eight(1), eight(2), eight(3));
            let (even, odd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            let (even2, odd2) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
            let store = |plane: usize, bytes| _mm256_storeu_si256(planes.add(plane * count + i).cast(), bytes);
            store(0, _mm256_permute2x128_si256::<0x20>(even, even2));
            store(1, _mm256_permute2x128_si256::<0x20>(odd, odd2));
            store(2, _mm256_permute2x128_si256::<0x31>(even, even2));
            store(3, _mm256_permute2x128_si256::<0x31>(odd, odd2));
        }
    }
    for i in whole..count {
        for plane in 0..4 {
            // SAFETY: `i < count`.
            unsafe { *planes.add(plane * count + i) = *cells.add(4 * i + plane) };
        }
    }
}

pub fn unshuffle4(planes: [&[u8]; 4], out: &mut Vec<u8>) {
    let count = planes[0].len();
    assert!(planes.iter().all(|plane| plane.len() == count));
    let planes = planes.map(<[u8]>::as_ptr);
    // SAFETY: only called where `is_there`; each plane has `count` bytes, and all cells are written.
    unsafe { append(out, 4 * count, |cells| unshuffle4_avx2(planes, cells, count)) };
}

/// # Safety
/// Each of `planes` is readable for `count` bytes, and `cells` writable for `4 * count`.
#[target_feature(enable = "avx2")]
unsafe fn unshuffle4_avx2(planes: [*const u8; 4], cells: *mut u8, count: usize) {
    let whole = count / 32 * 32;
    for i in (0..whole).step_by(32) {
        // SAFETY: `i + 32 <= count`, so each of these loads and stores stays within one plane and the cells.
        unsafe {
            let [a, b, c, d] = planes.map(|plane| _mm256_loadu_si256(plane.add(i).cast()));
            let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let (low2, high2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
            // Cells 0–3 and 16–19, 4–7 and 20–23, 8–11 and 24–27, 12–15 and 28–31.
            let (p, q) = (_mm256_unpacklo_epi16(low, low2), _mm256_unpackhi_epi16(low, low2));
            let (r, s) = (_mm256_unpacklo_epi16(high, high2), _mm256_unpackhi_epi16(high, high2));
            let store = |n: usize, bytes| _mm256_storeu_si256(cells.add(4 * i + 32 * n).cast(), bytes);
            store(0, _mm256_permute2x128_si256::<0x20>(p, q));
            store(1, _mm256_permute2x128_si256::<0x20>(r, s));
            store(2, _mm256_permute2x128_si256::<0x31>(p, q));
            store(3, _mm256_permute2x128_si256::<0x31>(r, s));
        }
    }
    for i in whole..count {
        for (n, plane) in planes.iter().enumerate() {
            // SAFETY: `i < count`.
            unsafe { *cells.add(4 * i + n) = *plane.add(i) };
        }
    }
}

pub fn pack<const W: usize>(cells: &[u8], out: &mut Vec<u8>) {
    let count = cells.len() / W;
    let bitmap = count.div_ceil(8);
    out.reserve(bitmap + count * W);
    let end: *mut u8 = out.spare_capacity_mut().as_mut_ptr().cast();
    // SAFETY: only called where `is_there`; there is room for the bitmap and for all cells; the function initialises the
    // bitmap and as many bytes behind it as it says.
    unsafe {
        let values = pack_avx2::<W>(cells.as_ptr(), count, end, end.add(bitmap));
        out.set_len(out.len() + bitmap + values);
    }
}

/// Writes the bitmap and the values, and says how many bytes the latter have.
///
/// # Safety
/// `cells` is readable and `values` writable for `count * W` bytes, `bitmap` writable for a bit per cell.
#[target_feature(enable = "avx2,popcnt")]
unsafe fn pack_avx2<const W: usize>(cells: *const u8, count: usize, bitmap: *mut u8, values: *mut u8) -> usize {
    let mut len = 0;
    for i in 0..count / 8 {
        // SAFETY: 8 cells are left to read; `len <= i * 8 * W`, so that the 8 cells stored there, of which those behind
        // the ones that count are overwritten later, stay within `values`.
        let mask = unsafe { pack_eight::<W>(cells.add(i * 8 * W), values.add(len)) };
        // SAFETY: `i` is below the length of the bitmap.
        unsafe { *bitmap.add(i) = mask };
        len += mask.count_ones() as usize * W;
    }
    if !count.is_multiple_of(8) {
        let mut mask = 0;
        for i in count / 8 * 8..count {
            // SAFETY: `i < count`, and `len <= i * W`.
            unsafe {
                let cell = cells.add(i * W).cast::<[u8; W]>();
                if *cell != [0; W] {
                    mask |= 1 << (i % 8);
                    values.add(len).cast::<[u8; W]>().write(*cell);
                    len += W;
                }
            }
        }
        // SAFETY: the bitmap's last byte.
        unsafe { *bitmap.add(count / 8) = mask };
    }
    len
}

/// Stores 8 cells, those that are not zero first, and returns which these are.
///
/// # Safety
/// `cells` is readable and `values` writable for `8 * W` bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pack_eight<const W: usize>(cells: *const u8, values: *mut u8) -> u8 {
    // SAFETY: each branch reads and writes 8 cells; a table has an entry for each byte.
    unsafe {
        match W {
            1 => {
                let eight = _mm_loadl_epi64(cells.cast());
                let mask = !_mm_movemask_epi8(_mm_cmpeq_epi8(eight, _mm_setzero_si128())) as u8;
                let order = _mm_cvtsi64_si128(ONES[usize::from(mask)] as i64);
                _mm_storel_epi64(values.cast(), _mm_shuffle_epi8(eight, order));
                mask
            }
            2 => {
                let eight = _mm_loadu_si128(cells.cast());
                let zero = _mm_cmpeq_epi16(eight, _mm_setzero_si128());
                let mask = !_mm_movemask_epi8(_mm_packs_epi16(zero, zero)) as u8;
                let order = in_pairs(_mm_cvtsi64_si128(ONES[usize::from(mask)] as i64));
                _mm_storeu_si128(values.cast(), _mm_shuffle_epi8(eight, order));
                mask
            }
            _ => {
                let eight = _mm256_loadu_si256(cells.cast());
                let zero = _mm256_cmpeq_epi32(eight, _mm256_setzero_si256());
                let mask = !_mm256_movemask_ps(_mm256_castsi256_ps(zero)) as u8;
                let order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(ONES[usize::from(mask)] as i64));
                _mm256_storeu_si256(values.cast(), _mm256_permutevar8x32_epi32(eight, order));
                mask
            }
        }
    }
}

/// Byte positions in cells of two bytes from positions of cells; 0x80 stays above 0x7f.
#[inline]
#[target_feature(enable = "avx2")]
fn in_pairs(order: __m128i) -> __m128i {
    let first = _mm_adds_epi8(order, order);
    _mm_unpacklo_epi8(first, _mm_add_epi8(first, _mm_set1_epi8(1)))
}

pub fn unpack<const W: usize>(bitmap: &[u8], values: &[u8], count: usize, out: &mut Vec<u8>) {
    assert!(bitmap.len() == count.div_ceil(8) && ones(bitmap) * W == values.len());
    // SAFETY: only called where `is_there`; the lengths are as the function needs them, and it writes all cells.
    unsafe { append(out, count * W, |cells| unpack_avx2::<W>(bitmap, values, count, cells)) };
}

/// # Safety
/// `cells` is writable for `count * W` bytes; `bitmap` has a bit per cell, `values` has `W` bytes for each one in it.
#[target_feature(enable = "avx2,popcnt")]
unsafe fn unpack_avx2<const W: usize>(bitmap: &[u8], values: &[u8], count: usize, cells: *mut u8) {
    let whole = count / 8;
    let (mut i, mut at) = (0, 0);
    while i < whole && at + 8 * W <= values.len() {
        let mask = bitmap[i];
        // SAFETY: 8 values are left to read, and 8 cells to write.
        unsafe { unpack_eight::<W>(mask, values.as_ptr().add(at), cells.add(i * 8 * W)) };
        at += mask.count_ones() as usize * W;
        i += 1;
    }
    // Fewer than 8 values are left: they go on from where 8 can be read behind each of them.
    let rest = &values[at..];
    let mut last = [0; 128];
    last[..rest.len()].copy_from_slice(rest);
    let mut at = 0;
    while i < whole {
        let mask = bitmap[i];
        // SAFETY: `at` is at most the length of `rest`, below `8 * W <= 32`, so that 8 values stay within 128 bytes.
        unsafe { unpack_eight::<W>(mask, last.as_ptr().add(at.min(rest.len())), cells.add(i * 8 * W)) };
        at += mask.count_ones() as usize * W;
        i += 1;
    }
    for i in whole * 8..count {
        let cell = if bitmap[i / 8] >> (i % 8) & 1 == 1 {
            at += W;
            std::array::from_fn(|byte| last[at - W + byte])
        } else {
            [0; W]
        };
        // SAFETY: `i < count`.
        unsafe { cells.add(i * W).cast::<[u8; W]>().write(cell) };
    }
}

/// Writes 8 cells: values in turn where `mask` has ones, else zero.
///
/// # Safety
/// `values` is readable and `cells` writable for `8 * W` bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack_eight<const W: usize>(mask: u8, values: *const u8, cells: *mut u8) {
    // SAFETY: each branch reads and writes 8 cells; a table has an entry for each byte.
    unsafe {
        let ranks = _mm_cvtsi64_si128(RANKS[usize::from(mask)] as i64);
        match W {
            1 => _mm_storel_epi64(cells.cast(), _mm_shuffle_epi8(_mm_loadl_epi64(values.cast()), ranks)),
            2 => _mm_storeu_si128(cells.cast(), _mm_shuffle_epi8(_mm_loadu_si128(values.cast()), in_pairs(ranks))),
            _ => {
                let ranks = _mm256_cvtepi8_epi32(ranks);
                let eight = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(values.cast()), ranks);
                // A rank of 0x80 is negative.
                _mm256_storeu_si256(cells.cast(), _mm256_andnot_si256(_mm256_srai_epi32::<31>(ranks), eight));
            }
        }
    }
}

pub fn ones(bitmap: &[u8]) -> usize {
    #[target_feature(enable = "popcnt")]
    fn with_popcnt(bitmap: &[u8]) -> usize {
        scalar::ones(bitmap)
    }
    // SAFETY: only called where `is_there`.
    unsafe { with_popcnt(bitmap) }
}

pub fn to_halves(floats: &[u8], out: &mut Vec<u8>) -> bool {
    let (eights, rest) = floats.as_chunks::<32>();
    let mut is_finite = true;
    // SAFETY: only called where `is_there`; 16 bytes are written for each 32.
    unsafe { append(out, 16 * eights.len(), |halves| is_finite = to_halves_avx2(eights, halves)) };
    scalar::to_halves(rest, out) & is_finite
}

/// # Safety
/// `halves` is writable for 16 bytes per entry of `floats`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn to_halves_avx2(floats: &[[u8; 32]], halves: *mut u8) -> bool {
    let exponent = _mm_set1_epi16(0x7c00);
    let mut infinite = _mm_setzero_si128();
    for (i, eight) in floats.iter().enumerate() {
        // SAFETY: 32 bytes are read and 16 written, where they are.
        unsafe {
            let eight = _mm256_loadu_ps(eight.as_ptr().cast());
            let eight = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(eight);
            infinite = _mm_or_si128(infinite, _mm_cmpeq_epi16(_mm_and_si128(eight, exponent), exponent));
            _mm_storeu_si128(halves.add(16 * i).cast(), eight);
        }
    }
    _mm_movemask_epi8(infinite) == 0
}

pub fn from_halves(halves: &[u8], out: &mut Vec<u8>) {
    let (eights, rest) = halves.as_chunks::<16>();
    // SAFETY: only called where `is_there`; 32 bytes are written for each 16.
    unsafe { append(out, 32 * eights.len(), |floats| from_halves_avx2(eights, floats)) };
    scalar::from_halves(rest, out);
}

/// # Safety
/// `floats` is writable for 32 bytes per entry of `halves`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn from_halves_avx2(halves: &[[u8; 16]], floats: *mut u8) {
    for (i, eight) in halves.iter().enumerate() {
        // SAFETY: 16 bytes are read and 32 written, where they are.
        unsafe {
            let eight = _mm_loadu_si128(eight.as_ptr().cast());
            _mm256_storeu_ps(floats.add(32 * i).cast(), _mm256_cvtph_ps(eight));
        }
    }
}

pub fn survey(floats: &[u8]) -> Survey {
    let (eights, rest) = floats.as_chunks::<32>();
    // SAFETY: only called where `is_there`.
    let (magnitude, any) = unsafe { survey_avx2(eights) };
    let rest = rest.as_chunks::<4>().0.iter().map(|float| u32::from_le_bytes(*float));
    let (magnitude, any) =
        rest.fold((magnitude, any), |(magnitude, any), bits| (magnitude.max(bits & 0x7fff_ffff), any | bits));
    Survey::from_bits(magnitude, any)
}

#[target_feature(enable = "avx2")]
fn survey_avx2(floats: &[[u8; 32]]) -> (u32, u32) {
    let (mut magnitude, mut any) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for eight in floats {
        // SAFETY: 32 bytes are read where they are.
        let bits = unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) };
        magnitude = _mm256_max_epu32(magnitude, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fff_ffff)));
        any = _mm256_or_si256(any, bits);
    }
    let lanes = |vector: __m256i| {
        let mut lanes = [0u32; 8];
        // SAFETY: 32 bytes are written where they are.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), vector) };
        lanes
    };
    (lanes(magnitude).into_iter().max().unwrap_or(0), lanes(any).into_iter().fold(0, |any, lane| any | lane))
}

pub fn quantise(floats: &[u8], inverse: f32, sign: Sign, out: &mut Vec<u8>) {
    let (eights, rest) = floats.as_chunks::<32>();
    // SAFETY: only called where `is_there`; 8 bytes are written for each 32.
    unsafe { append(out, 8 * eights.len(), |integers| quantise_avx2(eights, inverse, sign, integers)) };
    scalar::quantise(rest, inverse, sign, out);
}

/// # Safety
/// `integers` is writable for 8 bytes per entry of `floats`.
#[target_feature(enable = "avx2")]
unsafe fn quantise_avx2(floats: &[[u8; 32]], inverse: f32, sign: Sign, integers: *mut u8) {
    let inverse = _mm256_set1_ps(inverse);
    for (i, eight) in floats.iter().enumerate() {
        // SAFETY: 32 bytes are read and 8 written, where they are.
        unsafe {
            let eight = _mm256_mul_ps(_mm256_loadu_ps(eight.as_ptr().cast()), inverse);
            let eight = _mm256_cvtps_epi32(eight);
            let eight = _mm_packs_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let eight = match sign {
                Sign::Unsigned => _mm_packus_epi16(eight, eight),
                Sign::Signed => _mm_packs_epi16(eight, eight),
            };
            _mm_storel_epi64(integers.add(8 * i).cast(), eight);
        }
    }
}

pub fn dequantise(integers: &[u8], scale: f32, sign: Sign, out: &mut Vec<u8>) {
    let (eights, rest) = integers.as_chunks::<8>();
    // SAFETY: only called where `is_there`; 32 bytes are written for each 8.
    unsafe { append(out, 32 * eights.len(), |floats| dequantise_avx2(eights, scale, sign, floats)) };
    scalar::dequantise(rest, scale, sign, out);
}

/// # Safety
/// `floats` is writable for 32 bytes per entry of `integers`.
#[target_feature(enable = "avx2")]
unsafe fn dequantise_avx2(integers: &[[u8; 8]], scale: f32, sign: Sign, floats: *mut u8) {
    let scale = _mm256_set1_ps(scale);
    for (i, eight) in integers.iter().enumerate() {
        // SAFETY: 8 bytes are read and 32 written, where they are.
        unsafe {
            let eight = _mm_loadl_epi64(eight.as_ptr().cast());
            let eight = match sign {
                Sign::Unsigned => _mm256_cvtepu8_epi32(eight),
                Sign::Signed => _mm256_cvtepi8_epi32(eight),
            };
            _mm256_storeu_ps(floats.add(32 * i).cast(), _mm256_mul_ps(_mm256_cvtepi32_ps(eight), scale));
        }
    }
}
