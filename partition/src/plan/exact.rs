//! The exact planner: dynamic programming over which nodes are used, which group runs last, and where the cuts are.
//!
//! It asks one question: is there a plan in which nothing takes longer than a limit? Which points (cut and codec) a chain
//! can have reached with a set of nodes, the last of them being such a group, is then a row of bits and needs no figures.
//! A limit between what is impossible and what was found is asked until nothing lies between them.
//!
//! Nodes that are alike count as so many of a class, so that fifty equal machines have fifty-one sets. A group whose nodes
//! share a stage is one machine: their shares depend on their speeds alone, since all of a stage's work takes as many
//! times longer on a slower node. What was reached with fewer nodes need not be looked at again with more.

use super::bits::{self, Smallest};
use super::machines::{Group, Hop, Machines};
use super::model::{Model, ROUNDING};
use super::route::{Leg, Route};
use super::rows::Rows;

/// Most bytes that rows of bits may take.
const MEMORY: usize = 512 << 20;
/// Most triples of a set and two groups.
const TRIPLES: f64 = 3e8;

/// All sets of nodes, all groups, and all hops between them.
pub(super) struct Exact<'a> {
    pub(super) model: &'a Model,
    classes: Vec<Vec<usize>>,
    pub(super) units: Vec<Unit>,
    /// Most of each class; behind the classes perhaps the number of stages.
    capacity: Vec<usize>,
    pub(super) radix: Vec<usize>,
    pub(super) sets: usize,
    hops: Vec<Option<Hop>>,
    /// Groups of one speed and memory share their rows.
    kinds: Vec<(f64, u64)>,
    by_bytes: Smallest,
    by_rest: Smallest,
    words: usize,
    total_speed: f64,
}

/// A group, as so many nodes of each class.
pub(super) struct Unit {
    pub group: Group,
    uses: Vec<usize>,
    /// What it adds to the index of a set.
    pub offset: usize,
    pub kind: usize,
}

/// What was reached, by set and unit.
struct Reached {
    /// Points at which the unit starts, next to the set.
    before: Vec<u64>,
    /// Points at which the unit ends, within the set.
    after: Vec<u64>,
    rows: Vec<Rows>,
}

impl<'a> Exact<'a> {
    /// Nothing where there are too many sets; `shared` says whether several nodes may run one stage.
    pub fn new(model: &'a Model, machines: &Machines, max_stages: usize, shared: bool) -> Option<Self> {
        let classes = machines.classes();
        let mut capacity: Vec<usize> = classes.iter().map(Vec::len).collect();
        let most = model.positions().len() - 1;
        if !shared {
            // More stages than there are places for are never made.
            capacity.iter_mut().for_each(|count| *count = (*count).min(most));
        }
        let counts = capacity.clone();
        if max_stages < counts.iter().sum::<usize>().min(most) {
            capacity.push(max_stages);
        }
        let words = bits::words(model.points.len());
        let product = |of: &dyn Fn(usize) -> f64| capacity.iter().map(|count| of(*count)).product::<f64>();
        let sets = product(&|n| n as f64 + 1.0);
        let units = if shared { counts.iter().map(|n| *n as f64 + 1.0).product() } else { counts.len() as f64 };
        let triples = if shared {
            product(&|n| (n as f64 + 1.0) * (n as f64 + 2.0) * (n as f64 + 3.0) / 6.0)
        } else {
            sets * units * units
        };
        if triples > TRIPLES || sets * units * (words * 3 * 8) as f64 > MEMORY as f64 {
            return None;
        }
        let mut radix = Vec::with_capacity(capacity.len());
        let mut sets = 1;
        for count in &capacity {
            radix.push(sets);
            sets *= count + 1;
        }
        let mut this = Self {
            model,
            units: Vec::new(),
            capacity,
            radix,
            sets,
            hops: Vec::new(),
            kinds: Vec::new(),
            by_bytes: Smallest::new(&model.points.iter().map(|point| point.bytes as f64).collect::<Vec<_>>()),
            by_rest: Smallest::new(&model.rest),
            words,
            total_speed: machines.total_speed(),
            classes,
        };
        this.add_units(machines, &counts, shared);
        Some(this)
    }

    fn add_units(&mut self, machines: &Machines, counts: &[usize], shared: bool) {
        let mut uses = vec![0; self.capacity.len()];
        if self.capacity.len() > counts.len() {
            uses[counts.len()] = 1;
        }
        let singles = (0..counts.len()).map(|class| {
            let mut uses = uses.clone();
            uses[class] = 1;
            uses
        });
        let all: Vec<Vec<usize>> = if shared { every_use(&uses, counts) } else { singles.collect() };
        for uses in all {
            let group = machines.group(&self.first_nodes(&uses, &vec![0; uses.len()]));
            let kind = (group.speed, group.memory);
            let kind = self.kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
                self.kinds.push(kind);
                self.kinds.len() - 1
            });
            let offset = uses.iter().zip(&self.radix).map(|(count, radix)| count * radix).sum();
            self.units.push(Unit { group, uses, offset, kind });
        }
        for from in &self.units {
            for to in &self.units {
                let together = from.uses.iter().zip(&to.uses).map(|(a, b)| a + b);
                let fits = together.zip(&self.capacity).all(|(count, most)| count <= *most);
                let from_nodes = self.first_nodes(&from.uses, &vec![0; from.uses.len()]);
                let hop = || machines.hop(&from_nodes, &self.first_nodes(&to.uses, &from.uses));
                self.hops.push(fits.then(hop));
            }
        }
    }

    /// So many nodes of each class, leaving out as many as `taken`.
    fn first_nodes(&self, uses: &[usize], taken: &[usize]) -> Vec<usize> {
        let classes = self.classes.iter().zip(uses.iter().zip(taken));
        classes.flat_map(|(nodes, (count, taken))| nodes[*taken..].iter().take(*count).copied()).collect()
    }

    pub(super) fn hop(&self, from: usize, to: usize) -> Option<&Hop> {
        self.hops[from * self.units.len() + to].as_ref()
    }

    fn crossable(&self, hop: &Hop, limit: f64) -> &[u64] {
        self.by_bytes.up_to(|bytes| bytes * hop.ms_per_byte <= limit)
    }

    fn at(&self, set: usize, unit: usize) -> std::ops::Range<usize> {
        let start = (set * self.units.len() + unit) * self.words;
        start..start + self.words
    }

    /// How many of each class `set` has.
    pub(super) fn content(&self, set: usize) -> Vec<usize> {
        self.radix.iter().zip(&self.capacity).map(|(radix, most)| set / radix % (most + 1)).collect()
    }

    /// The most work that nodes which are not `used` can do within `limit`.
    pub(super) fn promise(&self, limit: f64, used: &[usize], speed: &[f64]) -> f64 {
        if limit == f64::INFINITY {
            return limit;
        }
        let gone: f64 = used.iter().zip(speed).map(|(count, speed)| *count as f64 * speed).sum();
        let left = limit * (self.total_speed - gone);
        left + ROUNDING * limit * self.total_speed
    }

    pub(super) fn class_speeds(&self, machines: &Machines) -> Vec<f64> {
        self.classes.iter().map(|class| machines.speed[class[0]]).collect()
    }

    pub(super) fn fits(&self, used: &[usize], unit: usize) -> bool {
        used.iter().zip(&self.units[unit].uses).zip(&self.capacity).all(|((used, more), most)| used + more <= *most)
    }

    /// A plan in which nothing takes longer than `limit`, if there is one.
    pub fn within(&self, machines: &Machines, limit: f64, effort: &mut u64) -> Option<Route> {
        let (units, words) = (self.units.len(), self.words);
        let size = self.sets * units * words;
        let mut reached = Reached { before: vec![0; size], after: vec![0; size], rows: self.rows(limit) };
        // Where each unit has started, next to this set or a part of it.
        let mut known = vec![0u64; size];
        let speeds = self.class_speeds(machines);
        for set in 0..self.sets {
            let used = self.content(set);
            let arrived: Vec<usize> =
                (0..units).filter(|unit| bits::any(&reached.after[self.at(set, *unit)])).collect();
            let promising = self.promise(limit, &used, &speeds);
            let promising = self.by_rest.up_to(|rest| rest <= promising);
            for unit in (0..units).filter(|unit| self.fits(&used, *unit)) {
                let here = self.at(set, unit);
                let (smaller, known) = known.split_at_mut(here.start);
                let known = &mut known[..words];
                for (class, _) in used.iter().enumerate().filter(|(_, count)| **count > 0) {
                    bits::or(known, &smaller[self.at(set - self.radix[class], unit)]);
                }
                *effort += ((used.len() + arrived.len() + 1) * words) as u64;
                if set > 0 && arrived.is_empty() {
                    continue;
                }
                let start = &mut reached.before[here.clone()];
                if set == 0 {
                    bits::set(start, 0);
                }
                for &from in &arrived {
                    let Some(hop) = self.hop(from, unit) else { continue };
                    bits::or_both(start, &reached.after[self.at(set, from)], self.crossable(hop, limit));
                }
                bits::and(start, promising);
                start.iter_mut().zip(known.iter()).for_each(|(word, known)| *word &= !known);
                if !bits::any(start) {
                    continue;
                }
                bits::or(known, start);
                let target = set + self.units[unit].offset;
                let into = self.at(target, unit);
                let row = &mut reached.after[into];
                let rows = &mut reached.rows[self.units[unit].kind];
                for point in bits::ones(&reached.before[here]) {
                    rows.or_into(self.model, point, row, effort);
                }
                if bits::has(row, self.model.end()) {
                    return Some(self.trace(target, unit, limit, &mut reached, effort));
                }
            }
        }
        None
    }

    pub(super) fn rows(&self, limit: f64) -> Vec<Rows> {
        self.kinds.iter().map(|(speed, memory)| Rows::new(self.model, *speed, *memory, limit)).collect()
    }

    /// The way that led to the end, with `last` as its last unit.
    fn trace(&self, set: usize, last: usize, limit: f64, reached: &mut Reached, effort: &mut u64) -> Route {
        let mut legs = Vec::new();
        let (mut set, mut unit, mut to) = (set, last, self.model.end());
        loop {
            let before = set - self.units[unit].offset;
            let starts: Vec<usize> = bits::ones(&reached.before[self.at(before, unit)]).collect();
            let rows = &mut reached.rows[self.units[unit].kind];
            let from = starts.into_iter().find(|from| rows.has(self.model, *from, to, effort));
            let from = from.expect("what was reached was reached from somewhere");
            legs.push((unit, from, to));
            if from == 0 {
                break;
            }
            let came = |other: &usize| {
                let after = &reached.after[self.at(before, *other)];
                let crossed = |hop: &Hop| bits::has(self.crossable(hop, limit), from);
                bits::has(after, from) && self.hop(*other, unit).is_some_and(crossed)
            };
            (set, to) = (before, from);
            unit = (0..self.units.len()).find(came).expect("what was started was handed over by something");
        }
        self.route(legs)
    }

    /// With the nodes' names for so many of a class; `legs` from the last to the first.
    pub(super) fn route(&self, legs: Vec<(usize, usize, usize)>) -> Route {
        let mut taken = vec![0; self.capacity.len()];
        let legs = legs.into_iter().rev().map(|(unit, from, to)| {
            let uses = &self.units[unit].uses;
            let nodes = self.first_nodes(uses, &taken);
            taken.iter_mut().zip(uses).for_each(|(taken, count)| *taken += count);
            Leg { nodes, from, to }
        });
        Route { legs: legs.collect() }
    }
}

/// Every number of each class from 0 to `counts`, but for none at all; what is behind the classes as in `uses`.
fn every_use(uses: &[usize], counts: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![uses.to_vec()];
    for (class, most) in counts.iter().enumerate() {
        let more = all.iter().flat_map(|uses| {
            (0..=*most).map(|count| {
                let mut uses = uses.clone();
                uses[class] = count;
                uses
            })
        });
        all = more.collect();
    }
    all.retain(|uses| uses[..counts.len()].iter().any(|count| *count > 0));
    all
}
