//! What stages of a network take on the real engine, and where to cut it.
//!
//! Pieces are timed where they will be computed, within longer runs: a run on either side of each boundary, about half a
//! stage long, and both together. What the two take more than both together is what a cut there costs. Stages that are
//! planned are then timed themselves, and what they are found to take counts in the next plan.

mod fit;
mod runs;

use super::scratch::Bench;
use super::shapes::Trace;
use super::{BuildError, Progress};
use crate::pipeline::PlanRef;
use defer_partition::cut::crossings;
use defer_partition::plan::{self, Costs, Plan, PlanError};
use defer_partition::{Atoms, Network, TensorInfo};
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
    /// What each stage took.
    pub stages_ms: Vec<f64>,
    pub lower_bound_ms: f64,
    /// What the uncut network took.
    pub whole_ms: f64,
}

impl Figures {
    pub fn plan(&self) -> PlanRef {
        let bottleneck_ms = self.stages_ms.iter().copied().fold(0.0, f64::max);
        PlanRef { bottleneck_ms, lower_bound_ms: self.lower_bound_ms.min(bottleneck_ms) }
    }
}

/// Where to cut for the fastest slowest stage, and what stages take; `given` cuts, after groups, are kept.
pub(super) fn profile(
    bench: &Bench<'_>,
    network: &Network,
    atoms: &Atoms,
    trace: &mut Trace,
    (stages, given): (usize, Option<Vec<usize>>),
    progress: &dyn Progress,
) -> Result<Figures, BuildError> {
    let pieces = Pieces::new(network, atoms, trace);
    if stages > pieces.count() {
        return Err(PlanError::TooManyStages { stages, atoms: pieces.count() }.into());
    }
    let watch = Stopwatch::new(bench, network, atoms, trace, progress, FIRST)?;
    let mut profiler = Profiler { pieces, watch, trace, surveyed: Vec::new(), checked: HashMap::new() };
    match stages {
        1 => drop(profiler.checked.insert(0..profiler.pieces.count(), profiler.watch.whole_ms)),
        _ => profiler.survey(stages)?,
    }
    let plan = match given {
        Some(cuts) => profiler.keep(&cuts)?,
        None => profiler.plan(stages)?,
    };
    let costs = profiler.costs();
    let stages_ms = plan.stages(profiler.pieces.count()).into_iter().map(|run| costs.stage_ms(run)).collect();
    Ok(Figures {
        cuts: plan.boundaries.iter().map(|&at| profiler.pieces.boundaries[at]).collect(),
        stages_ms,
        lower_bound_ms: plan.lower_bound_ms,
        whole_ms: profiler.watch.whole_ms,
    })
}

/// Fusion groups that no cut can come between are one piece.
struct Pieces {
    /// Groups after which a cut may come, ascending; the pieces lie between.
    boundaries: Vec<usize>,
    /// Bytes that cross each of them.
    bytes: Vec<u64>,
    groups: usize,
}

impl Pieces {
    fn new(network: &Network, atoms: &Atoms, trace: &Trace) -> Self {
        let obstacles = obstacles(network, atoms, trace);
        let boundaries: Vec<usize> = (0..obstacles.len()).filter(|&at| obstacles[at].is_none()).collect();
        let size = |name: &&str| trace.tensors.get(*name).map_or(0, |tensor| tensor.data.len() as u64);
        let crossing = crossings(network, atoms);
        let bytes = boundaries.iter().map(|&at| crossing[at].iter().map(size).sum()).collect();
        Self { boundaries, bytes, groups: atoms.atoms.len() }
    }

    fn count(&self) -> usize {
        self.boundaries.len() + 1
    }

    /// The groups of a run of pieces.
    fn groups(&self, run: &Range<usize>) -> Range<usize> {
        let from = if run.start == 0 { 0 } else { self.boundaries[run.start - 1] + 1 };
        let to = self.boundaries.get(run.end - 1).map_or(self.groups, |at| at + 1);
        from..to
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

struct Profiler<'a, 'b> {
    pieces: Pieces,
    watch: Stopwatch<'a>,
    trace: &'b mut Trace,
    /// Times of runs of pieces, from which the rest is fitted.
    surveyed: Vec<(Range<usize>, f64)>,
    /// Times of runs that were stages of a plan.
    checked: HashMap<Range<usize>, f64>,
}

impl Profiler<'_, '_> {
    /// Times runs around every boundary.
    fn survey(&mut self, stages: usize) -> Result<(), BuildError> {
        let count = self.pieces.count();
        // Both sides together are as long as a stage. All of them are then three times a side's pieces as long as the
        // whole network.
        let half = count.div_ceil(2 * stages);
        let round = Duration::from_secs_f64(3.0 * self.watch.whole_ms / 1e3) * SURVEY.rounds_min as u32;
        let within = |limit: Duration, one: Duration| (limit.as_secs_f64() / one.as_secs_f64().max(1e-9)) as usize;
        let affordable = within(SURVEY.time, round).min(within(SURVEY_LOADING, 3 * self.watch.load_time));
        let runs = around_boundaries(count, half.min(affordable).max(1));
        let times = self.time(&runs, SURVEY)?;
        self.surveyed = runs.into_iter().zip(times).collect();
        self.surveyed.push((0..count, self.watch.whole_ms));
        Ok(())
    }

    fn time(&mut self, runs: &[Range<usize>], effort: Effort) -> Result<Vec<f64>, BuildError> {
        let groups: Vec<_> = runs.iter().map(|run| self.pieces.groups(run)).collect();
        self.watch.time(&groups, self.trace, effort)
    }

    /// What is known so far.
    fn costs(&self) -> Costs {
        let count = self.pieces.count();
        let known = self.surveyed.iter().cloned().chain(self.checked.iter().map(|(run, ms)| (run.clone(), *ms)));
        let fit = fit::fit(count, &known.collect::<Vec<_>>());
        Costs {
            atoms_ms: fit.pieces_ms,
            boundaries_ms: fit.boundaries_ms,
            crossing_bytes: self.pieces.bytes.clone(),
            runs_ms: self.checked.clone(),
        }
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
        for _ in 0..PLANS {
            let plan = plan::min_max(&self.costs(), stages)?;
            if !self.check(&plan.stages(count))? {
                return Ok(plan);
            }
            tried.push(plan);
            if started.elapsed() > PLANNING {
                break;
            }
        }
        // Of those that were tried, the one that turned out best.
        let costs = self.costs();
        let slowest = |plan: &Plan| plan.stages(count).into_iter().map(|run| costs.stage_ms(run)).fold(0.0, f64::max);
        let timed = tried.into_iter().map(|plan| Plan { bottleneck_ms: slowest(&plan), ..plan });
        let best = timed.min_by(|a, b| a.bottleneck_ms.total_cmp(&b.bottleneck_ms));
        Ok(best.expect("at least one plan is tried"))
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
