//! Atoms in order, into a given number of equal stages, with the smallest bottleneck.
//!
//! A stage costs more than its atoms: at its edges an engine leaves the layout that it computes in, fuses nothing, and
//! hands tensors on. So each boundary has a cost of its own, half of which each stage beside a cut there bears. Where the
//! time of a whole run of atoms is known, it counts instead.

use std::collections::HashMap;
use std::ops::Range;

/// Where to cut, and how good that is.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// A cut after each of these atoms, strictly increasing; one fewer than stages.
    pub boundaries: Vec<usize>,
    /// Milliseconds of the slowest stage.
    pub bottleneck_ms: f64,
    /// By the times given for atoms no plan of any kind is faster than this: the larger of an even share and the slowest
    /// atom, in milliseconds; at most `bottleneck_ms`.
    pub lower_bound_ms: f64,
}

impl Plan {
    /// The atoms of each stage, of `atoms` in all.
    pub fn stages(&self, atoms: usize) -> Vec<Range<usize>> {
        let starts = std::iter::once(0).chain(self.boundaries.iter().map(|at| at + 1));
        let ends = self.boundaries.iter().map(|at| at + 1).chain([atoms]);
        starts.zip(ends).map(|(from, to)| from..to).collect()
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    #[error("cannot make 0 stages; ask for at least 1")]
    NoStages,
    #[error("cannot make {stages} stages of {atoms} fusion groups; ask for at most {atoms}")]
    TooManyStages { stages: usize, atoms: usize },
    #[error("the time of fusion group {atom} is {ms} ms, which is no duration; profile again")]
    Time { atom: usize, ms: f64 },
    #[error("the cost of a cut after fusion group {boundary} is {ms} ms, which is no duration; profile again")]
    Boundary { boundary: usize, ms: f64 },
    #[error("the time of fusion groups {from} to {to} together is {ms} ms, which is no duration; profile again")]
    Run { from: usize, to: usize, ms: f64 },
    #[error("{times} times need {} byte counts, one per boundary, and there are {bytes}", times.saturating_sub(1))]
    Bytes { times: usize, bytes: usize },
    #[error("{times} times need {} boundary costs, and there are {costs}", times.saturating_sub(1))]
    Boundaries { times: usize, costs: usize },
}

/// Plans whose bottleneck exceeds the best by no more than this share count as equally fast: profiles are noisier.
pub const EQUALLY_FAST: f64 = 0.01;
/// Room for the rounding of sums of durations.
const ROUNDING: f64 = 1e-12;

/// What is known of a chain of atoms.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Time of each atom in the middle of a stage.
    pub atoms_ms: Vec<f64>,
    /// What a cut after each atom but the last costs, half of it on either side; empty if cuts cost nothing.
    pub boundaries_ms: Vec<f64>,
    /// Bytes that cross each boundary when cut there; empty if that does not matter.
    pub crossing_bytes: Vec<u64>,
    /// Runs of atoms that were timed as one stage: this time counts.
    pub runs_ms: HashMap<Range<usize>, f64>,
}

impl Costs {
    /// Time of the atoms `run` as one stage.
    ///
    /// # Panics
    /// If `run` is not within the atoms.
    pub fn stage_ms(&self, run: Range<usize>) -> f64 {
        Sums::new(self).stage(run.start, run.end)
    }

    fn check(&self) -> Result<(), PlanError> {
        let atoms = self.atoms_ms.len();
        let wrong = |ms: &f64| !ms.is_finite() || *ms < 0.0;
        if let Some(atom) = self.atoms_ms.iter().position(wrong) {
            return Err(PlanError::Time { atom, ms: self.atoms_ms[atom] });
        }
        if let Some(boundary) = self.boundaries_ms.iter().position(wrong) {
            return Err(PlanError::Boundary { boundary, ms: self.boundaries_ms[boundary] });
        }
        if let Some((run, &ms)) = self.runs_ms.iter().find(|(_, ms)| wrong(ms)) {
            return Err(PlanError::Run { from: run.start, to: run.end, ms });
        }
        let fits = |len: usize| len == 0 || len == atoms - 1;
        if !fits(self.crossing_bytes.len()) {
            return Err(PlanError::Bytes { times: atoms, bytes: self.crossing_bytes.len() });
        }
        if !fits(self.boundaries_ms.len()) {
            return Err(PlanError::Boundaries { times: atoms, costs: self.boundaries_ms.len() });
        }
        Ok(())
    }
}

/// Splits the atoms into `stages` contiguous runs so that the slowest is as fast as possible (exact).
///
/// With `crossing_bytes`, the plan is the one with the fewest bytes among those within [`EQUALLY_FAST`] of the best
/// bottleneck. Ties go to the most even plan (least sum of squared times), then to the earliest cuts.
pub fn min_max(costs: &Costs, stages: usize) -> Result<Plan, PlanError> {
    let atoms = costs.atoms_ms.len();
    if stages == 0 {
        return Err(PlanError::NoStages);
    }
    if stages > atoms {
        return Err(PlanError::TooManyStages { stages, atoms });
    }
    costs.check()?;
    let sums = Sums::new(costs);
    let best = sums.best_bottleneck(stages);
    let slack = if costs.crossing_bytes.is_empty() { ROUNDING } else { EQUALLY_FAST };
    let boundaries = sums.best_cuts(&costs.crossing_bytes, stages, best * (1.0 + slack));

    let slowest = costs.atoms_ms.iter().copied().fold(0.0, f64::max);
    let share = sums.atoms(0, atoms) / stages as f64;
    let mut plan = Plan { boundaries, bottleneck_ms: 0.0, lower_bound_ms: slowest.max(share) };
    let times = plan.stages(atoms).into_iter().map(|run| sums.stage(run.start, run.end));
    plan.bottleneck_ms = times.fold(0.0, f64::max);
    // Prefix sums round, and a run may have been faster than its atoms; the bound must not exceed what was reached.
    plan.lower_bound_ms = plan.lower_bound_ms.min(plan.bottleneck_ms);
    Ok(plan)
}

/// Prefix sums of the atoms' times, beside what else a stage costs.
struct Sums<'a> {
    costs: &'a Costs,
    sums: Vec<f64>,
    /// By how much a timed run is faster than its atoms, at most.
    faster: f64,
}

impl<'a> Sums<'a> {
    fn new(costs: &'a Costs) -> Self {
        let mut sums = vec![0.0];
        let mut total = 0.0;
        sums.extend(costs.atoms_ms.iter().map(|ms| {
            total += ms;
            total
        }));
        let mut sums = Self { costs, sums, faster: 0.0 };
        let inside = costs.runs_ms.iter().filter(|(run, _)| run.end <= sums.count());
        sums.faster = inside.map(|(run, ms)| sums.atoms(run.start, run.end) - ms).fold(0.0, f64::max);
        sums
    }

    fn count(&self) -> usize {
        self.sums.len() - 1
    }

    /// Time of atoms `from..to`, nothing else.
    fn atoms(&self, from: usize, to: usize) -> f64 {
        self.sums[to] - self.sums[from]
    }

    /// Time of a stage of atoms `from..to`.
    fn stage(&self, from: usize, to: usize) -> f64 {
        if let Some(&ms) = self.costs.runs_ms.get(&(from..to)) {
            return ms;
        }
        let boundary = |at: usize| self.costs.boundaries_ms.get(at).map_or(0.0, |ms| ms / 2.0);
        let enter = if from == 0 { 0.0 } else { boundary(from - 1) };
        // The last atom has no boundary after it.
        enter + self.atoms(from, to) + boundary(to - 1)
    }

    /// Whether no stage of `from..to`, and none that starts earlier, can be within `limit`.
    fn exceeds(&self, from: usize, to: usize, limit: f64) -> bool {
        self.atoms(from, to) - self.faster > limit
    }

    /// The smallest bottleneck, by dynamic programming: `best[j]` after round k is that of atoms `0..j` in k stages.
    fn best_bottleneck(&self, stages: usize) -> f64 {
        let n = self.count();
        let mut best: Vec<f64> = (0..=n).map(|j| if j == 0 { 0.0 } else { self.stage(0, j) }).collect();
        for k in 2..=stages {
            let place = |j: usize| {
                let mut least = f64::INFINITY;
                // Fewer atoms than stages make no plan.
                for i in (k - 1..j).rev() {
                    if self.exceeds(i, j, least) {
                        break;
                    }
                    least = least.min(best[i].max(self.stage(i, j)));
                }
                least
            };
            best = (0..=n).map(place).collect();
        }
        best[n]
    }

    /// Cuts into stages no slower than `limit`, with the fewest bytes crossing, then the least sum of squares.
    fn best_cuts(&self, crossing_bytes: &[u64], stages: usize, limit: f64) -> Vec<usize> {
        let n = self.count();
        let mut cost: Vec<Option<Cost>> = vec![None; n + 1];
        cost[0] = Some(Cost { bytes: 0, squares: 0.0 });
        let mut cuts: Vec<Vec<usize>> = Vec::with_capacity(stages);
        for k in 1..=stages {
            let mut next: Vec<Option<Cost>> = vec![None; n + 1];
            let mut from = vec![0; n + 1];
            for j in k..=n {
                for i in (k - 1..j).rev() {
                    if self.exceeds(i, j, limit) {
                        break;
                    }
                    let time = self.stage(i, j);
                    let (Some(before), true) = (cost[i], time <= limit) else { continue };
                    let crossing = if i == 0 { 0 } else { crossing_bytes.get(i - 1).copied().unwrap_or(0) };
                    let here =
                        Cost { bytes: before.bytes + u128::from(crossing), squares: before.squares + time * time };
                    if next[j].is_none_or(|known| here.beats(known)) {
                        next[j] = Some(here);
                        from[j] = i;
                    }
                }
            }
            cost = next;
            cuts.push(from);
        }
        let mut boundaries = Vec::with_capacity(stages - 1);
        let mut j = n;
        for from in cuts.iter().skip(1).rev() {
            j = from[j];
            boundaries.push(j - 1);
        }
        boundaries.reverse();
        boundaries
    }
}

#[derive(Clone, Copy)]
struct Cost {
    bytes: u128,
    squares: f64,
}

impl Cost {
    /// Ties count as better: the caller tries later cuts first.
    fn beats(self, other: Self) -> bool {
        self.bytes < other.bytes || (self.bytes == other.bytes && self.squares <= other.squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Atoms of these times, and cuts that cost nothing.
    fn free(atoms_ms: &[f64], crossing_bytes: &[u64]) -> Costs {
        Costs { atoms_ms: atoms_ms.to_vec(), crossing_bytes: crossing_bytes.to_vec(), ..Costs::default() }
    }

    #[test]
    fn impossible_plans_say_why() {
        assert_eq!(min_max(&free(&[1.0], &[]), 0), Err(PlanError::NoStages));
        let error = min_max(&free(&[1.0, 2.0], &[]), 3).unwrap_err().to_string();
        assert!(error.contains('3') && error.contains('2'), "{error}");
        assert!(matches!(min_max(&free(&[1.0, f64::NAN], &[]), 1), Err(PlanError::Time { atom: 1, .. })));
        assert!(matches!(min_max(&free(&[-1.0], &[]), 1), Err(PlanError::Time { atom: 0, .. })));
        assert!(matches!(min_max(&free(&[1.0, 1.0], &[1, 2]), 1), Err(PlanError::Bytes { .. })));
        let costs = |boundaries_ms: &[f64]| Costs { boundaries_ms: boundaries_ms.to_vec(), ..free(&[1.0, 1.0], &[]) };
        assert!(matches!(min_max(&costs(&[1.0, 1.0]), 1), Err(PlanError::Boundaries { .. })));
        assert!(matches!(min_max(&costs(&[-0.5]), 1), Err(PlanError::Boundary { boundary: 0, .. })));
        let run = Costs { runs_ms: HashMap::from([(0..2, f64::INFINITY)]), ..free(&[1.0, 1.0], &[]) };
        assert!(matches!(min_max(&run, 1), Err(PlanError::Run { from: 0, to: 2, .. })));
    }

    #[test]
    fn equal_bottlenecks_are_told_apart_by_evenness_and_by_bytes() {
        let even = min_max(&free(&[10.0, 1.0, 1.0, 1.0, 1.0], &[]), 3).unwrap();
        assert_eq!(even.boundaries, [0, 2]);
        let times = [1.0, 0.005, 1.0];
        assert_eq!(min_max(&free(&times, &[]), 2).unwrap().boundaries, [0]);
        let few = min_max(&free(&times, &[100, 1]), 2).unwrap();
        assert_eq!(few.boundaries, [1]);
        assert_eq!((few.bottleneck_ms, few.lower_bound_ms), (1.005, 1.0025));
    }

    #[test]
    fn a_dear_boundary_is_avoided_and_a_timed_run_counts_as_timed() {
        let mut costs = Costs { boundaries_ms: vec![0.1, 3.0, 0.1], ..free(&[1.0, 1.0, 1.0, 1.0], &[]) };
        let plan = min_max(&costs, 2).unwrap();
        assert_eq!((plan.boundaries.as_slice(), plan.bottleneck_ms), ([0].as_slice(), 3.05));
        assert_eq!(plan.stages(4), [0..1, 1..4]);
        // What was timed turns out faster than it looked.
        costs.runs_ms = HashMap::from([(0..2, 2.0), (2..4, 2.1)]);
        let plan = min_max(&costs, 2).unwrap();
        assert_eq!((plan.boundaries.as_slice(), plan.bottleneck_ms), ([1].as_slice(), 2.1));
        assert_eq!(costs.stage_ms(0..3), 3.05);
    }

    /// Bottleneck of the best plan, and fewest bytes of those whose bottleneck is within `limit`, by trying every choice
    /// of cuts. What a stage costs is written down anew here.
    fn brute_force(costs: &Costs, stages: usize, limit: f64) -> (f64, u64) {
        fn stage(costs: &Costs, from: usize, to: usize) -> f64 {
            if let Some(ms) = costs.runs_ms.get(&(from..to)) {
                return *ms;
            }
            let mut ms: f64 = costs.atoms_ms[from..to].iter().sum();
            if !costs.boundaries_ms.is_empty() {
                ms += if from > 0 { costs.boundaries_ms[from - 1] / 2.0 } else { 0.0 };
                ms += if to < costs.atoms_ms.len() { costs.boundaries_ms[to - 1] / 2.0 } else { 0.0 };
            }
            ms
        }
        fn rest(costs: &Costs, from: usize, stages: usize, so_far: (f64, u64), limit: f64, best: &mut (f64, u64)) {
            let n = costs.atoms_ms.len();
            if stages == 1 {
                let bottleneck = so_far.0.max(stage(costs, from, n));
                best.0 = best.0.min(bottleneck);
                if bottleneck <= limit {
                    best.1 = best.1.min(so_far.1);
                }
                return;
            }
            for to in from + 1..=n - (stages - 1) {
                let bytes = costs.crossing_bytes.get(to - 1).copied().unwrap_or(0);
                let next = (so_far.0.max(stage(costs, from, to)), so_far.1 + bytes);
                rest(costs, to, stages - 1, next, limit, best);
            }
        }
        let mut best = (f64::INFINITY, u64::MAX);
        rest(costs, 0, stages, (0.0, 0), limit, &mut best);
        best
    }

    /// Some atoms, with costs and bytes of boundaries and some timed runs, each of which may be missing.
    fn costs() -> impl Strategy<Value = Costs> {
        let atoms = prop::collection::vec(0u16..50, 1..11);
        let runs = prop::collection::vec((0usize..11, 1usize..11, 0u16..150), 0..6);
        (atoms, any::<[u8; 10]>(), 0u8..3, any::<[u8; 10]>(), any::<bool>(), runs).prop_map(
            |(atoms, dear, scale, bytes, count, runs)| {
                let n = atoms.len();
                let mut costs = free(&atoms.iter().copied().map(f64::from).collect::<Vec<_>>(), &[]);
                if scale > 0 {
                    // Whole halves: sums are exact.
                    costs.boundaries_ms = dear[..n - 1].iter().map(|ms| f64::from(ms % (20 * scale))).collect();
                }
                if count {
                    costs.crossing_bytes = bytes[..n - 1].iter().map(|b| u64::from(*b)).collect();
                }
                let inside = runs.into_iter().filter(|(from, len, _)| from + len <= n);
                costs.runs_ms = inside.map(|(from, len, ms)| (from..from + len, f64::from(ms))).collect();
                costs
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn no_plan_beats_the_planner(costs in costs(), stages in 1usize..6) {
            prop_assume!(stages <= costs.atoms_ms.len());
            let (best, _) = brute_force(&costs, stages, 0.0);
            let plain = Costs { crossing_bytes: Vec::new(), ..costs.clone() };
            let plan = min_max(&plain, stages).unwrap();
            prop_assert_eq!(plan.boundaries.len(), stages - 1);
            prop_assert!(plan.boundaries.windows(2).all(|w| w[0] < w[1]));
            prop_assert!((plan.bottleneck_ms - best).abs() <= 1e-9, "{} against {}", plan.bottleneck_ms, best);
            prop_assert!(plan.lower_bound_ms <= plan.bottleneck_ms);
            let slowest = plan.stages(costs.atoms_ms.len()).into_iter().map(|run| costs.stage_ms(run)).fold(0.0, f64::max);
            prop_assert!((plan.bottleneck_ms - slowest).abs() <= 1e-9);

            if !costs.crossing_bytes.is_empty() {
                let cheap = min_max(&costs, stages).unwrap();
                let limit = best * (1.0 + EQUALLY_FAST);
                let (_, fewest) = brute_force(&costs, stages, limit);
                prop_assert!(cheap.bottleneck_ms <= limit + 1e-9);
                let bytes: u64 = cheap.boundaries.iter().map(|b| costs.crossing_bytes[*b]).sum();
                prop_assert_eq!(bytes, fewest);
            }
        }
    }
}
