//! The loops in NEON, those that compilers do not find by themselves. Eight cells at a time, as in `avx2.rs`.
#![allow(unsafe_code)] // vector loads and stores by pointer

use super::scalar;
use super::tables::{ONES, RANKS, append};
use std::arch::aarch64::*;

/// Whether this processor has all that this file uses.
pub fn is_there() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

pub fn shuffle4(cells: &[u8], planes: &mut [u8]) {
    assert_eq!(cells.len(), planes.len());
    let count = cells.len() / 4;
    let whole = count / 16 * 16;
    for i in (0..whole).step_by(16) {
        // SAFETY: `i + 16 <= count`, so the load stays within the cells and each store within one plane.
        unsafe {
            let uint8x16x4_t(a, b, c, d) = vld4q_u8(cells.as_ptr().add(4 * i));
            for (plane, bytes) in [a, b, c, d].into_iter().enumerate() {
                vst1q_u8(planes.as_mut_ptr().add(plane * count + i), bytes);
            }
        }
    }
    for i in whole..count {
        for plane in 0..4 {
            planes[plane * count + i] = cells[4 * i + plane];
        }
    }
}

pub fn unshuffle4(planes: [&[u8]; 4], out: &mut Vec<u8>) {
    let count = planes[0].len();
    assert!(planes.iter().all(|plane| plane.len() == count));
    let whole = count / 16 * 16;
    // SAFETY: all `4 * whole` bytes are written; `i + 16 <= whole`, so each load stays within one plane and each store
    // within the cells.
    unsafe {
        append(out, 4 * whole, |cells| {
            for i in (0..whole).step_by(16) {
                let [a, b, c, d] = planes.map(|plane| vld1q_u8(plane.as_ptr().add(i)));
                vst4q_u8(cells.add(4 * i), uint8x16x4_t(a, b, c, d));
            }
        });
    }
    scalar::unshuffle4(planes.map(|plane| &plane[whole..]), out);
}

pub fn pack<const W: usize>(cells: &[u8], out: &mut Vec<u8>) {
    let count = cells.len() / W;
    let bitmap = count.div_ceil(8);
    out.reserve(bitmap + count * W);
    let end: *mut u8 = out.spare_capacity_mut().as_mut_ptr().cast();
    let mut len = 0;
    // SAFETY: there is room for the bitmap and for all cells. Of the latter, `len` bytes are written behind the bitmap:
    // `len <= i * W`, so that 8 cells stored there, of which those that do not count are overwritten later, stay within.
    unsafe {
        let values = end.add(bitmap);
        for i in 0..count / 8 {
            let mask = pack_eight::<W>(cells.as_ptr().add(i * 8 * W), values.add(len));
            *end.add(i) = mask;
            len += mask.count_ones() as usize * W;
        }
        if !count.is_multiple_of(8) {
            let mut mask = 0;
            for i in count / 8 * 8..count {
                let cell = cells.as_ptr().add(i * W).cast::<[u8; W]>();
                if *cell != [0; W] {
                    mask |= 1 << (i % 8);
                    values.add(len).cast::<[u8; W]>().write(*cell);
                    len += W;
                }
            }
            *end.add(count / 8) = mask;
        }
        out.set_len(out.len() + bitmap + len);
    }
}

/// Which of eight 8-bit lanes are not zero.
///
/// # Safety
/// Only where `is_there`.
#[inline]
unsafe fn mask_of(lanes: uint8x8_t) -> u8 {
    const BITS: [u8; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: eight bytes are read where they are.
    unsafe { vaddv_u8(vand_u8(vmvn_u8(vceqz_u8(lanes)), vld1_u8(BITS.as_ptr()))) }
}

/// Byte positions in cells of two bytes from positions of cells; 0x80 stays above 0x7f.
///
/// # Safety
/// Only where `is_there`.
#[inline]
unsafe fn in_pairs(order: uint8x8_t) -> uint8x16_t {
    // SAFETY: no memory is touched.
    unsafe {
        let first = vqadd_u8(order, order);
        let second = vorr_u8(first, vdup_n_u8(1));
        vcombine_u8(vzip1_u8(first, second), vzip2_u8(first, second))
    }
}

/// The same in cells of four bytes: of the first four cells, and of the others.
///
/// # Safety
/// Only where `is_there`.
#[inline]
unsafe fn in_fours(order: uint8x8_t) -> (uint8x16_t, uint8x16_t) {
    // SAFETY: no memory is touched.
    unsafe {
        let pairs = in_pairs(order);
        let (low, high) = (vget_low_u8(pairs), vget_high_u8(pairs));
        (in_pairs(low), in_pairs(high))
    }
}

/// Stores 8 cells, those that are not zero first, and returns which these are.
///
/// # Safety
/// `cells` is readable and `values` writable for `8 * W` bytes.
#[inline]
unsafe fn pack_eight<const W: usize>(cells: *const u8, values: *mut u8) -> u8 {
    // SAFETY: each branch reads and writes 8 cells; a table has an entry for each byte.
    unsafe {
        match W {
            1 => {
                let eight = vld1_u8(cells);
                let mask = mask_of(eight);
                vst1_u8(values, vtbl1_u8(eight, vcreate_u8(ONES[usize::from(mask)])));
                mask
            }
            2 => {
                let eight = vld1q_u8(cells);
                let mask = mask_of(vmovn_u16(vtstq_u16(vreinterpretq_u16_u8(eight), vreinterpretq_u16_u8(eight))));
                vst1q_u8(values, vqtbl1q_u8(eight, in_pairs(vcreate_u8(ONES[usize::from(mask)]))));
                mask
            }
            _ => {
                let eight = vld1q_u8_x2(cells);
                let some = |four| vmovn_u32(vtstq_u32(vreinterpretq_u32_u8(four), vreinterpretq_u32_u8(four)));
                let mask = mask_of(vmovn_u16(vcombine_u16(some(eight.0), some(eight.1))));
                let (low, high) = in_fours(vcreate_u8(ONES[usize::from(mask)]));
                vst1q_u8(values, vqtbl2q_u8(eight, low));
                vst1q_u8(values.add(16), vqtbl2q_u8(eight, high));
                mask
            }
        }
    }
}

pub fn unpack<const W: usize>(bitmap: &[u8], values: &[u8], count: usize, out: &mut Vec<u8>) {
    let whole = count / 8;
    let (mut at, mut done) = (0, 0);
    // Whole bytes of the bitmap for as long as 8 values can be read.
    let mut end = 0;
    while done < whole && end + 8 * W <= values.len() {
        end += bitmap[done].count_ones() as usize * W;
        done += 1;
    }
    // SAFETY: all `done * 8 * W` bytes are written; as counted above, 8 values are left to read each time.
    unsafe {
        append(out, done * 8 * W, |cells| {
            for (i, &mask) in bitmap[..done].iter().enumerate() {
                unpack_eight::<W>(mask, values.as_ptr().add(at), cells.add(i * 8 * W));
                at += mask.count_ones() as usize * W;
            }
        });
    }
    scalar::unpack::<W>(&bitmap[done..], &values[at..], count - done * 8, out);
}

/// Writes 8 cells: values in turn where `mask` has ones, else zero.
///
/// # Safety
/// `values` is readable and `cells` writable for `8 * W` bytes.
#[inline]
unsafe fn unpack_eight<const W: usize>(mask: u8, values: *const u8, cells: *mut u8) {
    // SAFETY: each branch reads and writes 8 cells; a table has an entry for each byte. A position beyond the table that
    // is looked up in gives zero.
    unsafe {
        let ranks = vcreate_u8(RANKS[usize::from(mask)]);
        match W {
            1 => vst1_u8(cells, vtbl1_u8(vld1_u8(values), ranks)),
            2 => vst1q_u8(cells, vqtbl1q_u8(vld1q_u8(values), in_pairs(ranks))),
            _ => {
                let eight = vld1q_u8_x2(values);
                let (low, high) = in_fours(ranks);
                vst1q_u8(cells, vqtbl2q_u8(eight, low));
                vst1q_u8(cells.add(16), vqtbl2q_u8(eight, high));
            }
        }
    }
}
