//! Chains over nodes that are too many for all sets of them: what cannot be, and a search in depth.
//!
//! If nodes could be used twice, backwards dynamic programming would say which points each node could start from. What is
//! impossible even so is impossible: that bounds the bottleneck. The rest guides a search, node after node, each step of
//! which carries all points that the chain can have reached; it may run out of effort, or prove that there is nothing.

use super::bits::{self, Smallest};
use super::machines::Machines;
use super::model::{Model, ROUNDING};
use super::route::{Leg, Route};
use super::rows::Rows;
use std::collections::HashMap;

/// Nodes in a set.
type Set = u128;
/// Most nodes that a search in depth takes.
pub(super) const NODES: usize = 128;
/// Sets from which nothing came, per set and last node.
const REMEMBERED: usize = 6;

/// What came of a search.
pub(super) enum Outcome {
    Found(Route),
    Impossible,
    OutOfEffort,
}

pub(super) struct Paths<'a> {
    model: &'a Model,
    machines: &'a Machines,
    /// By node and next node, per byte.
    hops: Vec<Vec<f64>>,
    kinds: Vec<usize>,
    distinct: Vec<(f64, u64)>,
    by_bytes: Smallest,
    by_rest: Smallest,
    words: usize,
    max_stages: usize,
}

/// A search within one limit.
struct Search<'b> {
    limit: f64,
    rows: Vec<Rows>,
    /// From which points each node can start and the end be reached, if nodes could be used twice …
    ends: Vec<Vec<u64>>,
    /// … and by how many stages at least.
    stages: Vec<Vec<u16>>,
    failed: HashMap<(Set, usize), Vec<Vec<u64>>>,
    path: Vec<usize>,
    after: Vec<Vec<u64>>,
    effort: &'b mut u64,
    most: u64,
}

impl<'a> Paths<'a> {
    pub fn new(model: &'a Model, machines: &'a Machines, max_stages: usize) -> Self {
        let count = machines.count();
        let hops = (0..count).map(|a| (0..count).map(|b| machines.hop(&[a], &[b]).ms_per_byte).collect()).collect();
        let mut distinct: Vec<(f64, u64)> = Vec::new();
        let kinds = (0..count).map(|node| {
            let kind = (machines.speed[node], machines.memory[node]);
            distinct.iter().position(|known| *known == kind).unwrap_or_else(|| {
                distinct.push(kind);
                distinct.len() - 1
            })
        });
        let kinds = kinds.collect();
        Self {
            model,
            machines,
            hops,
            kinds,
            distinct,
            by_bytes: Smallest::new(&model.points.iter().map(|point| point.bytes as f64).collect::<Vec<_>>()),
            by_rest: Smallest::new(&model.rest),
            words: bits::words(model.points.len()),
            max_stages: max_stages.min(count).min(model.positions().len() - 1),
        }
    }

    /// A chain in which nothing takes longer than `limit`; `most` bounds `effort`. With `relaxed`, only what is impossible
    /// even if nodes are used twice is found out, and never a chain.
    pub fn within(&self, limit: f64, effort: &mut u64, most: u64, depth: Depth) -> Outcome {
        let rows = self.distinct.iter().map(|(speed, memory)| Rows::new(self.model, *speed, *memory, limit)).collect();
        let mut search = Search {
            limit,
            rows,
            ends: vec![vec![0; self.words]; self.hops.len()],
            stages: vec![vec![u16::MAX; self.model.points.len()]; self.hops.len()],
            failed: HashMap::new(),
            path: Vec::new(),
            after: Vec::new(),
            effort,
            most,
        };
        if !self.relax(&mut search) {
            return Outcome::OutOfEffort;
        }
        let fewest = search.stages.iter().map(|stages| stages[0]).min().unwrap_or(u16::MAX);
        if usize::from(fewest) > self.max_stages || self.model.rest[0] > self.promise(limit, 0, self.max_stages) {
            return Outcome::Impossible;
        }
        if depth == Depth::Relaxed || self.hops.len() > NODES {
            return Outcome::OutOfEffort;
        }
        let mut start = vec![0; self.words];
        bits::set(&mut start, 0);
        match self.deepen(&mut search, 0, &start) {
            Some(true) => Outcome::Found(self.trace(&mut search)),
            Some(false) => Outcome::Impossible,
            None => Outcome::OutOfEffort,
        }
    }

    /// The most work that `left` further stages can do within `limit` on nodes that are not `used`.
    fn promise(&self, limit: f64, used: Set, left: usize) -> f64 {
        if limit == f64::INFINITY {
            return limit;
        }
        let free = (0..self.hops.len()).filter(|node| *node >= NODES || used >> node & 1 == 0);
        let mut speeds: Vec<f64> = free.map(|node| self.machines.speed[node]).collect();
        speeds.sort_by(|a, b| b.total_cmp(a));
        limit * speeds.iter().take(left).sum::<f64>() * (1.0 + ROUNDING)
    }

    /// Fills `ends` and `stages`, from the last point to the first; `false` where that is too much.
    fn relax(&self, search: &mut Search<'_>) -> bool {
        let count = self.hops.len();
        let end = self.model.end();
        // Stages that are needed behind each point, if this node ends there.
        let mut behind = vec![vec![u16::MAX; self.model.points.len()]; count];
        behind.iter_mut().for_each(|behind| behind[end] = 0);
        for point in (0..end).rev() {
            if *search.effort > search.most {
                return false;
            }
            for node in 0..count {
                let (first, words) = search.rows[self.kinds[node]].get(self.model, point, search.effort);
                let behind = &behind[node];
                let least = bits::ones(words).map(|bit| behind[bit + first * 64]).min().unwrap_or(u16::MAX);
                *search.effort += 2 * words.len() as u64;
                if least < u16::MAX {
                    search.stages[node][point] = least + 1;
                    bits::set(&mut search.ends[node], point);
                }
            }
            let bytes = self.model.points[point].bytes as f64;
            *search.effort += (count * count) as u64;
            for (node, behind) in behind.iter_mut().enumerate() {
                let to = (0..count).filter(|to| *to != node && bytes * self.hops[node][*to] <= search.limit);
                behind[point] = to.map(|to| search.stages[to][point]).min().unwrap_or(u16::MAX);
            }
        }
        true
    }

    /// Whether the end can be reached from `reached` with nodes that are not `used`; nothing when effort is spent.
    fn deepen(&self, search: &mut Search<'_>, used: Set, reached: &[u64]) -> Option<bool> {
        let left = self.max_stages - search.path.len();
        if left == 0 {
            return Some(false);
        }
        let last = search.path.last().copied();
        let promise = self.promise(search.limit, used, left);
        let promising = self.by_rest.up_to(|rest| rest <= promise);
        let mut next: Vec<(usize, usize, Vec<u64>)> = Vec::new();
        for node in (0..self.hops.len()).filter(|node| used >> node & 1 == 0) {
            let mut start = reached.to_vec();
            if let Some(last) = last {
                bits::and(&mut start, self.by_bytes.up_to(|bytes| bytes * self.hops[last][node] <= search.limit));
            }
            bits::and(&mut start, promising);
            bits::and(&mut start, &search.ends[node]);
            *search.effort += self.words as u64;
            let mut after = vec![0; self.words];
            for point in bits::ones(&start) {
                if usize::from(search.stages[node][point]) <= left {
                    search.rows[self.kinds[node]].or_into(self.model, point, &mut after, search.effort);
                }
            }
            if let Some(furthest) = bits::highest(&after) {
                next.push((furthest, node, after));
            }
        }
        // Furthest first; of equals the first node.
        next.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        for (furthest, node, after) in next {
            if *search.effort > search.most {
                return None;
            }
            let used = used | 1 << node;
            let key = (used, node);
            let hopeless = search.failed.get(&key).is_some_and(|rows| rows.iter().any(|row| bits::within(&after, row)));
            if hopeless {
                continue;
            }
            search.path.push(node);
            search.after.push(after);
            if furthest == self.model.end() {
                return Some(true);
            }
            let row = search.after[search.after.len() - 1].clone();
            if self.deepen(search, used, &row)? {
                return Some(true);
            }
            search.path.pop();
            search.after.pop();
            let rows = search.failed.entry(key).or_default();
            if rows.len() < REMEMBERED {
                rows.push(row);
            }
        }
        Some(false)
    }

    fn trace(&self, search: &mut Search<'_>) -> Route {
        trace(&search.path, &search.after, self.model, |index, from, to| {
            let node = search.path[index];
            let crossed = index == 0
                || self.model.points[from].bytes as f64 * self.hops[search.path[index - 1]][node] <= search.limit;
            crossed && search.rows[self.kinds[node]].has(self.model, from, to, search.effort)
        })
    }
}

/// How far to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Relaxed,
    Full,
}

/// The points of a chain over `path`, by what it had reached `after` each node.
fn trace(
    path: &[usize],
    after: &[Vec<u64>],
    model: &Model,
    mut leads: impl FnMut(usize, usize, usize) -> bool,
) -> Route {
    let mut to = model.end();
    let mut legs = Vec::new();
    for index in (0..path.len()).rev() {
        let from = match index {
            0 => 0,
            _ => {
                let candidates: Vec<usize> = bits::ones(&after[index - 1]).collect();
                let found = candidates.into_iter().find(|from| leads(index, *from, to));
                found.expect("what was reached was reached from somewhere")
            }
        };
        legs.push(Leg { nodes: vec![path[index]], from, to });
        to = from;
    }
    legs.reverse();
    Route { legs }
}
