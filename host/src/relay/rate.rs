//! How fast a link carries bytes, as its sender sees it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Frames and bytes that make a sample: the kernel takes the first megabytes at once, whatever the link does.
const FRAMES: u32 = 8;
const BYTES: u64 = 4 << 20;
/// What is left of an estimate when a faster sample comes in. A link that is not kept busy looks as fast as memory, since the
/// kernel's buffers take all; so an estimate rises slowly, and falls at once.
const FORGET: f64 = 0.85;

/// The rate of one link, from the time that writes to its socket take.
#[derive(Debug, Default)]
pub struct LinkRate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    frames: u32,
    bytes: u64,
    time: Duration,
    seconds_per_byte: Option<f64>,
}

impl LinkRate {
    /// A frame of `bytes` was written in `time`.
    pub fn record(&self, bytes: u64, time: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.frames += 1;
        state.bytes += bytes;
        state.time += time;
        if state.frames < FRAMES || state.bytes < BYTES {
            return;
        }
        let sample = state.time.as_secs_f64() / state.bytes as f64;
        let known = state.seconds_per_byte.map_or(sample, |known| f64::max(sample, known * FORGET));
        *state = State { seconds_per_byte: Some(known), ..State::default() };
    }

    /// Time for one byte, in seconds; `None` until enough was sent.
    pub fn seconds_per_byte(&self) -> Option<f64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seconds_per_byte
    }

    /// The same as Mbit/s.
    pub fn mbit(&self) -> Option<f64> {
        self.seconds_per_byte().filter(|seconds| *seconds > 0.0).map(|seconds| 8e-6 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `frames` of 1 MB at `mbit`, of which the kernel takes the first few at once.
    fn write(rate: &LinkRate, frames: u32, mbit: f64) {
        (0..frames).for_each(|_| rate.record(1_000_000, Duration::from_secs_f64(8.0 / mbit)));
    }

    #[test]
    fn an_estimate_falls_at_once_and_rises_slowly() {
        let rate = LinkRate::default();
        assert_eq!(rate.mbit(), None);
        write(&rate, 8, 20_000.0);
        assert_eq!(rate.mbit().map(f64::round), Some(20_000.0));
        write(&rate, 8, 100.0);
        assert_eq!(rate.mbit().map(f64::round), Some(100.0));
        write(&rate, 8, 20_000.0);
        assert!(rate.mbit().is_some_and(|mbit| (100.0..150.0).contains(&mbit)), "{:?}", rate.mbit());
        write(&rate, 400, 20_000.0);
        assert_eq!(rate.mbit().map(f64::round), Some(20_000.0));
    }
}
