//! The first planner: atoms in order, into a given number of stages, with the smallest bottleneck.

/// Where to cut, and how good that is.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// A cut after each of these atoms, strictly increasing; one fewer than stages.
    pub boundaries: Vec<usize>,
    /// Milliseconds of the slowest stage.
    pub bottleneck_ms: f64,
    /// No plan of any kind is faster than this: the larger of an even share and the slowest atom, in milliseconds.
    pub lower_bound_ms: f64,
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
    #[error("{times} times need {} byte counts, one per boundary, and there are {bytes}", times.saturating_sub(1))]
    Bytes { times: usize, bytes: usize },
}

/// Plans whose bottleneck exceeds the best by no more than this share count as equally fast: profiles are noisier.
const EQUALLY_FAST: f64 = 0.01;
/// Room for the rounding of sums of durations.
const ROUNDING: f64 = 1e-12;

/// Splits atoms of `times_ms` into `stages` contiguous runs so that the slowest run is as fast as possible (exact).
///
/// `crossing_bytes` has one entry per boundary (bytes that cross it when cut there), or is empty. With it, the plan is
/// the one with the fewest bytes among those within 1 % of the best bottleneck. Ties go to the most even plan (least
/// sum of squared times), then to the earliest cuts.
pub fn min_max(times_ms: &[f64], crossing_bytes: &[u64], stages: usize) -> Result<Plan, PlanError> {
    let atoms = times_ms.len();
    if stages == 0 {
        return Err(PlanError::NoStages);
    }
    if stages > atoms {
        return Err(PlanError::TooManyStages { stages, atoms });
    }
    if let Some((atom, &ms)) = times_ms.iter().enumerate().find(|(_, ms)| !ms.is_finite() || **ms < 0.0) {
        return Err(PlanError::Time { atom, ms });
    }
    if !crossing_bytes.is_empty() && crossing_bytes.len() != atoms - 1 {
        return Err(PlanError::Bytes { times: atoms, bytes: crossing_bytes.len() });
    }
    let sums = Sums::new(times_ms);
    let best = sums.best_bottleneck(stages);
    let slack = if crossing_bytes.is_empty() { ROUNDING } else { EQUALLY_FAST };
    let boundaries = sums.best_cuts(crossing_bytes, stages, best * (1.0 + slack));

    let mut ends = boundaries.clone();
    ends.push(atoms - 1);
    let mut from = 0;
    let mut bottleneck_ms = 0.0f64;
    for end in ends {
        bottleneck_ms = bottleneck_ms.max(sums.between(from, end + 1));
        from = end + 1;
    }
    let slowest = times_ms.iter().copied().fold(0.0, f64::max);
    let lower_bound_ms = slowest.max(sums.between(0, atoms) / stages as f64);
    // Prefix sums round; the bound must not exceed what was reached.
    Ok(Plan { boundaries, bottleneck_ms, lower_bound_ms: lower_bound_ms.min(bottleneck_ms) })
}

/// Prefix sums of the atoms' times.
struct Sums(Vec<f64>);

impl Sums {
    fn new(times_ms: &[f64]) -> Self {
        let mut sums = vec![0.0];
        let mut total = 0.0;
        sums.extend(times_ms.iter().map(|ms| {
            total += ms;
            total
        }));
        Self(sums)
    }

    fn atoms(&self) -> usize {
        self.0.len() - 1
    }

    /// Time of atoms `from..to`.
    fn between(&self, from: usize, to: usize) -> f64 {
        self.0[to] - self.0[from]
    }

    /// `best[j]` after round k: the smallest bottleneck of atoms `0..j` in k stages. For a fixed j, the last stage gets
    /// faster and the rest slower as the last cut moves right, so the best cut is where the two meet: found by halving.
    fn best_bottleneck(&self, stages: usize) -> f64 {
        let n = self.atoms();
        let mut best: Vec<f64> = (0..=n).map(|j| self.between(0, j)).collect();
        for k in 2..=stages {
            // Fewer atoms than stages make no plan.
            let place = |j: usize| {
                if j < k {
                    return f64::INFINITY;
                }
                let (mut low, mut high) = (k - 1, j - 1);
                while low < high {
                    let middle = (low + high) / 2;
                    match best[middle] >= self.between(middle, j) {
                        true => high = middle,
                        false => low = middle + 1,
                    }
                }
                let at = |i: usize| best[i].max(self.between(i, j));
                if low > k - 1 { at(low).min(at(low - 1)) } else { at(low) }
            };
            best = (0..=n).map(place).collect();
        }
        best[n]
    }

    /// Cuts into stages no slower than `limit`, with the fewest bytes crossing, then the least sum of squares.
    fn best_cuts(&self, crossing_bytes: &[u64], stages: usize, limit: f64) -> Vec<usize> {
        let n = self.atoms();
        let mut cost: Vec<Option<Cost>> = vec![None; n + 1];
        cost[0] = Some(Cost { bytes: 0, squares: 0.0 });
        let mut cuts: Vec<Vec<usize>> = Vec::with_capacity(stages);
        for k in 1..=stages {
            let mut next: Vec<Option<Cost>> = vec![None; n + 1];
            let mut from = vec![0; n + 1];
            for j in k..=n {
                for i in (k - 1..j).rev() {
                    let time = self.between(i, j);
                    if time > limit {
                        break;
                    }
                    let Some(before) = cost[i] else { continue };
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

    #[test]
    fn impossible_plans_say_why() {
        assert_eq!(min_max(&[1.0], &[], 0), Err(PlanError::NoStages));
        let error = min_max(&[1.0, 2.0], &[], 3).unwrap_err().to_string();
        assert!(error.contains('3') && error.contains('2'), "{error}");
        assert!(matches!(min_max(&[1.0, f64::NAN], &[], 1), Err(PlanError::Time { atom: 1, .. })));
        assert!(matches!(min_max(&[-1.0], &[], 1), Err(PlanError::Time { atom: 0, .. })));
        assert!(matches!(min_max(&[1.0, 1.0], &[1, 2], 1), Err(PlanError::Bytes { .. })));
    }

    #[test]
    fn equal_bottlenecks_are_told_apart_by_evenness_and_by_bytes() {
        let even = min_max(&[10.0, 1.0, 1.0, 1.0, 1.0], &[], 3).unwrap();
        assert_eq!(even.boundaries, [0, 2]);
        let times = [1.0, 0.005, 1.0];
        assert_eq!(min_max(&times, &[], 2).unwrap().boundaries, [0]);
        let few = min_max(&times, &[100, 1], 2).unwrap();
        assert_eq!(few.boundaries, [1]);
        assert_eq!((few.bottleneck_ms, few.lower_bound_ms), (1.005, 1.0025));
    }

    /// The best bottleneck by trying every choice of cuts.
    fn brute_force(times: &[f64], stages: usize) -> f64 {
        let all: f64 = times.iter().sum();
        if stages == 1 {
            return all;
        }
        (1..=times.len() - (stages - 1))
            .map(|head| times[..head].iter().sum::<f64>().max(brute_force(&times[head..], stages - 1)))
            .fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #[test]
        fn no_plan_beats_the_planner(times in prop::collection::vec(0u16..50, 1..11), stages in 1usize..6, bytes: [u8; 10]) {
            let times: Vec<f64> = times.into_iter().map(f64::from).collect();
            prop_assume!(stages <= times.len());
            let best = brute_force(&times, stages);
            let plan = min_max(&times, &[], stages).unwrap();
            prop_assert_eq!(plan.boundaries.len(), stages - 1);
            prop_assert!(plan.boundaries.windows(2).all(|w| w[0] < w[1]));
            prop_assert!((plan.bottleneck_ms - best).abs() <= 1e-9, "{} against {}", plan.bottleneck_ms, best);
            prop_assert!(plan.lower_bound_ms <= plan.bottleneck_ms);
            let bytes: Vec<u64> = bytes[..times.len() - 1].iter().map(|b| u64::from(*b)).collect();
            let cheap = min_max(&times, &bytes, stages).unwrap();
            prop_assert!(cheap.bottleneck_ms <= best * 1.01 + 1e-9);
            let cost = |plan: &Plan| plan.boundaries.iter().map(|b| bytes[*b]).sum::<u64>();
            prop_assert!(cost(&cheap) <= cost(&plan));
        }
    }
}
