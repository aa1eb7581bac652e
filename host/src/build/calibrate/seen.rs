//! How far off answers to calibration inputs were, and how far off those to other inputs can then be expected to be.

use crate::accuracy::{Budget, Deviation};
use crate::build::BuildError;
use crate::engine::Named;

/// Other inputs are not the calibration's: errors so many times as large as those seen there must keep to a budget of errors,
/// however much alike the inputs were …
const LEAST_MARGIN: f64 = 2.0;
/// … and so many times for a budget of agreement, of which inputs tell no spread, or where inputs are too few to tell theirs.
const MARGIN: f64 = 4.0;
/// A budget of errors must also hold what at most one input in a thousand exceeds, with a confidence of 95 %, if the logarithms
/// of the inputs' errors are normally distributed. Some networks round all inputs alike, others hardly any but a few: what a
/// softmax says where it is unsure has a long tail. These are the normal distribution's 0.999 and 0.95 points.
const RARE: f64 = 3.090;
const SURE: f64 = 1.645;
/// Fewer inputs than this tell nothing of how errors are spread.
const ENOUGH: usize = 5;
/// Errors below this are as good as none.
const NOTHING: f64 = 1e-6;

/// How far off the answers to calibration inputs were.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) plain: Deviation,
    /// With errors taken so many times as the margin says.
    pub(super) stretched: Deviation,
    /// Of each input, the largest relative error.
    pub(super) errors: Vec<f64>,
}

impl Seen {
    pub(super) fn add(&mut self, whole: &[Named], chain: &[Named], margin: f64) -> Result<(), BuildError> {
        let plain = deviation(whole, chain, 1.0)?;
        self.plain.add(&plain);
        self.stretched.add(&deviation(whole, chain, margin)?);
        self.errors.push(plain.max_relative_error);
        Ok(())
    }

    /// Whether other inputs, too, can be expected to keep to the budget.
    pub(super) fn is_within(&self, budget: &Budget) -> bool {
        let tail = match budget {
            Budget::MaxRelativeError(limit) => tail(&self.errors) <= *limit,
            Budget::Top1Agreement(_) => true,
        };
        tail && budget.admits(&self.stretched)
    }

    /// Whether no further answer can bring it back into the budget.
    pub(super) fn is_hopeless(&self, budget: &Budget) -> bool {
        matches!(budget, Budget::MaxRelativeError(_)) && !budget.admits(&self.stretched)
    }
}

/// How many times as large as in calibration errors are taken to be.
pub(super) fn margin(budget: &Budget, inputs: usize) -> f64 {
    match budget {
        Budget::MaxRelativeError(_) if inputs >= ENOUGH => LEAST_MARGIN,
        _ => MARGIN,
    }
}

/// What at most one input in a thousand exceeds: see [`RARE`].
pub(super) fn tail(errors: &[f64]) -> f64 {
    let logs: Vec<f64> = errors.iter().map(|error| error.max(NOTHING).ln()).collect();
    let count = logs.len().max(1) as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean + deviations(logs.len()) * variance.sqrt()).exp()
}

/// So many standard deviations above the mean lies a one-sided tolerance limit (Natrella, Experimental Statistics, 1963, 2-5):
/// the fewer the inputs, the less their own deviation is to be trusted.
fn deviations(inputs: usize) -> f64 {
    let count = inputs.max(ENOUGH) as f64;
    let a = 1.0 - SURE.powi(2) / (2.0 * (count - 1.0));
    let b = RARE.powi(2) - SURE.powi(2) / count;
    (RARE + (RARE.powi(2) - a * b).sqrt()) / a
}

pub(super) fn deviation(whole: &[Named], chain: &[Named], stretch: f64) -> Result<Deviation, BuildError> {
    Deviation::of(whole, chain, stretch).map_err(|cause| BuildError::Incomparable { cause })
}

#[cfg(test)]
mod tests {
    use super::{deviations, tail};

    #[test]
    fn inputs_that_differ_widely_let_worse_ones_be_expected() {
        let alike = tail(&[1e-3, 1.1e-3, 0.9e-3, 1e-3]);
        let apart = tail(&[1e-3, 1e-4, 1e-5, 1e-4]);
        assert!(alike < 2e-3 && apart > 1e-2, "{alike} {apart}");
        assert!(tail(&[0.0, 0.0]) < 1e-5);
        // By the tables for 0.999 and 0.95.
        for (inputs, factor) in [(6, 6.61), (15, 4.61), (50, 3.77)] {
            assert!((deviations(inputs) - factor).abs() < 0.06, "{inputs}: {}", deviations(inputs));
        }
        let broken = tail(&[f64::INFINITY, 1e-3]);
        assert!(broken.is_nan() || broken > 0.01, "{broken}");
    }
}
