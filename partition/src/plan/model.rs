//! What a profile says, arranged for search: points at which a stage may begin or end, and the work between them.
//!
//! A *point* is a cut together with the codec that it is crossed with; the first one is the start of the network, the
//! last one its end. A stage runs from a point to a later one. Its *work* is its time on a machine of speed 1.

use crate::profile::{CodecCost, CutCost, Profile};
use std::collections::HashMap;

/// Room for the rounding of sums.
pub(super) const ROUNDING: f64 = 1e-9;

/// A time that tensors cost a stage, some of them only if the stage reaches far enough.
#[derive(Clone, Debug, Default, PartialEq)]
struct Steps {
    always: f64,
    /// An atom, and what having it in the stage costs.
    with_atom: Vec<(usize, f64)>,
}

impl Steps {
    fn at_most(&self, other: &Self) -> bool {
        self.always <= other.always && self.with_atom.iter().zip(&other.with_atom).all(|(one, two)| one.1 <= two.1)
    }
}

pub(super) struct Point {
    /// Atoms before it.
    pub at: usize,
    /// Index among the codecs of its cut in the profile, and its name; none at either end.
    pub codec: Option<(usize, String)>,
    pub bytes: u64,
    encode: Steps,
    decode: Steps,
}

/// The parts of a stage's work.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub decode: f64,
    pub compute: f64,
    pub encode: f64,
}

impl Work {
    pub fn total(&self) -> f64 {
        self.decode + self.compute + self.encode
    }
}

pub(super) struct Model {
    /// By ascending position; the first is the start, the last the end.
    pub points: Vec<Point>,
    /// The first point behind each one's position.
    pub next: Vec<usize>,
    /// The least work from each point to the end, by any number of stages; infinite where memory forbids all.
    pub rest: Vec<f64>,
    /// Time of the atoms before each position.
    sums: Vec<f64>,
    /// Weights of the atoms before each position.
    weights: Vec<u64>,
    peaks: Vec<u64>,
    /// What a cut at each position costs either side.
    halves: Vec<f64>,
    runs: HashMap<(usize, usize), f64>,
    /// By how much a timed run is faster than its atoms, at most.
    faster: f64,
}

impl Model {
    /// `largest` is the most memory that one stage can get.
    pub fn new(profile: &Profile, allowed: impl Fn(&str) -> bool, largest: u64) -> Self {
        let count = profile.atoms.len();
        let mut sums = vec![0.0; count + 1];
        let mut weights = vec![0; count + 1];
        for (index, atom) in profile.atoms.iter().enumerate() {
            sums[index + 1] = sums[index] + atom.compute_ms;
            weights[index + 1] = weights[index] + atom.weights_bytes;
        }
        let mut halves = vec![0.0; count + 1];
        profile.cuts.iter().for_each(|cut| halves[cut.after + 1] = cut.boundary_ms / 2.0);
        let runs: HashMap<_, _> =
            profile.runs.iter().map(|run| ((run.atoms[0], run.atoms[1] + 1), run.compute_ms)).collect();
        let faster = runs.iter().map(|(&(from, to), ms)| sums[to] - sums[from] - ms).fold(0.0, f64::max);

        let end = |at, bytes| Point { at, codec: None, bytes, encode: Steps::default(), decode: Steps::default() };
        let mut points = vec![end(0, profile.input_bytes)];
        profile.cuts.iter().for_each(|cut| points.extend(undominated(profile, cut, &allowed)));
        points.push(end(count, profile.output_bytes));
        let next = points.iter().map(|point| points.partition_point(|other| other.at <= point.at)).collect();
        let peaks = profile.atoms.iter().map(|atom| atom.activation_peak_bytes).collect();
        let rest = vec![0.0; points.len()];
        let mut model = Self { points, next, rest, sums, weights, peaks, halves, runs, faster };
        for from in (0..model.end()).rev() {
            let mut least = f64::INFINITY;
            model.scan(from, largest, f64::INFINITY, |to, work| least = least.min(work + model.rest[to]));
            model.rest[from] = least;
        }
        model
    }

    /// The last point.
    pub fn end(&self) -> usize {
        self.points.len() - 1
    }

    /// Calls `each` with the points up to which a stage from `from` fits `memory` and has no more than `most` work, and
    /// that work.
    pub fn scan(&self, from: usize, memory: u64, most: f64, mut each: impl FnMut(usize, f64)) {
        let start = self.points[from].at;
        let stop = most * (1.0 + ROUNDING) + self.faster;
        let (mut seen, mut peak, mut compute) = (start, 0, 0.0);
        for to in self.next[from]..self.points.len() {
            let at = self.points[to].at;
            if at > seen {
                peak = self.peaks[seen..at].iter().copied().fold(peak, u64::max);
                seen = at;
                let need = (self.weights[at] - self.weights[start]).saturating_add(peak);
                if need > memory || self.sums[at] - self.sums[start] > stop {
                    return;
                }
                compute = self.compute(start, at);
            }
            let work = self.decode(from, at) + compute + self.encode(to, start);
            if work <= most {
                each(to, work);
            }
        }
    }

    fn compute(&self, from: usize, to: usize) -> f64 {
        if let Some(ms) = self.runs.get(&(from, to)) {
            return *ms;
        }
        // Neither end of the network is a cut: their halves are 0.
        self.halves[from] + (self.sums[to] - self.sums[from]) + self.halves[to]
    }

    /// Decoding what crosses point `from` and a stage up to position `to` reads.
    fn decode(&self, from: usize, to: usize) -> f64 {
        let Steps { always, with_atom } = &self.points[from].decode;
        always + with_atom.iter().filter(|(used, _)| *used < to).map(|(_, ms)| ms).sum::<f64>()
    }

    /// Encoding what crosses point `to` and a stage from position `from` makes.
    fn encode(&self, to: usize, from: usize) -> f64 {
        let Steps { always, with_atom } = &self.points[to].encode;
        always + with_atom.iter().filter(|(made, _)| *made >= from).map(|(_, ms)| ms).sum::<f64>()
    }

    pub fn work(&self, from: usize, to: usize) -> Work {
        let (start, stop) = (self.points[from].at, self.points[to].at);
        Work { decode: self.decode(from, stop), compute: self.compute(start, stop), encode: self.encode(to, start) }
    }

    pub fn weights(&self, from: usize, to: usize) -> u64 {
        self.weights[to] - self.weights[from]
    }

    /// Weights, and all that a stage of these atoms needs.
    pub fn memory(&self, from: usize, to: usize) -> (u64, u64) {
        let weights = self.weights(from, to);
        (weights, weights.saturating_add(self.peaks[from..to].iter().copied().max().unwrap_or(0)))
    }

    /// Positions at which a stage may begin or end, ascending: from 0 to the number of atoms.
    pub fn positions(&self) -> Vec<usize> {
        let mut positions: Vec<usize> = self.points.iter().map(|point| point.at).collect();
        positions.dedup();
        positions
    }
}

/// The points of one cut, without codecs than which another is at least as good in everything.
fn undominated(profile: &Profile, cut: &CutCost, allowed: &impl Fn(&str) -> bool) -> Vec<Point> {
    let all: Vec<Point> =
        cut.codecs.iter().enumerate().map(|(index, codec)| point(profile, cut, index, codec)).collect();
    let all: Vec<Point> =
        all.into_iter().filter(|point| point.codec.as_ref().is_some_and(|(_, name)| allowed(name))).collect();
    let beats = |one: &Point, other: &Point| {
        one.bytes <= other.bytes && one.encode.at_most(&other.encode) && one.decode.at_most(&other.decode)
    };
    // Of equals the first stays.
    let beaten = |at: usize| {
        let others = all.iter().enumerate().filter(|(other, _)| *other != at);
        let mut others = others.filter(|(_, other)| beats(other, &all[at]));
        others.any(|(other, point)| other < at || !beats(&all[at], point))
    };
    let keep: Vec<bool> = (0..all.len()).map(|at| !beaten(at)).collect();
    all.into_iter().zip(keep).filter_map(|(point, keep)| keep.then_some(point)).collect()
}

fn point(profile: &Profile, cut: &CutCost, index: usize, codec: &CodecCost) -> Point {
    let at = cut.after + 1;
    let (mut encode, mut decode) = (Steps::default(), Steps::default());
    let known = cut.tensors.iter().map(|name| profile.tensors.iter().find(|tensor| tensor.name == *name));
    match known.collect::<Option<Vec<_>>>().filter(|tensors| !tensors.is_empty()) {
        Some(tensors) => {
            for tensor in tensors {
                let Some(figures) = tensor.codecs.iter().find(|figures| figures.name == codec.name) else { continue };
                // The atom before a cut is in every stage that ends there, the one behind it in every one that begins.
                match tensor.made {
                    Some(made) if made + 1 == at => encode.always += figures.encode_ms,
                    Some(made) => encode.with_atom.push((made, figures.encode_ms)),
                    None => {}
                }
                match tensor.used.iter().copied().filter(|used| *used >= at).min() {
                    Some(used) if used == at => decode.always += figures.decode_ms,
                    Some(used) => decode.with_atom.push((used, figures.decode_ms)),
                    None => {}
                }
            }
        }
        None => (encode.always, decode.always) = (codec.encode_ms, codec.decode_ms),
    }
    Point { at, codec: Some((index, codec.name.clone())), bytes: codec.bytes, encode, decode }
}
