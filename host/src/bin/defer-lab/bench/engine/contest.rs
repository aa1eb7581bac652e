//! Things that are timed against each other.
//!
//! Times are CPU times of whole processes, each with one thread that computes: on a machine that does other work as well,
//! wall time measures the scheduler. What is left of the other work (caches, memory, the core's other half) changes within
//! seconds and hits neighbours alike, so the contestants take turns: forth, then back. Of a contestant's times the tenth
//! part is shorter than the one that counts: disturbances only ever add time, and the very shortest is luck.

use anyhow::Result;

/// Which of its times stands for a contestant.
const QUANTILE: f64 = 0.1;
/// The ratio is also told for each of so many parts of the contest, to show how steady it is.
const PARTS: usize = 4;

pub trait Contestant {
    /// Runs once; CPU time of each of its steps, in ms.
    fn run(&mut self) -> Result<Vec<f64>>;
}

/// Times of one contestant: of each run, of each step.
#[derive(Debug, Default)]
pub struct Times(Vec<Vec<f64>>);

impl Times {
    /// The time that counts, of all steps together, in ms.
    pub fn ms(&self) -> f64 {
        self.of(&self.0)
    }

    /// The time that counts of each step, in ms.
    pub fn steps_ms(&self) -> Vec<f64> {
        let steps = self.0.first().map_or(0, Vec::len);
        (0..steps).map(|step| low(self.0.iter().map(|run| run[step]).collect())).collect()
    }

    fn of(&self, runs: &[Vec<f64>]) -> f64 {
        low(runs.iter().map(|steps| steps.iter().sum()).collect())
    }

    /// The least and the largest ratio to `other` among the parts of the contest.
    pub fn spread(&self, other: &Self) -> (f64, f64) {
        let part = self.0.len().div_ceil(PARTS).max(1);
        let ratios = self.0.chunks(part).zip(other.0.chunks(part)).map(|(a, b)| self.of(a) / self.of(b));
        ratios.fold((f64::INFINITY, 0.0), |(least, largest), ratio| (least.min(ratio), largest.max(ratio)))
    }
}

fn low(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let at = (times.len().saturating_sub(1) as f64 * QUANTILE).round() as usize;
    times.get(at).copied().unwrap_or(f64::NAN)
}

/// Runs all `contestants` once, uncounted, then `rounds` times forth and back.
pub fn hold<const N: usize>(contestants: [&mut dyn Contestant; N], rounds: u32) -> Result<[Times; N]> {
    let mut contestants = contestants;
    let mut times = [(); N].map(|()| Times::default());
    for contestant in &mut contestants {
        contestant.run()?;
    }
    for _ in 0..rounds {
        for at in (0..N).chain((0..N).rev()) {
            times[at].0.push(contestants[at].run()?);
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter<'a>(&'a std::cell::RefCell<String>, char);

    impl Contestant for Counter<'_> {
        fn run(&mut self) -> Result<Vec<f64>> {
            self.0.borrow_mut().push(self.1);
            Ok(vec![1.0, self.0.borrow().len() as f64])
        }
    }

    #[test]
    fn contestants_take_turns_forth_and_back() {
        let order = std::cell::RefCell::default();
        let times = hold([&mut Counter(&order, 'a'), &mut Counter(&order, 'b')], 2).unwrap();
        assert_eq!(*order.borrow(), "ababbaabba"[..2].to_owned() + "abbaabba");
        assert_eq!(times[0].0, [[1.0, 3.0], [1.0, 6.0], [1.0, 7.0], [1.0, 10.0]]);
    }

    #[test]
    fn neither_luck_nor_disturbance_counts() {
        let times = |base: f64| {
            Times((0..40).map(|run| vec![if run == 7 { 0.1 } else { base + f64::from(run % 10) }]).collect())
        };
        assert_eq!((times(10.0).ms(), times(20.0).ms()), (10.0, 20.0));
        let (least, largest) = times(10.0).spread(&times(20.0));
        assert!((0.5..=largest).contains(&least) && largest < 0.53, "{least} {largest}");
    }
}
