//! Whether a network fits a cluster's memories at all, and what would make it fit.

use super::model::Model;
use std::collections::BTreeMap;

/// Most sets of nodes that are all looked at; beyond that, the most promising of each size.
const SETS: usize = 50_000;
const KEPT: usize = 400;
/// Most sets of nodes for which the least change is sought, which asks some hundred times.
const ASKED: usize = 2048;

/// Whether memories suffice.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fit {
    /// Nodes in the order of their stages, and the positions at which these end.
    Fits(Vec<(usize, usize)>),
    Impossible,
    /// None was found, and there are too many sets of nodes to say that there is none.
    Unknown,
}

/// A change that makes a network fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// A node, and the memory that it would need.
    pub raise: Option<(usize, u64)>,
    /// Memory of one more node.
    pub add: Option<u64>,
    /// More stages.
    pub stages: Option<usize>,
    /// Whether less memory than that is proved not to do.
    pub least: bool,
}

pub(super) struct Memory<'a> {
    model: &'a Model,
    positions: Vec<usize>,
    /// At `[k][i]`, the largest activations between positions i and i + 2^k.
    peaks: Vec<Vec<u64>>,
}

impl<'a> Memory<'a> {
    pub fn new(model: &'a Model) -> Self {
        let positions = model.positions();
        let peak = |pair: &[usize]| {
            let (weights, all) = model.memory(pair[0], pair[1]);
            all - weights
        };
        let mut peaks: Vec<Vec<u64>> = vec![positions.windows(2).map(peak).collect()];
        for half in (0..).map(|k| 1 << k).take_while(|half| 2 * half < positions.len()) {
            let last = &peaks[peaks.len() - 1];
            peaks.push(last.iter().zip(&last[half..]).map(|(one, other)| *one.max(other)).collect());
        }
        Self { model, positions, peaks }
    }

    /// What a stage between two positions needs.
    fn need(&self, from: usize, to: usize) -> u64 {
        if from == to {
            return 0;
        }
        let level = (to - from).ilog2() as usize;
        let peaks = &self.peaks[level];
        let peak = peaks[from].max(peaks[to - (1 << level)]);
        self.model.weights(self.positions[from], self.positions[to]).saturating_add(peak)
    }

    /// The furthest place that a stage from `from` can reach within `memory`: indices of positions.
    fn reach(&self, from: usize, memory: u64) -> usize {
        let (mut low, mut high) = (from, self.positions.len() - 1);
        while low < high {
            let middle = (low + high).div_ceil(2);
            match self.need(from, middle) <= memory {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        low
    }

    /// Two adjacent positions that no memory up to `largest` holds what is between, and what that needs.
    pub fn too_large(&self, largest: u64) -> Option<(usize, usize, u64)> {
        let between =
            (1..self.positions.len()).map(|to| (self.positions[to - 1], self.positions[to], self.need(to - 1, to)));
        between.filter(|(_, _, need)| *need > largest).max_by_key(|(_, _, need)| *need)
    }

    /// Whether some order of some of `memories` fits, in `max_stages`.
    ///
    /// The further a set of nodes has come the better, so one place per set is enough: how far the best order gets.
    pub fn fit(&self, memories: &[u64], max_stages: usize) -> Fit {
        let classes = classes(memories);
        let end = self.positions.len() - 1;
        if let Some(stages) = self.largest_first(&classes, max_stages) {
            return Fit::Fits(stages);
        }
        let largest = classes.iter().flat_map(|(memory, nodes)| nodes.iter().map(move |_| *memory)).take(max_stages);
        if largest.fold(0, u64::saturating_add) < self.model.weights(0, self.positions[end]) {
            return Fit::Impossible;
        }
        let reach: Vec<Vec<usize>> =
            classes.iter().map(|(memory, _)| (0..=end).map(|from| self.reach(from, *memory)).collect()).collect();
        // By size: which set has come how far, and the class that came last with what was before.
        type Layer = BTreeMap<Vec<usize>, (usize, usize)>;
        let mut layers: Vec<Layer> = vec![BTreeMap::from([(vec![0; classes.len()], (0, 0))])];
        let (mut all, mut dropped) = (1, false);
        for _ in 0..memories.len().min(max_stages).min(end) {
            let mut layer = Layer::new();
            for (set, (at, _)) in layers.last().expect("it begins with one") {
                for class in (0..classes.len()).filter(|class| set[*class] < classes[*class].1.len()) {
                    let to = reach[class][*at];
                    if to > *at {
                        let mut set = set.clone();
                        set[class] += 1;
                        let known = layer.entry(set).or_insert((to, class));
                        *known = (*known).max((to, class));
                    }
                }
            }
            if let Some((set, _)) = layer.iter().find(|(_, (at, _))| *at == end) {
                let set = set.clone();
                layers.push(layer);
                return Fit::Fits(self.order(&layers, set, &classes));
            }
            all += layer.len();
            if all > SETS && layer.len() > KEPT {
                dropped = true;
                let mut best: Vec<_> = layer.into_iter().collect();
                best.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                best.truncate(KEPT);
                layer = best.into_iter().collect();
            }
            layers.push(layer);
        }
        if dropped { Fit::Unknown } else { Fit::Impossible }
    }

    /// Mostly the largest nodes in any order are enough.
    fn largest_first(&self, classes: &[(u64, Vec<usize>)], max_stages: usize) -> Option<Vec<(usize, usize)>> {
        let (mut at, mut stages) = (0, Vec::new());
        let nodes = classes.iter().flat_map(|(memory, nodes)| nodes.iter().map(move |node| (*memory, *node)));
        for (memory, node) in nodes.take(max_stages) {
            let to = self.reach(at, memory);
            if to == at {
                return None;
            }
            stages.push((node, self.positions[to]));
            at = to;
            if at == self.positions.len() - 1 {
                return Some(stages);
            }
        }
        None
    }

    fn order(
        &self,
        layers: &[BTreeMap<Vec<usize>, (usize, usize)>],
        mut set: Vec<usize>,
        classes: &[(u64, Vec<usize>)],
    ) -> Vec<(usize, usize)> {
        let mut stages = Vec::new();
        for layer in layers[1..].iter().rev() {
            let (at, class) = layer[&set];
            set[class] -= 1;
            stages.push((classes[class].1[set[class]], self.positions[at]));
        }
        stages.reverse();
        stages
    }

    /// Changes, each of which alone makes it fit; the least ones, unless there are too many sets of nodes to ask so often.
    /// `memories` do not fit in `max_stages`.
    pub fn change(&self, memories: &[u64], max_stages: usize) -> Change {
        // One more class, as a node is added or raised.
        let sets = classes(memories).iter().fold(2usize, |sets, (_, nodes)| sets.saturating_mul(nodes.len() + 1));
        let least_of_all = sets <= ASKED;
        let fits = |memories: &[u64], stages| match least_of_all {
            true => matches!(self.fit(memories, stages), Fit::Fits(_)),
            false => self.largest_first(&classes(memories), stages).is_some(),
        };
        let end = self.positions.len() - 1;
        let mut needs: Vec<u64> = (0..end)
            .flat_map(|from| (from + 1..=end).map(move |to| (from, to)))
            .map(|(a, b)| self.need(a, b))
            .collect();
        needs.sort_unstable();
        needs.dedup();
        // The smallest need that is enough, if any is.
        let least = |enough: &dyn Fn(u64) -> bool| {
            let at = needs.partition_point(|need| !enough(*need));
            needs.get(at).copied()
        };
        let add = least(&|need| fits(&[memories, &[need]].concat(), max_stages));
        let mut seen = Vec::new();
        let mut raise: Option<(usize, u64)> = None;
        for (node, memory) in memories.iter().enumerate() {
            if seen.contains(memory) {
                continue;
            }
            seen.push(*memory);
            let raised = |need: u64| {
                let mut memories = memories.to_vec();
                memories[node] = need;
                memories
            };
            let Some(need) = least(&|need| need > *memory && fits(&raised(need), max_stages)) else { continue };
            if raise.is_none_or(|(other, known)| need - memory < known - memories[other]) {
                raise = Some((node, need));
            }
        }
        let all = (max_stages < memories.len()).then(|| self.fit(memories, memories.len()));
        let stages = match all {
            Some(Fit::Fits(stages)) => Some(stages.len()),
            _ => None,
        };
        Change { raise, add, stages, least: least_of_all }
    }
}

/// Nodes with as much memory as each other, most first.
fn classes(memories: &[u64]) -> Vec<(u64, Vec<usize>)> {
    let mut classes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    memories.iter().enumerate().for_each(|(node, memory)| classes.entry(*memory).or_default().push(node));
    classes.into_iter().rev().collect()
}
