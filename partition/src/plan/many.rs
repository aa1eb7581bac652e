//! More unequal nodes than the exact planner takes: several searches, one after another.

use super::model::ROUNDING;
use super::paths::{Depth, Outcome, Paths};
use super::place::{Found, Planner};
use super::route::Route;
use super::search::{Order, Orders, Start};
use crate::testing::Random;

impl Planner<'_> {
    /// A chain over more unequal nodes than can all be looked at: bounds, a search in depth, and changes of the order.
    pub(super) fn many(&self, mut found: Found) -> Found {
        let share = if self.shares() { 0.5 } else { 0.9 };
        let late = || self.past(share);
        let (most, count) = ((self.effort() as f64 * share) as u64, self.machines.count());
        let mut orders = Orders::new(self.model, self.machines, self.max_stages());
        for order in self.first_orders(&found.route) {
            if let Some((value, route)) = orders.best_of(&order, found.bound, found.value) {
                (found.value, found.route) = (value, route);
            }
            if orders.effort > most / 8 || late() {
                break;
            }
        }
        self.note("first orders of nodes", &found);
        let paths = Paths::new(self.model, self.machines, self.max_stages());
        let mut effort = 0;
        self.bound(&paths, &mut found, &mut effort, &late);
        self.note("what nodes used twice could do", &found);
        let provable = self.deepen(&paths, &mut found, &mut effort, &late);
        self.note("search in depth", &found);

        let order = order_of(&found.route, count);
        let start = Start { order: &order, best: found.value, bound: found.bound, shared: false };
        let mut random = Random::new(self.options.seed);
        let all = orders.effort + most / 2;
        if let Some((value, route)) = orders.anneal(start, &mut random, all, &late) {
            (found.value, found.route) = (value, route);
        }
        self.note("changes of the order", &found);
        // Is it the best already?
        let mut effort = 0;
        while provable && found.value > found.bound * (1.0 + ROUNDING) && !late() {
            match paths.within(found.value * (1.0 - 1e-12), &mut effort, most / 8, Depth::Full) {
                Outcome::Found(route) => (found.value, found.route) = (self.bottleneck(&route), route),
                Outcome::Impossible => found.bound = found.value,
                Outcome::OutOfEffort => break,
            }
        }
        found
    }

    /// Raises the bound to what would be impossible even if nodes could be used twice.
    fn bound(&self, paths: &Paths<'_>, found: &mut Found, effort: &mut u64, late: &dyn Fn() -> bool) {
        let mut impossible = |found: &mut Found, limit: f64| {
            let outcome = paths.within(limit, effort, self.effort() / 8, Depth::Relaxed);
            let proved = matches!(outcome, Outcome::Impossible);
            if proved {
                found.bound = limit;
            }
            proved
        };
        // Mostly it says nothing that the sum of all work does not say.
        let first = found.bound + (found.value - found.bound) / 50.0;
        if found.value <= found.bound * (1.0 + ROUNDING) || !impossible(found, first) {
            return;
        }
        let mut high = found.value;
        while high - found.bound > 1e-3 * high && !late() {
            let limit = (found.bound + high) / 2.0;
            if !impossible(found, limit) {
                high = limit;
            }
        }
    }

    /// Looks in depth for chains between the bound and what is known, as long as that is found or refuted soon.
    /// `false` where that is hopeless.
    fn deepen(&self, paths: &Paths<'_>, found: &mut Found, effort: &mut u64, late: &dyn Fn() -> bool) -> bool {
        // Whether there is something between the bound and this is not known.
        let mut open = found.bound;
        let mut tries = 4;
        while found.value - open > 1e-4 * found.value && tries > 0 && !late() {
            let limit = (found.value + open) / 2.0;
            let most = *effort + self.effort() / 16;
            match paths.within(limit, effort, most, Depth::Full) {
                Outcome::Found(route) => {
                    found.value = self.bottleneck(&route);
                    found.route = route;
                }
                Outcome::Impossible => (found.bound, open) = (found.bound.max(limit), limit),
                Outcome::OutOfEffort => (open, tries) = (limit, tries - 1),
            }
        }
        tries > 0
    }

    /// Orders that are worth a look: what is known, fastest first and last, and along the fastest links.
    fn first_orders(&self, route: &Route) -> Vec<Order> {
        let count = self.machines.count();
        let mut by_speed: Vec<usize> = (0..count).collect();
        by_speed.sort_by(|a, b| self.machines.speed[*b].total_cmp(&self.machines.speed[*a]));
        let single = |nodes: &mut dyn Iterator<Item = usize>| nodes.map(|node| vec![node]).collect::<Order>();
        let mut orders = vec![
            order_of(route, count),
            single(&mut by_speed.iter().copied()),
            single(&mut by_speed.iter().rev().copied()),
        ];
        for start in by_speed.into_iter().take(2) {
            let mut path = vec![start];
            while path.len() < count {
                let last = path[path.len() - 1];
                let cost = |node: &usize| self.machines.hop(&[last], &[*node]).ms_per_byte;
                let free = (0..count).filter(|node| !path.contains(node));
                let next = free.min_by(|a, b| cost(a).total_cmp(&cost(b)));
                path.extend(next);
            }
            orders.push(single(&mut path.into_iter()));
        }
        orders
    }
}

/// The groups of `route` in order, then every other node.
pub(super) fn order_of(route: &Route, count: usize) -> Order {
    let mut order: Order = route.legs.iter().map(|leg| leg.nodes.clone()).collect();
    let used: Vec<usize> = order.iter().flatten().copied().collect();
    order.extend((0..count).filter(|node| !used.contains(node)).map(|node| vec![node]));
    order
}
