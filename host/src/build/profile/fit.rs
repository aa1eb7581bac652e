//! What a stage costs, from the times of many runs of pieces that overlap.
//!
//! A stage's time is taken to be what its end is worth less what its start is worth: `end(j) - start(i)` for the pieces
//! `i..j`. That says that pieces cost the same in every stage, and that each boundary has a cost of its own,
//! `end(k) - start(k)`: an engine leaves the layout that it computes in, cannot fuse, and copies. Least squares over all
//! that was timed settles the values, by conjugate gradients (Hestenes and Stiefel, 1952).

use std::ops::Range;

/// Residual at which the solution counts as found, relative to the first.
const TOLERANCE: f64 = 1e-10;

/// Costs of pieces and boundaries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fit {
    pub pieces_ms: Vec<f64>,
    /// One fewer than pieces.
    pub boundaries_ms: Vec<f64>,
}

/// Fits `count` pieces to `runs`, of which one should be all of them. What no run tells counts as nothing.
pub(super) fn fit(count: usize, runs: &[(Range<usize>, f64)]) -> Fit {
    // The value of start k is at k, that of end k at count + 1 + k.
    let end = |at: usize| count + 1 + at;
    let edges: Vec<(usize, usize, f64)> = runs.iter().map(|(run, ms)| (run.start, end(run.end), *ms)).collect();
    let values = solve(2 * (count + 1), &edges);
    // A boundary lies half-way between what starts and what ends there; nothing starts after the last piece and nothing
    // ends before the first. A piece or boundary that comes out negative is noise.
    let (first, last) = (values[0], values[end(count)]);
    let mut pieces_ms = Vec::with_capacity(count);
    let mut boundaries_ms = Vec::with_capacity(count.saturating_sub(1));
    let mut reached = first;
    for at in 1..=count {
        let place = match at == count {
            true => last,
            false => (values[at] + values[end(at)]) / 2.0,
        };
        let place = place.max(reached);
        pieces_ms.push(place - reached);
        reached = place;
        if at < count {
            boundaries_ms.push((values[end(at)] - values[at]).max(0.0));
        }
    }
    Fit { pieces_ms, boundaries_ms }
}

/// Values of which, for each edge `(a, b, ms)`, b less a is as near `ms` as all edges together allow.
fn solve(count: usize, edges: &[(usize, usize, f64)]) -> Vec<f64> {
    let mut values = vec![0.0; count];
    let mut residual = vec![0.0; count];
    for &(a, b, ms) in edges {
        residual[a] -= ms;
        residual[b] += ms;
    }
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
    let mut size = norm(&residual);
    let enough = size * TOLERANCE * TOLERANCE;
    let mut direction = residual.clone();
    // In exact arithmetic as many steps as values suffice.
    for _ in 0..2 * count {
        if size <= enough {
            break;
        }
        let mut image = vec![0.0; count];
        for &(a, b, _) in edges {
            let difference = direction[b] - direction[a];
            image[a] -= difference;
            image[b] += difference;
        }
        let step = size / direction.iter().zip(&image).map(|(d, i)| d * i).sum::<f64>();
        for at in 0..count {
            values[at] += step * direction[at];
            residual[at] -= step * image[at];
        }
        let next = norm(&residual);
        let turn = next / size;
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = r + turn * *d);
        size = next;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stage(pieces: &[f64], boundaries: &[f64], run: Range<usize>) -> f64 {
        let enter = if run.start > 0 { boundaries[run.start - 1] / 2.0 } else { 0.0 };
        let leave = if run.end < pieces.len() { boundaries[run.end - 1] / 2.0 } else { 0.0 };
        enter + pieces[run].iter().sum::<f64>() + leave
    }

    proptest! {
        #[test]
        fn times_that_follow_the_rule_are_predicted_for_every_stage(
            pieces in prop::collection::vec(0.1f64..10.0, 2..30),
            boundaries: [u8; 30],
            reach in 1usize..5,
        ) {
            let n = pieces.len();
            let boundaries: Vec<f64> = boundaries[..n - 1].iter().map(|ms| f64::from(*ms) / 50.0).collect();
            let mut runs = super::super::around_boundaries(n, reach);
            runs.push(0..n);
            let timed: Vec<_> = runs.into_iter().map(|run| (run.clone(), stage(&pieces, &boundaries, run))).collect();
            let fit = fit(n, &timed);
            for from in 0..n {
                for to in from + 1..=n {
                    let truth = stage(&pieces, &boundaries, from..to);
                    let told = stage(&fit.pieces_ms, &fit.boundaries_ms, from..to);
                    prop_assert!((told - truth).abs() <= 1e-6 * truth, "{from}..{to}: {told} instead of {truth}");
                }
            }
        }
    }
}
