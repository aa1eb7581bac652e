//! What a stage costs its node: computing, and taking in and sending on what crosses its cuts.

use super::fit::Fit;
use defer_partition::plan::Costs;
use std::collections::HashMap;
use std::ops::Range;

/// What the relay takes of a node's time at each place where a stage may begin or end: index 0 is the network's
/// beginning, the last its end.
pub(super) struct Passage {
    /// Of a stage that begins there; nothing at the end.
    pub enter_ms: Vec<f64>,
    /// Of a stage that ends there; nothing at the beginning.
    pub leave_ms: Vec<f64>,
}

/// The planner's costs. It knows pieces, and boundaries whose cost falls on both sides in equal parts: where entering and
/// leaving differ, the pieces on either side make up for it. `timed` stages count with what they took.
pub(super) fn with_passage(
    fit: &Fit,
    passage: &Passage,
    timed: &HashMap<Range<usize>, f64>,
    crossing_bytes: Vec<u64>,
) -> Costs {
    let count = fit.pieces_ms.len();
    let Passage { enter_ms, leave_ms } = passage;
    // Where each boundary lies on the line of all work.
    let mut done = 0.0;
    let mut reached = -enter_ms[0];
    let mut atoms_ms = Vec::with_capacity(count);
    for (piece, ms) in fit.pieces_ms.iter().enumerate() {
        done += ms;
        let at = piece + 1;
        let shift = if at == count { leave_ms[at] } else { (leave_ms[at] - enter_ms[at]) / 2.0 };
        // No piece takes less than no time.
        let place = (done + shift).max(reached);
        atoms_ms.push(place - reached);
        reached = place;
    }
    let boundary = |(at, ms): (usize, &f64)| ms + enter_ms[at + 1] + leave_ms[at + 1];
    let stage = |(run, ms): (&Range<usize>, &f64)| (run.clone(), ms + enter_ms[run.start] + leave_ms[run.end]);
    Costs {
        atoms_ms,
        boundaries_ms: fit.boundaries_ms.iter().enumerate().map(boundary).collect(),
        crossing_bytes,
        runs_ms: timed.iter().map(stage).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_bears_what_it_takes_in_what_it_computes_and_what_it_sends() {
        let fit = Fit { pieces_ms: vec![3.0, 2.0, 4.0, 1.0], boundaries_ms: vec![0.2, 0.4, 0.6] };
        let passage = Passage { enter_ms: vec![0.5, 1.0, 0.1, 0.3, 0.0], leave_ms: vec![0.0, 0.4, 1.1, 0.2, 0.7] };
        let timed = HashMap::from([(1..3, 7.5)]);
        let costs = with_passage(&fit, &passage, &timed, vec![1, 2, 3]);
        for from in 0..4 {
            for to in from + 1..=4 {
                let half = |at: usize| if at == 0 || at == 4 { 0.0 } else { fit.boundaries_ms[at - 1] / 2.0 };
                let computed = match timed.get(&(from..to)) {
                    Some(ms) => *ms,
                    None => half(from) + fit.pieces_ms[from..to].iter().sum::<f64>() + half(to),
                };
                let want = passage.enter_ms[from] + computed + passage.leave_ms[to];
                let got = costs.stage_ms(from..to);
                assert!((got - want).abs() < 1e-9, "{from}..{to}: {got} instead of {want}");
            }
        }
    }
}
