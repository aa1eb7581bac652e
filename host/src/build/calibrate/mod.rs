//! Which lossy codecs each hop may use so that the chain's answers keep to a budget.
//!
//! Found out with the stages themselves, on real inputs: the codecs of a ladder are tried hop by hop, then the worst that is
//! left of every hop on all hops at once, since errors add up; while that breaks the budget, the hop that contributes most gives
//! up its worst codec.

mod hop;
mod seen;
mod slices;

use super::{Bench, BuildError, Phase, Progress};
use crate::accuracy::{Budget, Deviation};
use crate::build::load_whole;
use crate::build::prepare::Prepared;
use crate::engine::{Named, Options, Prepacking};
use crate::pipeline::{AccuracyRef, Calibration, Pipeline, StageRef};
use crate::relay::CodecChoice;
use crate::relay::codec::Codec;
use hop::{Candidate, Hop};
use seen::{Seen, deviation, margin, tail};
use slices::{Crossing, Rounded, Slices};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Mixtures of allowed codecs that are tried besides the worst of each hop.
const MIXTURES: usize = 3;
/// Inputs are left out, down to the first few, where a run of all of them takes longer than this, …
const ROUND: Duration = Duration::from_secs(4);
/// … or where their activations take more bytes.
const ROOM: u64 = 512 << 20;
const FEW: usize = 2;
/// Hops that carry less than this are left alone: nothing is saved there.
const LEAST: u64 = 1024;

/// Every codec that is tried.
pub(super) fn ladder() -> impl Iterator<Item = Codec> {
    hop::ladder().into_iter().flatten()
}

/// What was found of each hop, the last one being that to the dispatcher.
#[derive(Clone, Debug)]
pub struct HopAccuracy {
    /// Bytes of what the stage makes for it, per input.
    pub raw_bytes: u64,
    pub lossless_bytes: u64,
    /// With the smallest lossy codec that is allowed; `None` where none is.
    pub lossy_bytes: Option<u64>,
    /// The most lossy first.
    pub codecs: Vec<Codec>,
    /// All lossy codecs that do no more to the answers than the first of these, for plans to choose from.
    pub harmless: Vec<Codec>,
    /// Largest relative error of the answers where this hop alone uses its most lossy codec.
    pub error: f64,
}

/// What was found of a pipeline.
#[derive(Clone, Debug)]
pub struct Found {
    pub hops: Vec<HopAccuracy>,
    pub accuracy: AccuracyRef,
}

impl Found {
    /// Writes down what was found.
    pub fn record(&self, pipeline: &mut Pipeline) {
        pipeline.accuracy = Some(self.accuracy);
        for (stage, hop) in pipeline.stages.iter_mut().zip(&self.hops) {
            stage.lossy.clone_from(&hop.codecs);
        }
    }
}

/// Finds out which lossy codecs the stages of `pipeline`, whose artifacts lie in the bench's folder, may use. Where the codecs
/// that its plan names keep to the budget all together, hops may use no worse ones, so that none has to give up its own.
pub(super) fn calibrate(
    budget: Budget,
    bench: &Bench<'_>,
    prepared: &Prepared,
    pipeline: &Pipeline,
    (from, requests): (Calibration, Vec<Vec<Named>>),
    progress: &dyn Progress,
) -> Result<Found, BuildError> {
    // The network is here twice, whole and cut, and need not be fast.
    let options = Options { prepacking: Prepacking::Off, ..bench.options };
    let rungs = hop::ladder();
    progress.phase(Phase::Calibrating, pipeline.stages.len() * rungs.len());
    let whole = answers(bench, prepared, &requests, options)?;
    let slices = Slices::load(pipeline, bench.scratch.path(), bench.engine, options)?;
    let mut calibration = Calibrator { budget, margin: 1.0, slices, whole, crossings: Vec::new(), progress };
    let lossless = calibration.run_lossless(&requests)?;
    // Only now is it known how many inputs there was room for.
    calibration.margin = margin(&budget, calibration.crossings.len());
    let mut hops =
        (0..pipeline.stages.len()).map(|hop| calibration.survey(hop, &rungs)).collect::<Result<Vec<_>, _>>()?;
    progress.phase(Phase::Checking, 0);
    let planned: Vec<Option<Codec>> = pipeline.stages.iter().map(planned).collect();
    if planned.iter().flatten().any(|codec| codec.is_lossy()) {
        let codecs: Vec<Codec> = planned.iter().map(|codec| codec.unwrap_or_default()).collect();
        if calibration.together(&codecs)?.is_within(&budget) {
            hops.iter_mut().zip(&planned).for_each(|(hop, codec)| hop.keep_to(codec.unwrap_or_default()));
        } else {
            hop::exclude(&mut hops, &codecs);
        }
    }
    let worst = calibration.settle(&mut hops, lossless)?;

    let inputs = calibration.crossings.len();
    let accuracy = AccuracyRef {
        budget,
        calibrated_with: from,
        inputs,
        positions: lossless.positions,
        margin: calibration.margin,
        measured: budget.figure(&worst),
        lossless: budget.figure(&lossless),
    };
    Ok(Found { hops: hops.iter().map(|hop| report(hop, inputs as u64)).collect(), accuracy })
}

/// The codec that the plan has for a stage's outgoing hop.
fn planned(stage: &StageRef) -> Option<Codec> {
    match stage.codec {
        Some(CodecChoice::Fixed(codec)) => Some(codec),
        Some(CodecChoice::Auto) | None => None,
    }
}

fn report(hop: &Hop, inputs: u64) -> HopAccuracy {
    let allowed = hop.allowed();
    let per_input = |bytes: u64| bytes / inputs.max(1);
    HopAccuracy {
        raw_bytes: per_input(hop.raw_bytes),
        lossless_bytes: per_input(hop.lossless_bytes),
        lossy_bytes: allowed.iter().map(|candidate| per_input(candidate.bytes)).min(),
        codecs: allowed.iter().map(|candidate| candidate.codec).collect(),
        harmless: hop.harmless().collect(),
        error: allowed.first().map_or(0.0, |worst| worst.error),
    }
}

/// The uncut network's answers to `requests`, or to the first of them where all take too long.
fn answers(
    bench: &Bench<'_>,
    prepared: &Prepared,
    requests: &[Vec<Named>],
    options: Options,
) -> Result<Vec<Vec<Named>>, BuildError> {
    let mut session = load_whole(&prepared.file, bench.engine, options)?;
    let pool = crate::buffer::Pool::new(0);
    let started = Instant::now();
    let mut whole = Vec::with_capacity(requests.len());
    for request in requests {
        whole.push(session.run(request, &pool)?);
        if whole.len() >= FEW && started.elapsed() > ROUND {
            break;
        }
    }
    Ok(whole)
}

struct Calibrator<'a> {
    budget: Budget,
    margin: f64,
    slices: Slices,
    /// The uncut network's answers.
    whole: Vec<Vec<Named>>,
    /// For each input, what enters each stage, and what leaves the last, where nothing is rounded.
    crossings: Vec<Vec<Crossing>>,
    progress: &'a dyn Progress,
}

impl Calibrator<'_> {
    /// Runs the inputs through the chain as it is, and keeps what crosses its hops.
    fn run_lossless(&mut self, requests: &[Vec<Named>]) -> Result<Deviation, BuildError> {
        let mut all = Deviation::default();
        let mut room = ROOM;
        for (request, whole) in requests.iter().zip(&self.whole) {
            let mut crossings = vec![request.iter().cloned().collect::<Crossing>()];
            for stage in 0..self.slices.len() {
                crossings.push(self.slices.compute(stage, &crossings[stage], Codec::Raw)?);
            }
            let bytes: usize = crossings.iter().flat_map(BTreeMap::values).map(|tensor| tensor.data.len()).sum();
            if bytes as u64 > room && self.crossings.len() >= FEW {
                break;
            }
            room = room.saturating_sub(bytes as u64);
            let last = crossings.last().cloned().unwrap_or_default();
            all.add(&deviation(whole, &self.slices.outputs(last), 1.0)?);
            self.crossings.push(crossings);
        }
        self.whole.truncate(self.crossings.len());
        Ok(all)
    }

    /// Tries the codecs of all rungs on one hop alone.
    fn survey(&mut self, hop: usize, rungs: &[Vec<Codec>]) -> Result<Hop, BuildError> {
        let raw = self.bytes(hop, Codec::Raw).0;
        let lossless = CodecChoice::LOSSLESS.iter().map(|codec| self.bytes(hop, *codec).0).min().unwrap_or(raw);
        let quick = raw.min(self.bytes(hop, Codec::Sparse).0);
        let mut found = Hop::new(raw, lossless, quick);
        let small = raw < LEAST * self.crossings.len() as u64;
        for rung in rungs.iter().filter(|_| !small) {
            let worth: Vec<(Codec, u64)> = rung
                .iter()
                .map(|&codec| (codec, self.bytes(hop, codec)))
                .filter(|(codec, (bytes, rounded))| *rounded == Rounded::Yes && found.is_worth(*codec, *bytes))
                .map(|(codec, (bytes, _))| (codec, bytes))
                .collect();
            if let Some((first, _)) = worth.first() {
                let seen = self.alone(hop, *first)?;
                self.progress.detail(&format!(
                    "hop {hop}: {first} alone, {:.1e} at worst, to be expected {:.1e}",
                    seen.plain.max_relative_error,
                    tail(&seen.errors)
                ));
                if seen.is_within(&self.budget) {
                    let error = seen.plain.max_relative_error;
                    worth.iter().for_each(|&(codec, bytes)| found.admit(Candidate { codec, bytes, error }));
                }
            }
            self.progress.step();
        }
        Ok(found)
    }

    /// What a codec makes of all that crosses a hop.
    fn bytes(&self, hop: usize, codec: Codec) -> (u64, Rounded) {
        let (mut bytes, mut rounded) = (0, Rounded::No);
        for crossings in &self.crossings {
            let (encoded, lossy) = self.slices.send(hop, &mut crossings[hop + 1].clone(), codec);
            bytes += encoded;
            if lossy == Rounded::Yes {
                rounded = Rounded::Yes;
            }
        }
        (bytes, rounded)
    }

    /// How far off answers are where one hop alone is rounded.
    fn alone(&mut self, hop: usize, codec: Codec) -> Result<Seen, BuildError> {
        let mut seen = Seen::default();
        for (whole, crossings) in self.whole.iter().zip(&self.crossings) {
            let mut leaving = crossings[hop + 1].clone();
            self.slices.send(hop, &mut leaving, codec);
            seen.add(whole, &self.slices.finish(hop + 1, &leaving, &[])?, self.margin)?;
            if seen.is_hopeless(&self.budget) {
                break;
            }
        }
        Ok(seen)
    }

    /// How far off answers are with a codec on each hop.
    fn together(&mut self, codecs: &[Codec]) -> Result<Seen, BuildError> {
        let mut seen = Seen::default();
        for (whole, crossings) in self.whole.iter().zip(&self.crossings) {
            seen.add(whole, &self.slices.finish(0, &crossings[0], codecs)?, self.margin)?;
            if seen.is_hopeless(&self.budget) {
                break;
            }
        }
        Ok(seen)
    }

    /// Tightens hops until all of them together keep to the budget. Gives how far off answers are then, at worst.
    fn settle(&mut self, hops: &mut [Hop], lossless: Deviation) -> Result<Deviation, BuildError> {
        if let Budget::MaxRelativeError(limit) = self.budget {
            // What will most likely be too much need not be tried.
            while self.margin * hop::expected(hops) > limit && hop::tighten(hops) {}
        }
        'again: loop {
            let mut worst = lossless;
            for codecs in mixtures(hops) {
                let seen = self.together(&codecs)?;
                self.progress.step();
                if !seen.is_within(&self.budget) {
                    hop::tighten(hops);
                    continue 'again;
                }
                if self.is_worse(&seen.plain, &worst) {
                    worst = seen.plain;
                }
            }
            return Ok(worst);
        }
    }

    fn is_worse(&self, one: &Deviation, other: &Deviation) -> bool {
        match self.budget {
            Budget::MaxRelativeError(_) => one.max_relative_error > other.max_relative_error,
            Budget::Top1Agreement(_) => one.agreeing < other.agreeing,
        }
    }
}

/// The worst codec of each hop, and some mixtures of what each may use, lossless among it; none where nothing is allowed.
fn mixtures(hops: &[Hop]) -> Vec<Vec<Codec>> {
    let allowed: Vec<Vec<Codec>> =
        hops.iter().map(|hop| hop.allowed().iter().map(|candidate| candidate.codec).collect()).collect();
    let pick = |shift: usize| {
        let codec = |(hop, codecs): (usize, &Vec<Codec>)| match shift {
            0 => codecs.first().copied().unwrap_or_default(),
            // One past the end is raw.
            _ => codecs.get((hop + shift) % (codecs.len() + 1)).copied().unwrap_or_default(),
        };
        allowed.iter().enumerate().map(codec).collect()
    };
    let count = if allowed.iter().all(Vec::is_empty) { 0 } else { 1 + MIXTURES };
    (0..count).map(pick).collect()
}
