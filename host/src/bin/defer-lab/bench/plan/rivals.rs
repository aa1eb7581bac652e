//! Other ways to cut and place, to compare with. Each gives a bottleneck in ms and a number of stages.

use super::field::Trial;
use defer_partition::testing::Random;

/// Nodes in a set.
type Set = u64;
pub const NODES: usize = Set::BITS as usize;

/// Memory filled node by node, on nodes at random.
pub fn random(trial: &Trial, random: &mut Random) -> Option<(f64, usize)> {
    let ends = trial.fewest(u64::MAX)?;
    let mut nodes: Vec<usize> = (0..trial.nodes()).collect();
    for at in (1..nodes.len()).rev() {
        nodes.swap(at, random.below(at + 1));
    }
    Some((trial.bottleneck(&ends, &nodes), ends.len()))
}

/// The cuts with the least largest transfer; then from either end of the fastest link always to the node that is
/// reached fastest, and the better of both.
pub fn greedy(trial: &Trial) -> Option<(f64, usize)> {
    let (_, ends) = trial.least_transfer()?;
    let count = trial.nodes();
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b);
    let (a, b) = pairs.min_by(|x, y| trial.pace[x.0][x.1].total_cmp(&trial.pace[y.0][y.1])).unwrap_or((0, 0));
    let walk = |start: usize| {
        let mut path = vec![start];
        while path.len() < ends.len() {
            let last = path[path.len() - 1];
            let free = (0..count).filter(|node| !path.contains(node));
            path.push(free.min_by(|x, y| trial.pace[last][*x].total_cmp(&trial.pace[last][*y]))?);
        }
        Some(trial.bottleneck(&ends, &path))
    };
    Some((walk(a)?.min(walk(b)?), ends.len()))
}

/// What is known of a node that starts at a position.
#[derive(Clone, Copy)]
struct Label {
    sum: f64,
    longest: f64,
    stages: usize,
    used: Set,
}

/// The path of nodes and cuts with the least sum of transfers. One label per node and position, which remembers its
/// nodes: good, if not always the least, since no node may come twice.
pub fn min_sum(trial: &Trial) -> Option<(f64, usize)> {
    let count = trial.nodes().min(NODES);
    let mut labels: Vec<Vec<Option<Label>>> = vec![vec![None; count]; trial.last() + 1];
    for (node, label) in labels[0].iter_mut().enumerate() {
        *label = Some(Label { sum: 0.0, longest: 0.0, stages: 1, used: 1 << node });
    }
    let mut best: Option<Label> = None;
    for from in 0..trial.last() {
        for node in 0..count {
            let Some(label) = labels[from][node] else { continue };
            for to in (from + 1..=trial.last()).take_while(|to| trial.holds(from, *to)) {
                if to == trial.last() {
                    if best.is_none_or(|best| label.sum < best.sum) {
                        best = Some(label);
                    }
                    continue;
                }
                for next in (0..count).filter(|next| label.used >> next & 1 == 0) {
                    let ms = trial.bytes[to] as f64 * trial.pace[node][next];
                    let new = Label {
                        sum: label.sum + ms,
                        longest: label.longest.max(ms),
                        stages: label.stages + 1,
                        used: label.used | 1 << next,
                    };
                    if labels[to][next].is_none_or(|known| new.sum < known.sum) {
                        labels[to][next] = Some(new);
                    }
                }
            }
        }
    }
    best.map(|label| (label.longest, label.stages))
}
