//! How fast a link carries bytes, as its sender sees it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Frames and bytes that make a sample: the kernel takes the first megabytes at once, whatever the link does.
const FRAMES: u32 = 8;
const BYTES: u64 = 4 << 20;
/// What is left of an estimate when a faster sample comes in. A link that is not kept busy looks as fast as memory, since the
/// kernel's buffers take all; so an estimate rises slowly, and falls at once.
const FORGET: f64 = 0.85;
/// The same where, by the estimate, the link was idle for half of the time: such a sample says next to nothing.
const FORGET_IDLE: f64 = 0.99;

/// The rate of one link, from the time that writes to its socket take.
#[derive(Debug, Default)]
pub struct LinkRate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    frames: u32,
    bytes: u64,
    time: Duration,
    /// End of the latest sample.
    since: Option<Instant>,
    seconds_per_byte: Option<f64>,
}

impl LinkRate {
    /// A frame of `bytes` was written in `time`, just now.
    pub fn record(&self, bytes: u64, time: Duration) {
        self.record_at(bytes, time, Instant::now());
    }

    fn record_at(&self, bytes: u64, time: Duration, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.frames += 1;
        state.bytes += bytes;
        state.time += time;
        if state.frames < FRAMES || state.bytes < BYTES {
            return;
        }
        let sample = state.time.as_secs_f64() / state.bytes as f64;
        let elapsed = state.since.map(|since| now.saturating_duration_since(since).as_secs_f64());
        let known = state.seconds_per_byte.map_or(sample, |known| {
            let idle = elapsed.is_some_and(|elapsed| known * state.bytes as f64 <= elapsed / 2.0);
            f64::max(sample, known * if idle { FORGET_IDLE } else { FORGET })
        });
        *state = State { seconds_per_byte: Some(known), since: Some(now), ..State::default() };
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

    /// A sender that writes a frame of 1 MB every so often, to a socket that takes it as fast as `mbit`.
    struct Sender {
        rate: LinkRate,
        now: Instant,
    }

    impl Sender {
        fn new() -> Self {
            Self { rate: LinkRate::default(), now: Instant::now() }
        }

        fn write(&mut self, frames: u32, mbit: f64, every: Duration) -> f64 {
            let time = Duration::from_secs_f64(8.0 / mbit);
            for _ in 0..frames {
                self.now += time.max(every);
                self.rate.record_at(1_000_000, time, self.now);
            }
            self.rate.mbit().expect("enough was written").round()
        }
    }

    #[test]
    fn an_estimate_falls_at_once_and_rises_slowly() {
        let mut sender = Sender::new();
        assert_eq!(sender.rate.mbit(), None);
        assert_eq!(sender.write(8, 20_000.0, Duration::ZERO), 20_000.0);
        assert_eq!(sender.write(8, 100.0, Duration::ZERO), 100.0);
        let after_one = sender.write(8, 20_000.0, Duration::ZERO);
        assert!((100.0..150.0).contains(&after_one), "{after_one}");
        assert_eq!(sender.write(400, 20_000.0, Duration::ZERO), 20_000.0);
    }

    #[test]
    fn a_link_that_is_mostly_idle_is_not_taken_for_a_fast_one() {
        let mut sender = Sender::new();
        sender.write(8, 100.0, Duration::ZERO);
        // 80 ms of every 200, by the estimate: the kernel's buffer takes each frame at once.
        let later = sender.write(200, 20_000.0, Duration::from_millis(200));
        assert!((100.0..150.0).contains(&later), "{later}");
        // Were it really that slow, it could not carry as much as this.
        let busy = sender.write(200, 20_000.0, Duration::from_millis(50));
        assert!(busy > 150.0, "{busy}");
    }
}
