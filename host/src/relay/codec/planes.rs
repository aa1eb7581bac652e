//! Byte planes: the first bytes of all cells, then the second bytes, and so on, each plane squeezed by itself.
//!
//! Of a float's four bytes only the last one (sign and most of the exponent) has much to squeeze. A plane with nothing to
//! squeeze is stored as it is, and mostly found out from a sample.
//!
//! Format: per plane, first bytes first, a `u32` with its stored length, where the number of cells means that it is stored
//! as it is; then the planes.

use super::layer::{Fault, Form, Layer, Unfit};
use super::{scratch, simd};
use crate::buffer::Pool;

/// A compressor of plain bytes.
pub(super) trait Squeeze: Sync {
    /// A large plane is stored as it is unless a sample of it becomes shorter by at least the whole over this.
    const GAIN: usize;

    /// Appends something shorter than `bytes` that stands for them, and says how long it is; `None`, and `out` as it was,
    /// if there is no such thing.
    fn squeeze(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize>;

    /// Writes what `data` stands for into `bytes`, and says how much that was. Total, and never beyond `bytes`.
    fn expand(&self, data: &[u8], bytes: &mut [u8]) -> Result<usize, Fault>;
}

pub(super) struct Planes<S>(pub S);

/// Planes up to this size are squeezed without a trial.
const SMALL: usize = 64 * 1024;
/// Others are tried on so many pieces …
const PIECES: usize = 4;
/// … of so many bytes, evenly spread.
const PIECE: usize = 4 * 1024;

impl<S: Squeeze> Planes<S> {
    /// Whether a sample of `plane` becomes as much shorter as it should.
    fn is_worth_it(&self, plane: &[u8], out: &mut Vec<u8>) -> bool {
        if plane.len() <= SMALL {
            return true;
        }
        let start = out.len();
        let step = (plane.len() - PIECE) / (PIECES - 1);
        let tried = scratch::with(PIECES * PIECE, |sample| {
            for (i, piece) in sample.chunks_exact_mut(PIECE).enumerate() {
                piece.copy_from_slice(&plane[i * step..][..PIECE]);
            }
            self.0.squeeze(sample, out)
        });
        out.truncate(start);
        tried.is_some_and(|len| len < PIECES * PIECE - PIECES * PIECE / S::GAIN)
    }
}

impl<S: Squeeze> Layer for Planes<S> {
    fn encode(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Unfit> {
        if form.count == 0 {
            return Ok(());
        }
        u32::try_from(form.count).map_err(|_| Unfit::TooLarge)?;
        let lengths = out.len();
        out.resize(lengths + 4 * form.width, 0);
        scratch::with(cells.len(), |planes| {
            simd::shuffle(cells, form.width, planes);
            for (i, plane) in planes.chunks_exact(form.count).enumerate() {
                let squeezed = if self.is_worth_it(plane, out) { self.0.squeeze(plane, out) } else { None };
                let len = squeezed.unwrap_or_else(|| {
                    out.extend_from_slice(plane);
                    plane.len()
                });
                out[lengths + 4 * i..][..4].copy_from_slice(&(len as u32).to_le_bytes());
            }
        });
        Ok(())
    }

    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, _: &Pool) -> Result<(), Fault> {
        let short = || Fault::new("it ends early");
        if form.count == 0 {
            return if data.is_empty() { Ok(()) } else { Err(Fault::new("bytes follow")) };
        }
        let (lengths, mut data) = data.split_at_checked(4 * form.width).ok_or_else(short)?;
        scratch::with(form.len(), |room| {
            let mut planes = [&[][..]; MAX_WIDTH];
            let (lengths, _) = lengths.as_chunks::<4>();
            for ((plane, room), len) in planes.iter_mut().zip(room.chunks_exact_mut(form.count)).zip(lengths) {
                let (stored, rest) = data.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(short)?;
                data = rest;
                *plane = match stored.len() {
                    len if len == form.count => stored,
                    _ => match self.0.expand(stored, room)? {
                        got if got == form.count => room,
                        got => return Err(Fault::Length { got, want: form.count }),
                    },
                };
            }
            if !data.is_empty() {
                return Err(Fault::new("bytes follow its last plane"));
            }
            simd::unshuffle(&planes[..form.width], out);
            Ok(())
        })
    }
}

/// Bytes of the widest element type.
pub(super) const MAX_WIDTH: usize = 8;
