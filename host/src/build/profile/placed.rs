//! Plans for a cluster: what is known of the network as a profile, placed, its stages timed, and placed again.

use super::{Figures, PLANNING, PLANS, Profiler, StageTimes};
use crate::build::BuildError;
use crate::relay::Codec;
use defer_partition::cluster::Cluster;
use defer_partition::plan::{self, Options, PlacedStage, Placement};
use std::ops::Range;
use std::time::Instant;

impl Profiler<'_, '_> {
    /// Where to cut for the machines of `cluster`, and which stage goes to which. Timed and planned again until the plan is
    /// made of stages that were timed; [`Profiler::survey`] must have been made before.
    pub fn place(&mut self, cluster: &Cluster, options: &Options) -> Result<(Figures, Placement), BuildError> {
        let started = Instant::now();
        let mut round = 0;
        let placement = loop {
            round += 1;
            let placement = plan::place(&self.profile(""), cluster, options)?;
            let runs: Vec<_> = placement.stages.iter().map(run).collect();
            let new = self.check(&runs)?;
            self.describe(round, &placement, &runs);
            // A plan whose stages were not all timed is off by what the fit is off by, which is little.
            if !new || round == PLANS || started.elapsed() > PLANNING {
                break placement;
            }
        };
        let (passage, count) = (self.passage(), self.pieces.count());
        let (receive, send) = self.codings.frame();
        let stage = |stage: &PlacedStage| {
            let speed = cluster.node(&stage.nodes[0]).map_or(1.0, |node| node.speed);
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
            lower_bound_ms: placement.lower_bound_ms,
            whole_ms: self.watch.whole_ms,
        };
        Ok((figures, placement))
    }

    /// From now on, plans may use no lossy codec but these on the hop behind `stage`; tells whether `stage` keeps to that.
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

/// The pieces of a stage.
fn run(stage: &PlacedStage) -> Range<usize> {
    let [first, last] = stage.atoms;
    first..last + 1
}
