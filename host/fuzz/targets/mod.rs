//! What is fuzzed: functions that take any bytes and panic where a promise is broken.
//!
//! They stand here once, for the ordinary test (`tests/fuzz`, which feeds them mutated seeds) and for libFuzzer
//! (`cargo fuzz`, see `fuzz_targets`). Where a checksum or a length would turn nearly all inputs away at the door, the
//! first byte of an input can have the target put it right, so that what is behind the door is reached as well.

pub mod artifact;
pub mod codec;
pub mod frame;
pub mod oip;
pub mod onnx;

/// One reader of outside bytes.
pub struct Target {
    pub name: &'static str,
    /// Judges one input; panics where a promise is broken.
    pub run: fn(&[u8]) -> Verdict,
    /// Bytes of memory that an input of this length may take, all counted.
    pub memory: fn(usize) -> usize,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something was read from it, and kept all promises.
    Taken,
    /// It was refused with an error.
    Refused,
}

pub const ALL: [Target; 5] = [
    Target { name: "frame", run: frame::run, memory: frame::memory },
    Target { name: "artifact", run: artifact::run, memory: artifact::memory },
    Target { name: "onnx", run: onnx::run, memory: onnx::memory },
    Target { name: "oip", run: oip::run, memory: oip::memory },
    Target { name: "codec", run: codec::run, memory: codec::memory },
];

/// Gives the first bytes of an input, zeros where it has no more.
pub fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let count = N.min(bytes.len());
    taken[..count].copy_from_slice(&bytes[..count]);
    *bytes = &bytes[count..];
    taken
}
