//! ZFP (Lindstrom, 2014; <https://zfp.readthedocs.io>), by the C library of its authors.
//!
//! Format: ZFP's bit stream without its header, in whole 64-bit words; mode and parameter stand in the frame's head. ZFP
//! sees rows, however many axes the tensor has: neighbours in a row and in the next ones are alike, but those in the next
//! channel are not, so that blocks across channels (let alone across a batch axis of 1) only add what has to be written.
//! Measured on activations of ResNet50 and two OCR networks, two axes beat three by 10 to 45 % of the bytes.
#![allow(unsafe_code)] // calls of the C library

use super::layer::{Fault, Form, Layer, Unfit};
use super::{scratch, simd};
use crate::buffer::Pool;
use defer_partition::DType;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use zfp_sys as c;

/// How ZFP is told what to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every bit.
    Reversible,
    /// No error above this.
    Accuracy(Positive),
    /// No error above this share of the tensor's largest magnitude. On the wire it is an `Accuracy`.
    Relative(Positive),
    /// So many bits per value, in every block alike.
    Rate(Positive),
    /// So many bit planes of each block.
    Precision(u8),
}

/// A finite number above zero.
#[derive(Clone, Copy, Debug)]
pub struct Positive(f64);

impl Positive {
    pub fn new(number: f64) -> Option<Self> {
        (number.is_finite() && number > 0.0).then_some(Self(number))
    }

    /// For constants.
    pub(super) const fn of(number: f64) -> Self {
        assert!(number.is_finite() && number > 0.0);
        Self(number)
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Positive {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Positive {}

impl std::hash::Hash for Positive {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// Bits per value that ZFP can use at most, and at least.
pub(super) const RATES: std::ops::RangeInclusive<f64> = 0.25..=32.0;
/// Bit planes of a 32-bit float.
pub(super) const PRECISIONS: std::ops::RangeInclusive<u8> = 1..=32;

impl Mode {
    /// The mode for a tensor whose largest magnitude is `magnitude`: `Relative` becomes `Accuracy`.
    pub(super) fn settle(self, magnitude: f32) -> Result<Self, Unfit> {
        match self {
            Mode::Relative(share) => {
                Positive::new(share.get() * f64::from(magnitude)).map(Mode::Accuracy).ok_or(Unfit::NotFinite)
            }
            settled => Ok(settled),
        }
    }
}

pub(super) struct Zfp(pub Mode);

/// ZFP's bit streams are written and read in words of so many bytes.
const WORD: usize = 8;

impl Zfp {
    /// The stream's parameters, and a field of the given axes over `values`.
    ///
    /// # Safety
    /// `values` must be valid for what is then done with the field, for as long as it lives.
    unsafe fn open(&self, axes: &[usize; AXES], values: *mut c_void) -> Option<(Stream, Field)> {
        let float = c::zfp_type_zfp_type_float;
        // SAFETY: allocates, and sets numbers in what it has allocated.
        unsafe {
            let stream = Stream(NonNull::new(c::zfp_stream_open(ptr::null_mut()))?);
            // The fastest axis comes first.
            let (field, dims) = match *axes {
                [1, x] => (c::zfp_field_1d(values, float, x), 1),
                [y, x] => (c::zfp_field_2d(values, float, x, y), 2),
            };
            let field = Field(NonNull::new(field)?);
            let zfp = stream.0.as_ptr();
            match self.0 {
                Mode::Reversible => c::zfp_stream_set_reversible(zfp),
                Mode::Accuracy(tolerance) => drop(c::zfp_stream_set_accuracy(zfp, tolerance.get())),
                Mode::Rate(rate) => drop(c::zfp_stream_set_rate(zfp, rate.get(), float, dims, 0)),
                Mode::Precision(planes) => drop(c::zfp_stream_set_precision(zfp, planes.into())),
                Mode::Relative(_) => return None,
            }
            Some((stream, field))
        }
    }
}

const AXES: usize = 2;
/// Rows shorter than this are one long row to ZFP: it pads rows to multiples of 4, and there is little above and below.
const ROW: usize = 24;

/// The axes that ZFP sees: rows, and values in a row.
fn axes(shape: &[usize]) -> [usize; AXES] {
    let count = shape.iter().product();
    match shape.iter().rev().find(|&&length| length != 1) {
        Some(&row) if row >= ROW => [count / row, row],
        _ => [1, count],
    }
}

impl Layer for Zfp {
    fn encode(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Unfit> {
        if form.dtype != DType::Fp32 {
            return Err(Unfit::NotFloats);
        }
        // ZFP converts values to integers, which C defines for finite ones only.
        if !simd::survey(cells).is_finite() {
            return Err(Unfit::NotFinite);
        }
        let Ok(values) = bytemuck::try_cast_slice::<u8, f32>(cells) else {
            return Err(Unfit::TooLarge); // no allocator gives out a tensor's buffer unaligned
        };
        if values.is_empty() {
            return Err(Unfit::NotSmaller);
        }
        // SAFETY: the axes' product is the number of values, which are only read.
        let (stream, field) =
            unsafe { self.open(&axes(form.shape), values.as_ptr().cast_mut().cast()) }.ok_or(Unfit::TooLarge)?;
        let most = stream.most(&field);
        if most == 0 {
            return Err(Unfit::TooLarge);
        }
        words(most, |room| {
            let bits = Bits::open(room).ok_or(Unfit::TooLarge)?;
            // SAFETY: all three are alive, and the room is the most that this stream can take for this field.
            let len = unsafe {
                c::zfp_stream_set_bit_stream(stream.0.as_ptr(), bits.0.as_ptr());
                c::zfp_stream_rewind(stream.0.as_ptr());
                c::zfp_compress(stream.0.as_ptr(), field.0.as_ptr())
            };
            drop(bits);
            out.extend_from_slice(bytemuck::cast_slice::<u64, u8>(room).get(..len).ok_or(Unfit::TooLarge)?);
            if len == 0 { Err(Unfit::TooLarge) } else { Ok(()) }
        })
    }

    /// The decoder reads a number of bits that depends on them, but for any bits no more than the encoder can write: per
    /// bit plane of a block of n values it reads at most the n bits of the plane, or fewer and one for the end of a group
    /// test, and over all planes n - 1 for group tests that succeed; this is what `zfp_stream_maximum_size` counts. So a
    /// buffer of that size, the data in front and zeros behind, holds all that it can read, whatever the data are. It writes
    /// to the field only, whose axes are not from the stream. (Its integers may overflow on data that no encoder wrote;
    /// they wrap, as C compilers have it for these operations, and the values are then any values.)
    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Fault> {
        if form.dtype != DType::Fp32 {
            return Err(Fault::new("only FP32 is rounded"));
        }
        if form.count == 0 {
            return if data.is_empty() { Ok(()) } else { Err(Fault::new("bytes follow")) };
        }
        let (at, refused) = (out.len(), || Fault::new("ZFP does not take its shape"));
        out.resize(at + form.len(), 0);
        let Ok(values) = bytemuck::try_cast_slice_mut::<u8, f32>(&mut out[at..]) else {
            return Err(refused());
        };
        // SAFETY: the axes' product is the number of values, and nothing else looks at them meanwhile.
        let (stream, field) =
            unsafe { self.open(&axes(form.shape), values.as_mut_ptr().cast()) }.ok_or_else(refused)?;
        let most = stream.most(&field);
        if most == 0 || data.len() > most || !data.len().is_multiple_of(WORD) {
            return Err(Fault::new(format!("{} bytes, where whole words and at most {most} can be", data.len())));
        }
        words(most, |room| {
            let bytes = bytemuck::cast_slice_mut::<u64, u8>(room);
            bytes[..data.len()].copy_from_slice(data);
            bytes[data.len()..].fill(0);
            let bits = Bits::open(room).ok_or_else(refused)?;
            // SAFETY: all three are alive, and the room holds all that can be read for this field: see above.
            let read = unsafe {
                c::zfp_stream_set_bit_stream(stream.0.as_ptr(), bits.0.as_ptr());
                c::zfp_stream_rewind(stream.0.as_ptr());
                c::zfp_decompress(stream.0.as_ptr(), field.0.as_ptr())
            };
            match read {
                read if read == data.len() => Ok(()),
                read => Err(Fault::new(format!("ZFP reads {read} bytes, there are {}", data.len()))),
            }
        })
    }
}

/// Lends `work` words with arbitrary contents, `bytes` in all.
fn words<R>(bytes: usize, work: impl FnOnce(&mut [u64]) -> R) -> R {
    scratch::with(bytes.div_ceil(WORD) * WORD + WORD - 1, |room| {
        let skip = room.as_ptr().align_offset(WORD);
        work(bytemuck::cast_slice_mut(&mut room[skip..][..bytes.div_ceil(WORD) * WORD]))
    })
}

struct Stream(NonNull<c::zfp_stream>);

impl Stream {
    /// Bytes that an encoding of `field` has at most: whole words.
    fn most(&self, field: &Field) -> usize {
        // SAFETY: both are alive.
        unsafe { c::zfp_stream_maximum_size(self.0.as_ptr(), field.0.as_ptr()) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `zfp_stream_open`, and not used again. The bit stream in it is not closed by this.
        unsafe { c::zfp_stream_close(self.0.as_ptr()) };
    }
}

struct Field(NonNull<c::zfp_field>);

impl Drop for Field {
    fn drop(&mut self) {
        // SAFETY: made by `zfp_field_*d`, and not used again. The values in it are not freed by this.
        unsafe { c::zfp_field_free(self.0.as_ptr()) };
    }
}

struct Bits(NonNull<c::bitstream>);

impl Bits {
    /// A bit stream over `room`, which must outlive it.
    fn open(room: &mut [u64]) -> Option<Self> {
        // SAFETY: allocates, and notes where the room is.
        NonNull::new(unsafe { c::stream_open(room.as_mut_ptr().cast(), size_of_val(room)) }).map(Self)
    }
}

impl Drop for Bits {
    fn drop(&mut self) {
        // SAFETY: made by `stream_open`, and not used again.
        unsafe { c::stream_close(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zfp_sees_rows_and_never_an_axis_of_one() {
        for (shape, want) in [
            (&[1, 256, 56, 56][..], [256 * 56, 56]),
            (&[2, 256, 56, 56], [2 * 256 * 56, 56]),
            (&[1, 2048, 7, 7], [1, 2048 * 49]),
            (&[1, 1, 7, 1], [1, 7]),
            (&[1, 1000], [1, 1000]),
            (&[40, 1, 50, 1], [40, 50]),
            (&[], [1, 1]),
            (&[2, 0, 30], [0, 30]),
        ] {
            assert_eq!(axes(shape), want, "{shape:?}");
        }
    }

    proptest! {
        /// With ones everywhere each group test succeeds and each bit is read: the longest way through.
        #[test]
        fn no_data_make_zfp_read_beyond_what_there_is_room_for(
            bytes in prop::collection::vec(prop_oneof![3 => Just(0xffu8), 1 => Just(0x55), 1 => any::<u8>()], 3000),
            shape in prop::sample::select(vec![vec![333], vec![9, 30], vec![1, 1], vec![4, 4, 28]]),
            mode in prop::sample::select(vec![
                Mode::Reversible,
                Mode::Accuracy(Positive::of(1e-30)),
                Mode::Rate(Positive::of(5.3)),
                Mode::Rate(Positive::of(32.0)),
                Mode::Precision(32),
                Mode::Precision(7),
            ]),
        ) {
            let zfp = Zfp(mode);
            let count = shape.iter().product();
            let form = Form { dtype: DType::Fp32, shape: &shape, width: 4, count };
            let mut values = vec![0f32; count];
            // SAFETY: the axes' product is the number of values; the field is not read or written.
            let (stream, field) = unsafe { zfp.open(&axes(&shape), values.as_mut_ptr().cast()) }.expect("memory");
            let most = stream.most(&field);
            let data = &bytes[..most.min(bytes.len()) / WORD * WORD];
            match zfp.decode(data, &form, &mut Vec::new(), &Pool::new(0)) {
                Ok(()) => {}
                Err(Fault::Malformed(cause)) => {
                    let read = cause.strip_prefix("ZFP reads ").and_then(|rest| rest.split(' ').next()?.parse().ok());
                    prop_assert!(read.is_some_and(|read: usize| read <= most), "{} of {}", cause, most);
                }
                Err(fault) => prop_assert!(false, "{:?}", fault),
            }
        }
    }
}
