//! Whether a node has become slower than it was, as small machines do when they get hot: what a stage takes to compute now,
//! against what the same stage took when it was new here.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// First computations that are left out: caches are cold, memory is allocated.
const SKIPPED: usize = 16;
/// Computations whose median is taken, early and recent ones.
const WINDOW: usize = 64;

/// Compute times of one stage.
#[derive(Debug, Default)]
pub struct Drift(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    skipped: usize,
    early_ns: Vec<u64>,
    /// None of them is among the early ones.
    recent_ns: VecDeque<u64>,
}

impl Drift {
    pub fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.skipped < SKIPPED {
            times.skipped += 1;
        } else if times.early_ns.len() < WINDOW {
            times.early_ns.push(ns);
        } else {
            if times.recent_ns.len() == WINDOW {
                times.recent_ns.pop_front();
            }
            times.recent_ns.push_back(ns);
        }
    }

    /// Median time of the latest 64 computations over that of 64 early ones (the 17th to the 80th): 1 is as fast as ever, 2
    /// takes twice as long. `None` before there were 144.
    pub fn ratio(&self) -> Option<f64> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.recent_ns.len() < WINDOW {
            return None;
        }
        ratio(times.early_ns.clone(), times.recent_ns.iter().copied().collect())
    }
}

/// Median of `recent` over that of `early`; `None` where one is empty, or took no time.
fn ratio(early: Vec<u64>, recent: Vec<u64>) -> Option<f64> {
    let median = |mut times: Vec<u64>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().filter(|ns| *ns > 0)
    };
    Some(median(recent)? as f64 / median(early)? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared() {
        for (early, recent, want) in [
            (vec![10, 10, 10], vec![20, 20, 20], Some(2.0)),
            (vec![10, 10, 1_000], vec![10, 10, 5_000], Some(1.0)),
            (vec![40, 20, 30], vec![15], Some(0.5)),
            (vec![], vec![15], None),
            (vec![15], vec![], None),
            (vec![0], vec![15], None),
        ] {
            assert_eq!(ratio(early.clone(), recent.clone()), want, "{early:?} {recent:?}");
        }
    }

    #[test]
    fn it_says_nothing_until_it_has_seen_enough_and_then_follows() {
        let drift = Drift::default();
        let take = |count: usize, us: u64| (0..count).for_each(|_| drift.record(Duration::from_micros(us)));
        take(SKIPPED, 9_000);
        take(WINDOW, 100);
        take(WINDOW - 1, 100);
        assert_eq!(drift.ratio(), None);
        take(1, 100);
        assert_eq!(drift.ratio(), Some(1.0));
        take(WINDOW, 150);
        assert_eq!(drift.ratio(), Some(1.5));
        take(WINDOW, 100);
        assert_eq!(drift.ratio(), Some(1.0), "it got cool again");
    }
}
