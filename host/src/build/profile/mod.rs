//! What stages of a network take on the real engine, and where to cut it.
//!
//! Pieces are timed where they will be computed, within longer runs: a run on either side of each boundary, about half a
//! stage long, and both together. What the two take more than both together is what a cut there costs. Stages that are
//! planned are then timed themselves, and what they are found to take counts in the next plan.
//!
//! Computing is not all that a stage does: what crosses its cuts is taken in, decoded, encoded and sent, which the codecs
//! and the relay itself are timed at.

mod coding;
mod costs;
mod fit;
mod pieces;
mod placed;
mod runs;
mod written;

pub use runs::QUANTILE;

pub(super) use coding::LOSSLESS;
pub(super) use pieces::{Pieces, Size};

use super::scratch::Bench;
use super::shapes::Trace;
use super::{BuildError, Progress};
use crate::pipeline::PlanRef;
use crate::relay::{Codec, Toll};
use coding::Codings;
use costs::{Passage, with_passage};
use defer_partition::cut::crossings;
use defer_partition::plan::{self, Costs, Plan, PlanError};
use defer_partition::{Atoms, Network, TensorInfo};
use fit::Fit;
use runs::{Effort, Stopwatch};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Of the whole network, alone.
const FIRST: Effort = Effort { rounds_min: 3, rounds_max: 20, time: Duration::from_millis(500) };
/// Of the runs around all boundaries.
const SURVEY: Effort = Effort { rounds_min: 4, rounds_max: 40, time: Duration::from_secs(6) };
/// Time that loading those may take, before runs are made shorter instead.
const SURVEY_LOADING: Duration = Duration::from_secs(8);
/// Of the stages of one plan.
const CHECK: Effort = Effort { rounds_min: 5, rounds_max: 40, time: Duration::from_millis(1500) };
/// So many plans are tried, the later ones only within this time.
const PLANS: usize = 8;
const PLANNING: Duration = Duration::from_secs(12);

/// A tensor that crosses the cut after each group and cannot be carried, if there is one.
pub(super) fn obstacles<'a>(network: &'a Network, atoms: &Atoms, trace: &Trace) -> Vec<Option<&'a str>> {
    let stuck = |names: Vec<&'a str>| names.into_iter().find(|name| trace.stuck.contains_key(*name));
    crossings(network, atoms).into_iter().map(stuck).collect()
}

/// What slices declare of `tensor`: the network's inputs as in the file, with the names of their open dimensions.
pub(super) fn describe(network: &Network, trace: &Trace, tensor: &str) -> Option<TensorInfo> {
    let is_input = network.inputs().iter().any(|input| input.name == tensor);
    if is_input { None } else { trace.infos.get(tensor).cloned() }
}

fn weights(atoms: &Atoms, run: Range<usize>) -> u64 {
    atoms.atoms[run].iter().map(|atom| atom.weights_bytes).sum()
}

/// What was found out.
pub(super) struct Figures {
    /// The last group of each stage but the last.
    pub cuts: Vec<usize>,
    /// What each stage took, and what it costs to take in and to send on what crosses its cuts.
    pub stages: Vec<StageTimes>,
    /// The most that each stage's activations take at once, in bytes.
    pub activation_peaks: Vec<u64>,
    pub lower_bound_ms: f64,
    /// What the uncut network took.
    pub whole_ms: f64,
}

/// Of one stage, in ms.
#[derive(Clone, Copy)]
pub(super) struct StageTimes {
    pub decode_ms: f64,
    pub compute_ms: f64,
    pub encode_ms: f64,
}

impl StageTimes {
    fn sum(&self) -> f64 {
        self.decode_ms + self.compute_ms + self.encode_ms
    }
}

impl Figures {
    pub fn plan(&self) -> PlanRef {
        let bottleneck_ms = self.stages.iter().map(StageTimes::sum).fold(0.0, f64::max);
        let lower_bound_ms = self.lower_bound_ms.min(bottleneck_ms);
        PlanRef { bottleneck_ms, lower_bound_ms, throughput_rps: None, latency_ms: None }
    }
}

/// Runs of `reach` pieces, fewer at the ends, on either side of each boundary between `count` pieces, and both together.
fn around_boundaries(count: usize, reach: usize) -> Vec<Range<usize>> {
    let around = (1..count).flat_map(|at| {
        let (from, to) = (at.saturating_sub(reach), (at + reach).min(count));
        [(from, at), (at, to), (from, to)]
    });
    around.collect::<BTreeSet<_>>().into_iter().map(|(from, to)| from..to).collect()
}

/// Finds out what a network costs, and where to cut it.
pub(super) struct Profiler<'a, 'b> {
    pieces: Pieces,
    watch: Stopwatch<'a>,
    trace: &'b mut Trace,
    progress: &'a dyn Progress,
    codings: Codings,
    /// Names of the network's inputs and outputs.
    ends: [Vec<String>; 2],
    /// Times of runs of pieces, from which the rest is fitted.
    surveyed: Vec<(Range<usize>, f64)>,
    /// Times of runs that were stages of a plan.
    checked: HashMap<Range<usize>, f64>,
    /// Codecs that plans must not use behind a piece.
    barred: HashMap<usize, BTreeSet<String>>,
}

impl<'a, 'b> Profiler<'a, 'b> {
    /// Times the whole network, and what `codecs`, raw first, make of what crosses its cuts.
    pub fn new(
        bench: &'a Bench<'_>,
        network: &'a Network,
        atoms: &'a Atoms,
        trace: &'b mut Trace,
        codecs: &[Codec],
        progress: &'a dyn Progress,
    ) -> Result<Self, BuildError> {
        let pieces = Pieces::new(network, atoms, trace);
        let inputs = network.inputs().iter().map(|input| input.name.clone()).collect();
        let ends: [Vec<String>; 2] = [inputs, network.outputs().to_vec()];
        let names = pieces.crossing.iter().chain(&ends).flatten().map(String::as_str).collect();
        let codings = Codings::measure(&trace.tensors, &names, codecs, Toll::measure()?, progress);
        let watch = Stopwatch::new(bench, network, atoms, trace, progress, FIRST)?;
        let (surveyed, checked, barred) = Default::default();
        Ok(Self { pieces, watch, trace, progress, codings, ends, surveyed, checked, barred })
    }

    /// What the network was seen to compute.
    pub fn trace(&self) -> &Trace {
        self.trace
    }

    /// Where to cut into `stages` so that the slowest is as fast as can be, and what they take; `given` cuts, after groups,
    /// are kept.
    pub fn figures(&mut self, stages: usize, given: Option<Vec<usize>>) -> Result<Figures, BuildError> {
        let count = self.pieces.count();
        if stages > count {
            return Err(PlanError::TooManyStages { stages, atoms: count }.into());
        }
        self.survey(stages)?;
        let plan = match given {
            Some(cuts) => self.keep(&cuts)?,
            None => self.plan(stages)?,
        };
        let passage = self.passage();
        let (fit, costs) = (self.fit(), self.costs());
        let stage = |run: Range<usize>| {
            let (decode_ms, encode_ms) = (passage.enter_ms[run.start], passage.leave_ms[run.end]);
            let fitted = || costs.stage_ms(run.clone()) - decode_ms - encode_ms;
            let compute_ms = self.checked.get(&run).copied().unwrap_or_else(fitted);
            StageTimes { decode_ms, compute_ms, encode_ms }
        };
        // However it is cut: an even share of the work that comes with any cuts, and the slowest piece.
        let work = fit.pieces_ms.iter().sum::<f64>() + passage.enter_ms[0] + passage.leave_ms[count];
        let slowest = fit.pieces_ms.iter().copied().fold(0.0, f64::max);
        Ok(Figures {
            cuts: plan.boundaries.iter().map(|&at| self.pieces.boundaries[at]).collect(),
            activation_peaks: plan.stages(count).iter().map(|run| self.pieces.peak(run)).collect(),
            stages: plan.stages(count).into_iter().map(stage).collect(),
            lower_bound_ms: slowest.max(work / stages as f64),
            whole_ms: self.watch.whole_ms,
        })
    }

    /// Times runs around every boundary, for a network that becomes so many stages.
    pub fn survey(&mut self, stages: usize) -> Result<(), BuildError> {
        let count = self.pieces.count();
        self.surveyed = vec![(0..count, self.watch.whole_ms)];
        if stages == 1 {
            self.checked.insert(0..count, self.watch.whole_ms);
            return Ok(());
        }
        // Both sides together are as long as a stage. All of them are then three times a side's pieces as long as the
        // whole network.
        let half = count.div_ceil(2 * stages);
        let round = Duration::from_secs_f64(3.0 * self.watch.whole_ms / 1e3) * SURVEY.rounds_min as u32;
        let within = |limit: Duration, one: Duration| (limit.as_secs_f64() / one.as_secs_f64().max(1e-9)) as usize;
        let affordable = within(SURVEY.time, round).min(within(SURVEY_LOADING, 3 * self.watch.load_time));
        let runs = around_boundaries(count, half.min(affordable).max(1));
        let times = self.time(&runs, SURVEY)?;
        self.surveyed.extend(runs.into_iter().zip(times));
        Ok(())
    }

    fn time(&mut self, runs: &[Range<usize>], effort: Effort) -> Result<Vec<f64>, BuildError> {
        let groups: Vec<_> = runs.iter().map(|run| self.pieces.groups(run)).collect();
        self.watch.time(&groups, self.trace, effort)
    }

    /// What computing takes, by all that was timed.
    fn fit(&self) -> Fit {
        let known = self.surveyed.iter().cloned().chain(self.checked.iter().map(|(run, ms)| (run.clone(), *ms)));
        fit::fit(self.pieces.count(), &known.collect::<Vec<_>>())
    }

    /// What the relay takes of stages that get and give raw tensors, those that they only hand on included.
    fn passage(&self) -> Passage {
        let (receive, send) = self.codings.frame();
        let raw = |names: &Vec<String>| {
            let raw = self.codings.together(names.iter().map(String::as_str)).swap_remove(0);
            (receive + raw.decode_ms, send + raw.encode_ms)
        };
        let [inputs, outputs] = &self.ends;
        let places = std::iter::once(inputs).chain(&self.pieces.crossing).chain([outputs]).map(raw);
        let (mut enter_ms, mut leave_ms): (Vec<f64>, Vec<f64>) = places.unzip();
        // Nothing begins at the end, and nothing ends at the beginning.
        (enter_ms[self.pieces.count()], leave_ms[0]) = (0.0, 0.0);
        Passage { enter_ms, leave_ms }
    }

    /// What stages cost, by all that is known so far.
    fn costs(&self) -> Costs {
        with_passage(&self.fit(), &self.passage(), &self.checked, self.pieces.bytes.clone())
    }

    /// Times those of `stages` that were not timed yet; `false` if there were none.
    fn check(&mut self, stages: &[Range<usize>]) -> Result<bool, BuildError> {
        let new: Vec<_> = stages.iter().filter(|run| !self.checked.contains_key(run)).cloned().collect();
        let times = self.time(&new, CHECK)?;
        let any = !new.is_empty();
        self.checked.extend(new.into_iter().zip(times));
        Ok(any)
    }

    /// Plans, times the planned stages, and plans again, until the plan is made of stages that were timed.
    fn plan(&mut self, stages: usize) -> Result<Plan, BuildError> {
        let count = self.pieces.count();
        let started = Instant::now();
        let mut tried = Vec::new();
        for round in 1..=PLANS {
            let plan = plan::min_max(&self.costs(), stages)?;
            if !self.check(&plan.stages(count))? {
                self.say(round, &plan, None);
                return Ok(plan);
            }
            self.say(round, &plan, Some(self.slowest(&plan)));
            tried.push(plan);
            if started.elapsed() > PLANNING {
                break;
            }
        }
        // Of those that were tried, the one that turned out best.
        let timed = tried.into_iter().map(|plan| Plan { bottleneck_ms: self.slowest(&plan), ..plan });
        let best = timed.min_by(|a, b| a.bottleneck_ms.total_cmp(&b.bottleneck_ms));
        Ok(best.expect("at least one plan is tried"))
    }

    /// The slowest stage of a plan, by what is known now.
    fn slowest(&self, plan: &Plan) -> f64 {
        let costs = self.costs();
        plan.stages(self.pieces.count()).into_iter().map(|run| costs.stage_ms(run)).fold(0.0, f64::max)
    }

    fn say(&self, round: usize, plan: &Plan, found_ms: Option<f64>) {
        let ends: Vec<&str> = plan.boundaries.iter().map(|&at| self.pieces.sizes[at].name.as_str()).collect();
        let found = match found_ms {
            Some(ms) => format!("timed, {ms:.2} ms"),
            None => "all of its stages were timed".to_owned(),
        };
        let expected = plan.bottleneck_ms;
        self.progress
            .detail(&format!("plan {round}: cuts after {}; slowest stage {expected:.2} ms; {found}", ends.join(", ")));
    }

    /// The plan with these cuts, after groups, its stages timed.
    fn keep(&mut self, cuts: &[usize]) -> Result<Plan, BuildError> {
        let best = plan::min_max(&self.costs(), cuts.len() + 1)?;
        let at = |cut: &usize| self.pieces.boundaries.binary_search(cut).expect("cuts were checked to be possible");
        let plan = Plan { boundaries: cuts.iter().map(at).collect(), ..best };
        self.check(&plan.stages(self.pieces.count()))?;
        Ok(plan)
    }
}
