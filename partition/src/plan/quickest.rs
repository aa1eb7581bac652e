//! The plan with the least latency, by the same sets as the exact planner.
//!
//! One node per stage is enough: latency is a mean over the nodes of each group, weighted by their shares, and the best
//! node of a group is no slower than the mean.

use super::bits;
use super::exact::Exact;
use super::machines::Machines;
use super::route::Route;

/// Most bytes that tables of times may take.
const MEMORY: f64 = (1u64 << 30) as f64;

type Row = Option<Box<[f64]>>;

/// Least times, by set, unit and point.
struct Times {
    /// When a unit starts, next to the set; infinite where it need not be looked at.
    before: Vec<Row>,
    /// When a unit ends, within the set.
    after: Vec<Row>,
    /// When it starts, next to the set or a part of it.
    known: Vec<Row>,
}

impl Exact<'_> {
    /// The plan with the least latency, less than `best`, among those in which nothing takes longer than `limit`. The
    /// ways from and to the dispatcher do not count. Nothing where there is none, or where [`Self::can_time`] is not so.
    pub fn quickest(&self, machines: &Machines, limit: f64, best: f64, effort: &mut u64) -> Option<Route> {
        let (units, points, end) = (self.units.len(), self.model.points.len(), self.model.end());
        if !self.can_time() {
            return None;
        }
        let mut rows = self.rows(limit);
        let never = || vec![f64::INFINITY; points].into_boxed_slice();
        let none = || vec![None; self.sets * units];
        let mut times = Times { before: none(), after: none(), known: none() };
        let fastest = machines.fastest(1);
        let speeds = self.class_speeds(machines);
        let (mut best, mut goal) = (best, None);
        for set in 0..self.sets {
            let used = self.content(set);
            let promising = self.promise(limit, &used, &speeds);
            for unit in (0..units).filter(|unit| self.fits(&used, *unit)) {
                let mut known = never();
                for class in (0..used.len()).filter(|class| used[*class] > 0) {
                    let part = &times.known[(set - self.radix[class]) * units + unit];
                    let part = part.iter().flat_map(|row| row.iter());
                    known.iter_mut().zip(part).for_each(|(known, ms)| *known = known.min(*ms));
                }
                *effort += (points * (used.len() + 1)) as u64;
                let mut start = self.starts(set, unit, limit, &times.after, effort);
                let mut fresh = false;
                for (point, ms) in start.iter_mut().enumerate() {
                    let rest = self.model.rest[point];
                    let open = *ms < known[point] && rest <= promising && *ms + rest / fastest < best;
                    *ms = if open { *ms } else { f64::INFINITY };
                    known[point] = known[point].min(*ms);
                    fresh |= ms.is_finite();
                }
                times.known[set * units + unit] = Some(known);
                if !fresh {
                    continue;
                }
                let target = (set + self.units[unit].offset) * units + unit;
                let ends = times.after[target].get_or_insert_with(never);
                let delay = self.units[unit].group.delay;
                for (point, ms) in start.iter().enumerate().filter(|(_, ms)| ms.is_finite()) {
                    let (first, words) = rows[self.units[unit].kind].get(self.model, point, effort);
                    for to in bits::ones(words).map(|bit| bit + first * 64) {
                        *effort += 4;
                        ends[to] = ends[to].min(ms + self.model.work(point, to).total() * delay);
                    }
                }
                if ends[end] < best {
                    (best, goal) = (ends[end], Some((set + self.units[unit].offset, unit)));
                }
                times.before[set * units + unit] = Some(start);
            }
        }
        let (set, unit) = goal?;
        self.retrace(set, unit, best, limit, &times)
    }

    /// Whether tables of times would fit memory.
    pub fn can_time(&self) -> bool {
        (self.sets * self.units.len() * self.model.points.len()) as f64 * 24.0 <= MEMORY
    }

    /// When `unit` can start at each point, next to `set`.
    fn starts(&self, set: usize, unit: usize, limit: f64, after: &[Row], effort: &mut u64) -> Box<[f64]> {
        let mut start = vec![f64::INFINITY; self.model.points.len()].into_boxed_slice();
        if set == 0 {
            start[0] = 0.0;
        }
        for from in 0..self.units.len() {
            let (Some(ends), Some(hop)) = (&after[set * self.units.len() + from], self.hop(from, unit)) else {
                continue;
            };
            *effort += start.len() as u64;
            for (point, ms) in ends.iter().enumerate().filter(|(_, ms)| ms.is_finite()) {
                let bytes = self.model.points[point].bytes as f64;
                if bytes * hop.ms_per_byte <= limit {
                    start[point] = start[point].min(ms + hop.delay(bytes));
                }
            }
        }
        start
    }

    /// The way that led to the end after `ms`: each step is found again by the very sum that it was made with.
    fn retrace(&self, set: usize, unit: usize, ms: f64, limit: f64, times: &Times) -> Option<Route> {
        let units = self.units.len();
        let (mut set, mut unit, mut to, mut ms) = (set, unit, self.model.end(), ms);
        let mut rows = self.rows(limit);
        let mut legs = Vec::new();
        loop {
            set -= self.units[unit].offset;
            let start = times.before[set * units + unit].as_ref()?;
            let (group, kind) = (&self.units[unit].group, self.units[unit].kind);
            let leads = |from: &usize| {
                self.model.next[*from] <= to && start[*from] + self.model.work(*from, to).total() * group.delay == ms
            };
            let mut ways = (0..to).filter(leads);
            let from = ways.find(|from| rows[kind].has(self.model, *from, to, &mut 0))?;
            legs.push((unit, from, to));
            if from == 0 {
                return Some(self.route(legs));
            }
            let bytes = self.model.points[from].bytes as f64;
            let came = |other: &usize| match (&times.after[set * units + other], self.hop(*other, unit)) {
                (Some(ends), Some(hop)) => {
                    bytes * hop.ms_per_byte <= limit && ends[from] + hop.delay(bytes) == start[from]
                }
                _ => false,
            };
            let other = (0..units).find(came)?;
            ms = times.after[set * units + other].as_ref()?[from];
            (unit, to) = (other, from);
        }
    }
}
