//! The loops that touch every byte of a tensor. Each has a scalar form (`scalar.rs`), and where it pays one for AVX2
//! (`avx2.rs`) or NEON (`neon.rs`), chosen at run time; all give the same bits.
//!
//! All of them append to `out`, so that no byte of it is written twice.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tables;
#[cfg(test)]
mod tests;

/// How integers stand for values of one sign or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Sign {
    /// 0…255
    Unsigned = 0,
    /// -127…127
    Signed = 1,
}

impl Sign {
    /// The largest integer.
    pub fn steps(self) -> f32 {
        match self {
            Sign::Unsigned => 255.0,
            Sign::Signed => 127.0,
        }
    }
}

/// What there is among some 32-bit floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Survey {
    /// The largest magnitude: infinity or NaN if there is any.
    pub magnitude: f32,
    /// Signed if any sign bit is set.
    pub sign: Sign,
}

impl Survey {
    pub fn is_finite(&self) -> bool {
        self.magnitude.is_finite()
    }
}

/// Runs the form of a loop that this machine is best at.
macro_rules! best {
    ($name:ident $(::<$width:literal>)? ($($arg:expr),*)) => {{
        #[cfg(target_arch = "x86_64")]
        if avx2::is_there() {
            return avx2::$name $(::<$width>)? ($($arg),*);
        }
        #[cfg(target_arch = "aarch64")]
        if neon::is_there() {
            return neon::$name $(::<$width>)? ($($arg),*);
        }
        scalar::$name $(::<$width>)? ($($arg),*)
    }};
}

/// Like [`best!`], for loops that compilers turn into good NEON by themselves.
macro_rules! avx2_or_scalar {
    ($name:ident $(::<$width:literal>)? ($($arg:expr),*)) => {{
        #[cfg(target_arch = "x86_64")]
        if avx2::is_there() {
            return avx2::$name $(::<$width>)? ($($arg),*);
        }
        scalar::$name $(::<$width>)? ($($arg),*)
    }};
}

/// Writes the byte planes of `cells` of `width` bytes into `planes`, which is as long: the first bytes of all, and so on.
pub(super) fn shuffle(cells: &[u8], width: usize, planes: &mut [u8]) {
    assert_eq!(cells.len(), planes.len(), "planes hold the bytes of the cells");
    match width {
        1 => planes.copy_from_slice(cells),
        4 => best!(shuffle4(cells, planes)),
        _ => scalar::shuffle(cells, width, planes),
    }
}

/// Appends the cells whose byte planes, all of one length, are `planes`.
pub(super) fn unshuffle(planes: &[&[u8]], out: &mut Vec<u8>) {
    assert!(planes.iter().all(|plane| plane.len() == planes[0].len()), "planes are of one length");
    match *planes {
        [plane] => out.extend_from_slice(plane),
        [a, b, c, d] => best!(unshuffle4([a, b, c, d], out)),
        _ => scalar::unshuffle(planes, out),
    }
}

/// Appends a bitmap of the `cells` that are not zero, then these cells.
pub(super) fn pack(cells: &[u8], width: usize, out: &mut Vec<u8>) {
    match width {
        1 => best!(pack::<1>(cells, out)),
        2 => best!(pack::<2>(cells, out)),
        4 => best!(pack::<4>(cells, out)),
        8 => scalar::pack::<8>(cells, out),
        _ => unreachable!("element types have 1, 2, 4 or 8 bytes"),
    }
}

/// Appends `count` cells: those in `bitmap` are the `values` in turn, the others zero.
///
/// # Panics
/// Unless `bitmap` has a bit for each cell and none beyond, and `values` as many cells as it has ones.
pub(super) fn unpack(bitmap: &[u8], values: &[u8], width: usize, count: usize, out: &mut Vec<u8>) {
    assert_eq!(bitmap.len(), count.div_ceil(8), "a bit for each cell");
    assert_eq!(ones(bitmap) * width, values.len(), "a value for each bit");
    assert!(count.is_multiple_of(8) || bitmap[count / 8] >> (count % 8) == 0, "no bit beyond the cells");
    match width {
        1 => best!(unpack::<1>(bitmap, values, count, out)),
        2 => best!(unpack::<2>(bitmap, values, count, out)),
        4 => best!(unpack::<4>(bitmap, values, count, out)),
        8 => scalar::unpack::<8>(bitmap, values, count, out),
        _ => unreachable!("element types have 1, 2, 4 or 8 bytes"),
    }
}

/// Bits that are set.
pub(super) fn ones(bitmap: &[u8]) -> usize {
    avx2_or_scalar!(ones(bitmap))
}

/// Appends `floats` as halves, rounded to nearest. `false` if one of those is infinite or NaN.
pub(super) fn to_halves(floats: &[u8], out: &mut Vec<u8>) -> bool {
    avx2_or_scalar!(to_halves(floats, out))
}

/// Appends `halves` as 32-bit floats.
pub(super) fn from_halves(halves: &[u8], out: &mut Vec<u8>) {
    avx2_or_scalar!(from_halves(halves, out))
}

/// Looks at all `floats`.
pub(super) fn survey(floats: &[u8]) -> Survey {
    avx2_or_scalar!(survey(floats))
}

/// Appends each of `floats`, which are finite, times `inverse`, rounded to nearest and held within what `sign` allows.
pub(super) fn quantise(floats: &[u8], inverse: f32, sign: Sign, out: &mut Vec<u8>) {
    avx2_or_scalar!(quantise(floats, inverse, sign, out))
}

/// Appends each of `integers` times `scale`.
pub(super) fn dequantise(integers: &[u8], scale: f32, sign: Sign, out: &mut Vec<u8>) {
    avx2_or_scalar!(dequantise(integers, scale, sign, out))
}
