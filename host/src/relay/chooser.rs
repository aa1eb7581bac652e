//! Which codec a hop's tensors travel with, where the choice is left to its sender (`auto`): a lossless one, or one of the
//! lossy ones that its pipeline allows on the hop.
//!
//! Three things run side by side for different frames: the sender's work (a node's: decode, compute, encode), the link, and
//! the next node's work. The slowest of them sets the pace, so the codec is chosen for which that one takes the least time.
//! The next node's work is taken to be the sender's, with decoding in place of encoding: a plan that balances its stages
//! makes it so. Where the next node has much more to do, decoding may cost the chain more than the link gains.
//!
//! One codec serves all tensors of a frame that the sender makes: their costs then add up to one figure per codec. Tensors
//! that it only passes on keep the encoding that they came with, and count as bytes that no choice changes.

use super::codec::{Choice, Codec};
use std::time::Duration;

/// Another codec has to be better by this share, or codecs would change with every breath of the machine.
const BETTER: f64 = 0.93;
/// A codec that is not in use is tried again after so many frames, …
const AGAIN: u64 = 256;
/// … and one at most every so many, so that trying costs little; the first time all are tried in a row.
const BETWEEN: u64 = 16;
/// While the link takes less than this share of the slowest part with raw tensors, nothing is tried.
const MATTERS: f64 = 0.5;
/// Weight of the latest frame in what is known.
const LATEST: f64 = 0.1;

/// Whether the threads of a slot run side by side or take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    One,
    Several,
}

impl Cores {
    /// What this process may use, by affinity and quota.
    pub fn here() -> Self {
        match std::thread::available_parallelism().map_or(1, usize::from) {
            1 => Self::One,
            _ => Self::Several,
        }
    }

    /// Time per frame of two parts of its work.
    pub fn together(self, a: Duration, b: Duration) -> Duration {
        match self {
            Self::One => a + b,
            Self::Several => a.max(b),
        }
    }
}

/// A mean that follows change.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |mean| mean + LATEST * (value - mean)));
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    codec: Codec,
    /// Encoded bytes over raw ones.
    ratio: Mean,
    /// Seconds for a raw byte.
    encode: Mean,
    decode: Mean,
    tried_at: u64,
    /// Some frame tries it at this moment.
    is_tried: bool,
}

/// What a frame meets.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// What the sender did for it before: decoding and computing.
    pub work: Duration,
    /// What the link needs for a byte, where that is known.
    pub seconds_per_byte: Option<f64>,
    /// Encoded bytes in the frame that are sent as they came.
    pub passed_on: usize,
}

/// Chooses, frame after frame.
#[derive(Debug)]
pub struct Chooser {
    cores: Cores,
    /// Raw tensors first.
    candidates: Vec<Candidate>,
    current: usize,
    frames: u64,
    last_trial: u64,
    /// Raw bytes of a frame.
    raw_bytes: Mean,
    /// Bytes of a frame that are sent as they came.
    passed_on: Mean,
    /// Seconds for decoding and computing one.
    work: Mean,
}

/// What one encoding cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub encoded_bytes: usize,
    pub encode: Duration,
    /// Where it was decoded again to see what that takes.
    pub decode: Option<Duration>,
}

impl Chooser {
    /// Among the lossless codecs and `lossy`.
    pub fn new(cores: Cores, lossy: &[Codec]) -> Self {
        let unknown = Mean::default();
        let candidates = Choice::LOSSLESS.iter().chain(lossy).map(|&codec| Candidate {
            codec,
            ratio: unknown,
            encode: unknown,
            decode: unknown,
            tried_at: 0,
            is_tried: false,
        });
        Self {
            cores,
            candidates: candidates.collect(),
            current: 0,
            frames: 0,
            last_trial: 0,
            raw_bytes: Mean::default(),
            passed_on: Mean::default(),
            work: Mean::default(),
        }
    }

    /// Begins a frame of `raw_bytes` under the conditions given. Gives the codec for it.
    pub fn begin(&mut self, raw_bytes: usize, conditions: Conditions) -> Codec {
        self.frames += 1;
        self.raw_bytes.add(raw_bytes as f64);
        self.passed_on.add(conditions.passed_on as f64);
        self.work.add(conditions.work.as_secs_f64());
        if let Some(link) = conditions.seconds_per_byte {
            let now = self.seconds(self.current, link).unwrap_or(f64::INFINITY);
            let best = (0..self.candidates.len())
                .filter_map(|index| Some((index, self.seconds(index, link)?)))
                .min_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((best, seconds)) = best
                && seconds < now * BETTER
            {
                self.current = best;
            }
        }
        self.current()
    }

    /// A codec that should be tried on this frame besides the one in use, by encoding a copy and decoding it again.
    pub fn trial(&mut self, seconds_per_byte: Option<f64>) -> Option<Codec> {
        let link = seconds_per_byte?;
        if self.current == 0 && !self.matters(link)? {
            return None;
        }
        let free = || (1..self.candidates.len()).filter(|&index| !self.candidates[index].is_tried);
        let untried = free().find(|&index| self.candidates[index].decode.0.is_none());
        let oldest = free().min_by_key(|&index| self.candidates[index].tried_at);
        let index = untried.or_else(|| {
            let due = |index: &usize| {
                self.frames >= self.candidates[*index].tried_at + AGAIN && self.frames >= self.last_trial + BETWEEN
            };
            oldest.filter(due)
        })?;
        self.candidates[index].tried_at = self.frames;
        self.candidates[index].is_tried = true;
        self.last_trial = self.frames;
        Some(self.candidates[index].codec)
    }

    /// Whether raw tensors are in use and nothing else would be tried.
    pub fn is_raw(&self, seconds_per_byte: Option<f64>) -> bool {
        self.current == 0 && !seconds_per_byte.and_then(|link| self.matters(link)).unwrap_or(false)
    }

    /// Whether the link takes a share of the time that is worth a trial; `None` before the first frame.
    fn matters(&self, link: f64) -> Option<bool> {
        Some((self.raw_bytes.0? + self.passed_on.0?) * link >= self.work.0? * MATTERS)
    }

    /// What encoding `raw_bytes` with `codec` cost.
    pub fn learn(&mut self, codec: Codec, raw_bytes: usize, cost: Cost) {
        let Some(index) = self.candidates.iter().position(|candidate| candidate.codec == codec) else { return };
        let raw = raw_bytes.max(1) as f64;
        let candidate = &mut self.candidates[index];
        candidate.ratio.add(cost.encoded_bytes as f64 / raw);
        candidate.encode.add(cost.encode.as_secs_f64() / raw);
        match cost.decode {
            Some(decode) => {
                candidate.decode.add(decode.as_secs_f64() / raw);
                candidate.is_tried = false;
            }
            // Raw tensors are not decoded at all.
            None if index == 0 => candidate.decode.add(0.0),
            None => {}
        }
    }

    /// The codec in use.
    pub fn current(&self) -> Codec {
        self.candidates[self.current].codec
    }

    /// Seconds that the slowest part needs for a frame with a codec, once all of its figures are known.
    fn seconds(&self, index: usize, link: f64) -> Option<f64> {
        let Candidate { ratio, encode, decode, .. } = self.candidates[index];
        let (raw, passed_on, work) = (self.raw_bytes.0?, self.passed_on.0?, self.work.0?);
        let together = |coding: f64| match self.cores {
            Cores::One => work + coding * raw,
            Cores::Several => work.max(coding * raw),
        };
        let (here, there) = (together(encode.0?), together(decode.0?));
        Some(here.max(there).max((ratio.0? * raw + passed_on) * link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: usize = 1_000_000;
    const WORK: Duration = Duration::from_millis(30);

    /// Ratio, and ms for encoding and decoding a frame, of each candidate.
    type Figures = [(f64, f64, f64)];
    const RELU: [(f64, f64, f64); Choice::LOSSLESS.len()] =
        [(1.0, 0.0, 0.0), (0.7, 1.0, 0.5), (0.66, 2.0, 1.0), (0.65, 12.0, 4.0), (0.6, 9.0, 3.0)];

    /// Sends `frames` over a link of `mbit`, and tells which codec the last one had.
    fn send(chooser: &mut Chooser, figures: &Figures, frames: u32, mbit: f64) -> Codec {
        send_beside(0, chooser, figures, frames, mbit)
    }

    /// The same where each frame also carries `passed_on` bytes as they came.
    fn send_beside(passed_on: usize, chooser: &mut Chooser, figures: &Figures, frames: u32, mbit: f64) -> Codec {
        let link = Some(8e-6 / mbit);
        for _ in 0..frames {
            let codec = chooser.begin(RAW, Conditions { work: WORK, seconds_per_byte: link, passed_on });
            let cost = |chooser: &Chooser, codec: Codec, tried: bool| {
                let at = chooser.candidates.iter().position(|candidate| candidate.codec == codec).unwrap();
                let (ratio, encode, decode) = figures[at];
                let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
                Cost {
                    encoded_bytes: (ratio * RAW as f64) as usize,
                    encode: ms(encode),
                    decode: tried.then(|| ms(decode)),
                }
            };
            let known = cost(&*chooser, codec, false);
            chooser.learn(codec, RAW, known);
            if let Some(trial) = chooser.trial(link) {
                let found = cost(&*chooser, trial, true);
                chooser.learn(trial, RAW, found);
            }
        }
        chooser.current()
    }

    #[test]
    fn the_slowest_part_decides() {
        for (mbit, want) in [
            // 8 ms on the link, 30 ms of work: nothing to gain.
            (1000.0, Codec::Raw),
            // 40 ms with raw tensors: a cheap codec brings it below the work.
            (200.0, Codec::Sparse),
            // 320 ms: the fewest bytes win, whatever they cost.
            (25.0, Codec::SparseShuffleZstd),
        ] {
            assert_eq!(send(&mut Chooser::new(Cores::One, &[]), &RELU, 100, mbit), want, "at {mbit} Mbit/s");
        }
    }

    #[test]
    fn what_is_passed_on_loads_the_link_too() {
        // 13 ms for raw tensors beside 30 ms of work are not worth a trial; 40 ms with what is passed on are.
        for (passed_on, want) in [(0, Codec::Raw), (2 * RAW, Codec::Sparse)] {
            assert_eq!(send_beside(passed_on, &mut Chooser::new(Cores::Several, &[]), &RELU, 100, 600.0), want);
        }
    }

    #[test]
    fn no_codec_is_tried_by_two_frames_at_once() {
        let mut chooser = Chooser::new(Cores::Several, &[]);
        let link = Some(1e-6);
        let mut tried = Vec::new();
        while let Some(codec) = {
            chooser.begin(RAW, Conditions { work: WORK, seconds_per_byte: link, passed_on: 0 });
            chooser.trial(link)
        } {
            assert!(!tried.contains(&codec), "{codec} again");
            tried.push(codec);
        }
        assert_eq!(tried.len(), Choice::LOSSLESS.len() - 1);
    }

    #[test]
    fn it_follows_the_link() {
        let mut chooser = Chooser::new(Cores::One, &[]);
        for (mbit, want) in [(1000.0, Codec::Raw), (25.0, Codec::SparseShuffleZstd), (1000.0, Codec::Raw)] {
            assert_eq!(send(&mut chooser, &RELU, 600, mbit), want, "at {mbit} Mbit/s");
        }
    }

    #[test]
    fn nothing_is_tried_where_the_link_does_not_matter() {
        let mut chooser = Chooser::new(Cores::One, &[]);
        send(&mut chooser, &RELU, 1000, 10_000.0);
        assert!(chooser.candidates[1..].iter().all(|candidate| candidate.ratio.0.is_none()));
    }

    #[test]
    fn a_codec_that_is_hardly_better_does_not_replace_the_one_in_use() {
        let mut figures = RELU;
        let mut chooser = Chooser::new(Cores::One, &[]);
        assert_eq!(send(&mut chooser, &figures, 300, 25.0), Codec::SparseShuffleZstd);
        figures[2].0 = 0.58;
        assert_eq!(send(&mut chooser, &figures, 2000, 25.0), Codec::SparseShuffleZstd);
        figures[2].0 = 0.3;
        assert_eq!(send(&mut chooser, &figures, 2000, 25.0), Codec::SparseShuffleLz4);
    }

    #[test]
    fn a_tensor_that_no_codec_shrinks_travels_raw() {
        let figures = RELU.map(|(_, encode, decode)| (1.0, encode, decode));
        assert_eq!(send(&mut Chooser::new(Cores::One, &[]), &figures, 500, 25.0), Codec::Raw);
    }

    #[test]
    fn lossy_codecs_are_chosen_where_they_are_allowed_and_the_link_is_slow() {
        let lossy = [Codec::Int8Zstd, Codec::F16];
        let mut figures = RELU.to_vec();
        figures.extend([(0.1, 6.0, 3.0), (0.5, 0.3, 0.2)]);
        for (mbit, allowed, want) in [
            // 8 ms on the link, 30 ms of work: nothing to gain, so nothing is rounded.
            (1000.0, &lossy[..], Codec::Raw),
            // 80 ms with raw tensors: halves bring it to 40, eight bits to 36 with their coding.
            (100.0, &lossy, Codec::Int8Zstd),
            (100.0, &[], Codec::SparseShuffleZstd),
        ] {
            let mut chooser = Chooser::new(Cores::One, allowed);
            assert_eq!(send(&mut chooser, &figures, 300, mbit), want, "at {mbit} Mbit/s, {allowed:?} allowed");
        }
    }

    #[test]
    fn a_lossy_codec_that_saves_too_little_is_not_used() {
        let mut figures = RELU.to_vec();
        figures.push((0.58, 9.0, 3.0));
        let mut chooser = Chooser::new(Cores::One, &[Codec::F16]);
        assert_eq!(send(&mut chooser, &figures, 600, 25.0), Codec::SparseShuffleZstd);
    }
}
