//! Many unequal nodes: the order in which they come is changed a little, again and again, and kept where that helps.
//!
//! For a given order of groups, each of which may be left out, which points can be reached within a limit is exact. The
//! limit lies a little below the best that is known; an order is as good as the work that is left where it ends. Steps for
//! the worse are taken now and then, less and less often (simulated annealing). All is counted in effort, not in time,
//! so that the same seed gives the same plan.

use super::bits::{self, Smallest};
use super::machines::{Group, Machines};
use super::model::{Model, ROUNDING};
use super::route::{Leg, Route};
use super::rows::Rows;
use crate::testing::Random;
use std::collections::HashMap;

/// Groups in order; those from `max` on are spare.
pub(super) type Order = Vec<Vec<usize>>;

/// What is searched.
pub(super) struct Orders<'a> {
    model: &'a Model,
    machines: &'a Machines,
    by_bytes: Smallest,
    by_rest: Smallest,
    words: usize,
    /// Most groups that count.
    max: usize,
    rows: HashMap<(u64, u64), Rows>,
    limit: f64,
    /// Of the order that was looked at last: what can be reached after each of its groups.
    after: Vec<Vec<u64>>,
    seen: Order,
    pub effort: u64,
}

impl<'a> Orders<'a> {
    pub fn new(model: &'a Model, machines: &'a Machines, max_stages: usize) -> Self {
        Self {
            model,
            machines,
            by_bytes: Smallest::new(&model.points.iter().map(|point| point.bytes as f64).collect::<Vec<_>>()),
            by_rest: Smallest::new(&model.rest),
            words: bits::words(model.points.len()),
            max: max_stages,
            rows: HashMap::new(),
            limit: f64::NAN,
            after: Vec::new(),
            seen: Vec::new(),
            effort: 0,
        }
    }

    fn crossable(&self, from: &[usize], to: &[usize]) -> &[u64] {
        let hop = self.machines.hop(from, to);
        self.by_bytes.up_to(|bytes| bytes * hop.ms_per_byte <= self.limit)
    }

    /// What is left at best, 0 if the end is reached: how good `order` is within `limit`.
    fn sweep(&mut self, order: &Order, limit: f64) -> f64 {
        if limit != self.limit {
            self.limit = limit;
            self.rows.clear();
            self.seen.clear();
        }
        let count = order.len().min(self.max);
        let same = order.iter().take(count).zip(&self.seen).take_while(|(one, other)| one == other).count();
        self.after.truncate(same);
        self.seen = order[..count].to_vec();
        let speeds: Vec<f64> = order[..count].iter().map(|nodes| self.machines.group(nodes).speed).collect();
        for index in same..count {
            let left: f64 = speeds[index..].iter().sum();
            let promising = if limit == f64::INFINITY { limit } else { limit * left * (1.0 + ROUNDING) };
            let mut start = vec![0; self.words];
            bits::set(&mut start, 0);
            for before in 0..index {
                if bits::any(&self.after[before]) {
                    bits::or_both(&mut start, &self.after[before], self.crossable(&order[before], &order[index]));
                }
            }
            self.effort += ((index + 1) * (self.words + 4 * order[index].len())) as u64;
            bits::and(&mut start, self.by_rest.up_to(|rest| rest <= promising));
            let Group { speed, memory, .. } = self.machines.group(&order[index]);
            let key = (speed.to_bits(), memory);
            let (model, limit) = (self.model, self.limit);
            let rows = self.rows.entry(key).or_insert_with(|| Rows::new(model, speed, memory, limit));
            let mut row = vec![0; self.words];
            for point in bits::ones(&start) {
                rows.or_into(model, point, &mut row, &mut self.effort);
            }
            self.after.push(row);
        }
        let furthest = self.after.iter().filter_map(|row| bits::highest(row)).max().unwrap_or(0);
        if furthest == self.model.end() { 0.0 } else { self.left(furthest) }
    }

    /// How much is left behind `point`, which is not the end: work, or points where there is none.
    fn left(&self, point: usize) -> f64 {
        let points = (self.model.end() - point) as f64;
        match self.model.rest[0] {
            0.0 => points,
            all => self.model.rest[point] + all * 1e-6 * points,
        }
    }

    /// The plan of the order that was looked at last, which reaches the end.
    fn trace(&mut self) -> Route {
        let end = self.model.end();
        let order = std::mem::take(&mut self.seen);
        let after = std::mem::take(&mut self.after);
        let mut index = after.iter().position(|row| bits::has(row, end)).expect("the end was reached");
        let mut to = end;
        let mut legs = Vec::new();
        loop {
            let came = |before: usize, from: usize, this: &Self| {
                bits::has(&after[before], from) && bits::has(this.crossable(&order[before], &order[index]), from)
            };
            let Group { speed, memory, .. } = self.machines.group(&order[index]);
            let rows = self.rows.get_mut(&(speed.to_bits(), memory)).expect("the order was looked at with them");
            let (model, effort) = (self.model, &mut self.effort);
            let mut leads = |from: &usize| model.next[*from] <= to && rows.has(model, *from, to, effort);
            let starts: Vec<usize> = (0..to).filter(|from| leads(from)).collect();
            let found = starts.into_iter().find_map(|from| match from {
                0 => Some((0, None)),
                _ => (0..index).find(|before| came(*before, from, self)).map(|before| (from, Some(before))),
            });
            let (from, before) = found.expect("what was reached was reached from somewhere");
            legs.push(Leg { nodes: order[index].clone(), from, to });
            match before {
                None => break,
                Some(before) => (index, to) = (before, from),
            }
        }
        legs.reverse();
        Route { legs }
    }

    /// The best plan of `order` to within a hundredth, if it is better than `best`; never one below `bound`.
    pub fn best_of(&mut self, order: &Order, bound: f64, best: f64) -> Option<(f64, Route)> {
        let (mut low, mut high, mut found) = (bound, best, None);
        // From below at first: close limits are quick to look at, and most orders are no better than what is known.
        let mut limit = bound * 1.1;
        while high - low > 1e-2 * high {
            limit = match found {
                None => limit.max(low + (high - low) / 64.0).min(high - (high - low) / 8.0),
                Some(_) => (low + high) / 2.0,
            };
            if self.sweep(order, limit) == 0.0 {
                let route = self.trace();
                high = route.cost(self.model, self.machines).bottleneck;
                found = Some((high, route));
            } else {
                low = limit;
                limit *= 1.3;
            }
        }
        found
    }

    /// Changes `order` at random until `most` effort is spent, `stop` says so or `bound` is reached. Gives what is better
    /// than `best`.
    pub fn anneal(
        &mut self,
        start: Start<'_>,
        random: &mut Random,
        most: u64,
        stop: &dyn Fn() -> bool,
    ) -> Option<(f64, Route)> {
        let Start { order, bound, shared, .. } = start;
        let mut order = order.clone();
        let mut best = start.best;
        let mut found = None;
        let mut step = 0.2;
        while self.effort < most && !stop() && best > bound * (1.0 + ROUNDING) {
            let limit = (best - (best - bound) * step).min(best * (1.0 - 1e-9));
            let mut score = self.sweep(&order, limit);
            let budget = self.effort + (most - self.effort).min(most / 12);
            let mut heat = 0.02 * self.left(0);
            while score > 0.0 && self.effort < budget && !stop() {
                let next = changed(&order, self.max, shared, random);
                let new = self.sweep(&next, limit);
                let worse = new - score;
                let chance = (random.below(1 << 20) as f64 + 0.5) / f64::from(1 << 20);
                if worse <= 0.0 || chance < (-worse / heat).exp() {
                    (order, score) = (next, new);
                }
                heat *= 0.9995;
            }
            if score > 0.0 {
                step /= 2.0;
                if step < 1e-4 {
                    step = 0.2;
                    shuffle(&mut order, random);
                }
                continue;
            }
            self.sweep(&order, limit);
            let route = self.trace();
            best = route.cost(self.model, self.machines).bottleneck;
            found = Some((best, route));
            step = (step * 1.5).min(0.5);
        }
        found
    }
}

/// Where annealing starts.
pub(super) struct Start<'s> {
    pub order: &'s Order,
    pub best: f64,
    pub bound: f64,
    /// Whether groups may have several nodes.
    pub shared: bool,
}

fn shuffle(order: &mut Order, random: &mut Random) {
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1));
    }
}

/// A copy of `order` with a small change.
fn changed(order: &Order, max: usize, shared: bool, random: &mut Random) -> Order {
    let mut next = order.clone();
    let count = next.len();
    let (a, b) = (random.below(count), random.below(count));
    match random.below(if shared { 6 } else { 3 }) {
        0 => next.swap(a, b),
        1 => {
            let group = next.remove(a);
            next.insert(b.min(next.len()), group);
        }
        2 => next[a.min(b)..=a.max(b)].reverse(),
        3 => {
            // A node goes to another group …
            let at = random.below(next[a].len());
            let node = next[a].remove(at);
            match next[a].is_empty() && a != b {
                true => {
                    next[b].push(node);
                    next[b].sort_unstable();
                    next.remove(a);
                }
                false if a == b => {
                    next[a].insert(at, node);
                }
                false => {
                    next[b].push(node);
                    next[b].sort_unstable();
                }
            }
        }
        4 => {
            // … or two groups change nodes …
            if a != b {
                let (i, j) = (random.below(next[a].len()), random.below(next[b].len()));
                let (one, other) = (next[a][i], next[b][j]);
                (next[a][i], next[b][j]) = (other, one);
                next[a].sort_unstable();
                next[b].sort_unstable();
            }
        }
        _ => {
            // … or a node gets a group of its own.
            if next[a].len() > 1 {
                let at = random.below(next[a].len());
                let node = next[a].remove(at);
                next.insert(b.min(next.len()), vec![node]);
            } else {
                next.swap(a.min(max.saturating_sub(1)), b);
            }
        }
    }
    next
}
