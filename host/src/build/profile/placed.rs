//! Plans for a cluster: what is known of the network as a profile, placed, its stages timed, and placed again.

use super::{Figures, PLANNING, PLANS, Profiler, StageTimes};
use crate::build::BuildError;
use crate::relay::Codec;
use defer_partition::cluster::Cluster;
use defer_partition::plan::{self, Objective, Options, PlacedStage, Placement};
use defer_partition::profile::RunCost;
use std::ops::Range;
use std::time::Instant;

/// Sums that differ by no more than this share differ by rounding.
const EQUAL: f64 = 1e-9;

impl Profiler<'_, '_> {
    /// Where to cut for the machines of `cluster`, and which stage goes to which. Timed and planned again until the plan is
    /// made of stages that were timed; [`Profiler::survey`] must have been made before.
    pub fn place(&mut self, cluster: &Cluster, options: &Options) -> Result<(Figures, Placement), BuildError> {
        let started = Instant::now();
        let mut tried = Vec::new();
        loop {
            let placement = plan::place(&self.profile(""), cluster, options)?;
            let runs: Vec<_> = placement.stages.iter().map(run).collect();
            let new = self.check(&runs)?;
            tried.push(placement);
            self.describe(tried.len(), &tried[tried.len() - 1], &runs);
            if !new || tried.len() == PLANS || started.elapsed() > PLANNING {
                break;
            }
        }
        let placement = best(tried, &self.profile("").runs, cluster);
        let (passage, count) = (self.passage(), self.pieces.count());
        let (receive, send) = self.codings.frame();
        let stage = |stage: &PlacedStage| {
            let speed = speed(stage, cluster);
            let run = run(stage);
            // What a plan counts as the first and the last atom's: see `Profiler::profile`.
            let taken = if run.start == 0 { passage.enter_ms[0] } else { receive };
            let sent = if run.end == count { passage.leave_ms[count] } else { send };
            StageTimes {
                decode_ms: stage.decode_ms * speed + taken,
                compute_ms: self.checked.get(&run).copied().unwrap_or(stage.compute_ms * speed - taken - sent),
                encode_ms: stage.encode_ms * speed + sent,
            }
        };
        let cut = |stage: &PlacedStage| self.pieces.boundaries.get(stage.atoms[1]).copied();
        let figures = Figures {
            cuts: placement.stages.iter().filter_map(cut).collect(),
            stages: placement.stages.iter().map(stage).collect(),
            activation_peaks: placement.stages.iter().map(|stage| self.pieces.peak(&run(stage))).collect(),
            lower_bound_ms: placement.lower_bound_ms,
            whole_ms: self.watch.whole_ms,
        };
        Ok((figures, placement))
    }

    /// From now on, plans may use no lossy codec but these on the hop behind `stage`, or behind cuts that are nearer to it than
    /// to any other that was tried; tells whether `stage` keeps to that.
    pub fn allow(&mut self, stage: &PlacedStage, lossy: &[Codec]) -> bool {
        let allowed = |codec: &Codec| !codec.is_lossy() || lossy.contains(codec);
        let barred = self.codings.codecs().iter().filter(|codec| !allowed(codec)).map(ToString::to_string);
        self.barred.insert(stage.atoms[1], barred.collect());
        stage.codec_out.as_ref().is_none_or(|codec| !self.barred[&stage.atoms[1]].contains(codec))
    }

    fn describe(&self, round: usize, placement: &Placement, runs: &[Range<usize>]) {
        let stage = |(stage, run): (&PlacedStage, &Range<usize>)| {
            let end = &self.pieces.sizes[run.end - 1].name;
            let codec = stage.codec_out.as_ref().map_or_else(String::new, |codec| format!(", {codec}"));
            format!("{} to {end} ({:.2} ms{codec})", stage.nodes.join(" and "), stage.busy_ms())
        };
        let stages: Vec<String> = placement.stages.iter().zip(runs).map(stage).collect();
        let line = format!("plan {round}: {}; bottleneck {:.2} ms", stages.join("; "), placement.bottleneck_ms);
        self.progress.detail(&line);
    }
}

/// Of plans, in the order in which they were made, the one that is best by what their stages took when they were timed.
fn best(tried: Vec<Placement>, runs: &[RunCost], cluster: &Cluster) -> Placement {
    // The last one's bound is from all that was known then.
    let bound = tried.last().map_or(0.0, |last| last.lower_bound_ms);
    let value = |placement: &Placement| match placement.objective {
        Objective::Throughput => placement.bottleneck_ms,
        Objective::Latency => placement.latency_ms,
    };
    // Of equals the latest, whose alternatives are the latest, too.
    let timed = tried.into_iter().rev().map(|placement| timed(placement, runs, cluster));
    let mut best = timed.min_by(|a, b| value(a).total_cmp(&value(b))).expect("at least one plan is made");
    best.lower_bound_ms = bound.min(value(&best));
    best.optimal = best.optimal && value(&best) <= best.lower_bound_ms * (1.0 + EQUAL);
    best
}

/// `placement` with the times that its stages were found to take.
fn timed(mut placement: Placement, runs: &[RunCost], cluster: &Cluster) -> Placement {
    let mut longest = placement.input_link_ms;
    for stage in &mut placement.stages {
        let speed = speed(stage, cluster);
        if let Some(run) = runs.iter().find(|run| run.atoms == stage.atoms).filter(|_| speed > 0.0) {
            let compute_ms = run.compute_ms / speed;
            // One inference is on one of a stage's nodes, which take longer than all of them together.
            placement.latency_ms += (compute_ms - stage.compute_ms) * stage.nodes.len() as f64;
            stage.compute_ms = compute_ms;
        }
        longest = longest.max(stage.busy_ms()).max(stage.link_ms);
    }
    placement.bottleneck_ms = longest;
    placement.throughput_rps = (longest > 0.0).then(|| 1e3 / longest);
    placement
}

/// Of all nodes of a stage together.
fn speed(stage: &PlacedStage, cluster: &Cluster) -> f64 {
    stage.nodes.iter().filter_map(|node| cluster.node(node)).map(|node| node.speed).sum()
}

/// The pieces of a stage.
fn run(stage: &PlacedStage) -> Range<usize> {
    let [first, last] = stage.atoms;
    first..last + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::cluster::{ClusterNode, Links};
    use defer_partition::profile::{AtomCost, CodecCost, CutCost, FORMAT, Profile};

    fn cluster() -> Cluster {
        let node = |name: &str| ClusterNode {
            name: name.to_owned(),
            url: None,
            speed: 0.5,
            memory_bytes: 1 << 20,
            cores: None,
        };
        let link = Links { bandwidth_bps: Some(1e9), latency_ms: Some(0.1), pairs: Vec::new() };
        Cluster { nodes: vec![node("a"), node("b")], link, dispatcher: None }
    }

    fn profile(runs: Vec<RunCost>) -> Profile {
        let atom = |ms: f64| AtomCost { name: "atom".to_owned(), compute_ms: ms, ..AtomCost::default() };
        let raw = || vec![CodecCost { name: "raw".to_owned(), bytes: 1000, encode_ms: 0.1, decode_ms: 0.2 }];
        let cut = |after| CutCost { after, codecs: raw(), ..CutCost::default() };
        let atoms = [3.0, 2.0, 4.0].map(atom).into();
        Profile { format: FORMAT, atoms, cuts: vec![cut(0), cut(1)], runs, ..Profile::default() }
    }

    fn run(first: usize, last: usize, compute_ms: f64) -> RunCost {
        RunCost { atoms: [first, last], compute_ms }
    }

    #[test]
    fn a_plan_costs_what_its_stages_took_as_the_planner_would_say_itself() {
        let cluster = cluster();
        let options = Options::default();
        let expected = plan::place(&profile(Vec::new()), &cluster, &options).expect("it fits");
        assert_eq!(expected.stages[0].atoms, [0, 1]);
        let runs = vec![run(0, 1, 4.5), run(2, 2, 4.25)];
        let told = plan::place(&profile(runs.clone()), &cluster, &options).expect("it fits");
        let found = timed(expected, &runs, &cluster);
        assert_eq!(told.stages[0].atoms, [0, 1]);
        assert!((found.bottleneck_ms - told.bottleneck_ms).abs() < 1e-9, "{found:?}");
        assert!((found.latency_ms - told.latency_ms).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn the_plan_that_turned_out_best_is_kept_and_not_the_last() {
        let cluster = cluster();
        let plan = |runs: &[RunCost]| plan::place(&profile(runs.to_vec()), &cluster, &Options::default());
        let first = plan(&[]).expect("it fits");
        // The first plan's stages take longer than it thought, so the planner tries another, which is worse still.
        let after_first = [run(0, 1, 7.0), run(2, 2, 4.0)];
        let second = plan(&after_first).expect("it fits");
        assert_ne!(first.stages[0].atoms, second.stages[0].atoms);
        let all = [after_first[0], after_first[1], run(0, 0, 3.0), run(1, 2, 9.0)];
        let best = best(vec![first.clone(), second], &all, &cluster);
        assert_eq!(best.stages[0].atoms, first.stages[0].atoms);
        assert!((best.bottleneck_ms - (7.0 + 0.1) / 0.5).abs() < 1e-9 && best.lower_bound_ms <= best.bottleneck_ms);
    }
}
