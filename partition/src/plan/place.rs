//! From a profile and a cluster to a plan: which search answers, and what the alternatives are.

use super::error::{NoPlan, megabytes};
use super::exact::Exact;
use super::machines::Machines;
use super::many::order_of;
use super::memory::{Fit, Memory};
use super::model::{Model, ROUNDING};
use super::placement::{Alternative, Kind, Placement, throughput};
use super::route::{Cost, Leg, Route, dispatcher};
use super::search::{Orders, Start};
use super::swift::{self, Nodes, swift};
use crate::cluster::Cluster;
use crate::profile::Profile;
use crate::testing::Random;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// What a plan is to be good at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The smallest bottleneck; of plans with the same one, the exact planner takes the one with the least latency.
    #[default]
    Throughput,
    /// The least latency of one inference when there is no other.
    Latency,
}

/// Whether a stage may run on several nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    #[default]
    Off,
    Auto,
}

/// What is asked of the planner.
#[derive(Clone, Debug)]
pub struct Options {
    pub objective: Objective,
    /// At least 1.
    pub max_stages: Option<usize>,
    pub replicas: Replicas,
    /// How long to look where not all plans can be looked at. It counts as effort, a third of what one core does in that
    /// time, so that it gives the same plan on any machine.
    pub budget: Duration,
    /// When to end by the clock even so, as a machine does that is slow or has other work; then the plan is what was
    /// found until then. Proofs that are promised are not ended.
    pub deadline: Option<Duration>,
    pub seed: u64,
    /// Codecs that may be used; without it, all that the profile has.
    pub codecs: Option<Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            objective: Objective::Throughput,
            max_stages: None,
            replicas: Replicas::Off,
            budget: Duration::from_secs(10),
            deadline: None,
            seed: 1,
            codecs: None,
        }
    }
}

/// Steps of effort that count as a second of the budget: a third of what one core does (AMD EPYC, 2026).
const EFFORT: f64 = 3.3e8;

/// Nodes up to which plans without replicas are always proved the best.
pub const EXACT_NODES: usize = 8;

/// The best plan for running `profile` on `cluster`.
pub fn place(profile: &Profile, cluster: &Cluster, options: &Options) -> Result<Placement, NoPlan> {
    place_noting(profile, cluster, options, &|_| {})
}

/// The same; `note` is told, line by line, how it was found.
pub fn place_noting(
    profile: &Profile,
    cluster: &Cluster,
    options: &Options,
    note: &dyn Fn(&str),
) -> Result<Placement, NoPlan> {
    profile.check().map_err(|cause| NoPlan::Invalid(format!("the profile cannot be used: {cause}")))?;
    cluster.check().map_err(|cause| NoPlan::Invalid(format!("the cluster cannot be used: {cause}")))?;
    if options.max_stages == Some(0) {
        return Err(NoPlan::Invalid("cannot plan 0 stages; allow at least 1".to_owned()));
    }
    if let Some(unknown) = options.codecs.iter().flatten().find(|name| !has_codec(profile, name)) {
        return Err(NoPlan::Invalid(format!("no cut of the profile has figures for codec {unknown}")));
    }
    let started = Instant::now();
    let machines = Machines::new(cluster).map_err(|error| NoPlan::Invalid(error.to_string()))?;
    let largest = machines.memory.iter().copied().max().unwrap_or(0);
    let allowed = |name: &str| options.codecs.as_ref().is_none_or(|codecs| codecs.iter().any(|codec| codec == name));
    let model = Model::new(profile, allowed, largest);
    note(&format!(
        "{} atoms, {} places to cut with {} codecs worth a try; {} nodes of {} classes",
        profile.atoms.len(),
        model.positions().len() - 2,
        model.points.len() - 2,
        machines.count(),
        machines.classes().len()
    ));
    let (model, machines, cut_short) = (&model, &machines, Cell::new(false));
    Planner { profile, cluster, options, model, machines, started, cut_short, note }.place()
}

fn has_codec(profile: &Profile, name: &str) -> bool {
    profile.cuts.is_empty() || profile.cuts.iter().flat_map(|cut| &cut.codecs).any(|codec| codec.name == name)
}

/// A plan, and what is known about how good it is.
pub(super) struct Found {
    pub route: Route,
    pub value: f64,
    pub bound: f64,
}

pub(super) struct Planner<'a> {
    pub profile: &'a Profile,
    pub cluster: &'a Cluster,
    pub options: &'a Options,
    pub model: &'a Model,
    pub machines: &'a Machines,
    pub started: Instant,
    /// Whether the deadline has ended a search.
    pub cut_short: Cell<bool>,
    pub note: &'a dyn Fn(&str),
}

impl Planner<'_> {
    fn place(&self) -> Result<Placement, NoPlan> {
        let fits = Memory::new(self.model).fit(&self.machines.memory, self.max_stages());
        let Fit::Fits(stages) = fits else { return Err(self.too_little(&fits)) };
        let first = self.fitting(&stages);
        let single = self.single();
        let replication = self.replication();
        let chain = match self.options.objective {
            Objective::Throughput => self.chain(&first, single.as_ref()),
            Objective::Latency => self.quickest(&first, single.as_ref()),
        };
        let alternatives = vec![
            self.alternative(Kind::Chain, Some(&chain.route)),
            self.alternative(Kind::Replication, replication.as_ref()),
            self.alternative(Kind::Single, single.as_ref()),
        ];
        let best = if self.shares() { self.shared(chain, replication) } else { chain };
        let cost = self.cost(&best.route);
        // What rounds must not turn a bound into a contradiction.
        let bound = best.bound.min(best.value);
        Ok(Placement {
            objective: self.options.objective,
            bottleneck_ms: cost.bottleneck,
            throughput_rps: throughput(cost.bottleneck),
            latency_ms: cost.latency,
            lower_bound_ms: bound,
            optimal: best.value <= bound * (1.0 + ROUNDING),
            cut_short: self.cut_short.get(),
            kind: best.route.kind(),
            input_link_ms: self.machines.dispatcher.ms(self.profile.input_bytes),
            stages: best.route.stages(self.model, self.machines, self.cluster),
            alternatives,
        })
    }

    pub(super) fn note(&self, what: &str, found: &Found) {
        let seconds = self.started.elapsed().as_secs_f64();
        (self.note)(&format!("{seconds:.2} s, {what}: {:.4} ms, bound {:.4} ms", found.value, found.bound));
    }

    pub(super) fn max_stages(&self) -> usize {
        self.options.max_stages.unwrap_or(usize::MAX).min(self.machines.count())
    }

    fn cost(&self, route: &Route) -> Cost {
        route.cost(self.model, self.machines)
    }

    pub(super) fn bottleneck(&self, route: &Route) -> f64 {
        self.cost(route).bottleneck
    }

    fn alternative(&self, kind: Kind, route: Option<&Route>) -> Alternative {
        let stages = |route: &Route| route.stages(self.model, self.machines, self.cluster);
        match route {
            Some(route) => Alternative::possible(kind, self.cost(route), stages(route)),
            None => Alternative::impossible(kind, self.whole_is_too_large(kind)),
        }
    }

    fn whole_is_too_large(&self, kind: Kind) -> String {
        let (_, need) = self.model.memory(0, self.profile.atoms.len());
        match kind {
            Kind::Replication => {
                format!("the whole network needs {}, and fewer than two nodes have that", megabytes(need))
            }
            _ => format!("the whole network needs {}, and no node has that", megabytes(need)),
        }
    }

    /// Nodes that have room for the whole network.
    fn roomy(&self) -> Vec<usize> {
        let (_, need) = self.model.memory(0, self.profile.atoms.len());
        (0..self.machines.count()).filter(|node| self.machines.memory[*node] >= need).collect()
    }

    fn whole_on(&self, nodes: Vec<usize>) -> Route {
        Route { legs: vec![Leg { nodes, from: 0, to: self.model.end() }] }
    }

    fn single(&self) -> Option<Route> {
        let speed = |node: &usize| self.machines.speed[*node];
        let best = self.roomy().into_iter().reduce(|best, node| if speed(&node) > speed(&best) { node } else { best });
        best.map(|node| self.whole_on(vec![node]))
    }

    /// The whole network on every node that has room: each one more makes all faster.
    fn replication(&self) -> Option<Route> {
        let nodes = self.roomy();
        (nodes.len() > 1).then(|| self.whole_on(nodes))
    }

    /// The plan that the search for enough memory came upon, with the first codec of each cut.
    fn fitting(&self, stages: &[(usize, usize)]) -> Route {
        let mut from = 0;
        let legs = stages.iter().map(|(node, at)| {
            let to = self.model.points.iter().position(|point| point.at == *at);
            let to = to.expect("positions are those of points");
            Leg { nodes: vec![*node], from: std::mem::replace(&mut from, to), to }
        });
        Route { legs: legs.collect() }
    }

    /// What no plan can beat: the dispatcher's link, and all work shared by all nodes.
    fn least(&self, nodes: usize) -> f64 {
        let work = self.model.rest[0] / self.machines.fastest(nodes);
        dispatcher(self.model, self.machines).bottleneck.max(work)
    }

    /// Whether a search has to give a proof however long that takes.
    fn always_exact(&self) -> bool {
        self.machines.count() <= EXACT_NODES || self.machines.classes().len() == 1
    }

    pub(super) fn effort(&self) -> u64 {
        (self.options.budget.as_secs_f64() * EFFORT) as u64
    }

    /// Whether this share of the deadline is over. Ask only where there is more to do: a yes counts as cutting it short.
    pub(super) fn past(&self, share: f64) -> bool {
        let late = self.options.deadline.is_some_and(|deadline| self.started.elapsed() > deadline.mul_f64(share));
        self.cut_short.set(self.cut_short.get() || late);
        late
    }

    /// Whether stages may run on several nodes. Latency gains nothing by that.
    pub(super) fn shares(&self) -> bool {
        self.options.replicas == Replicas::Auto && self.options.objective == Objective::Throughput
    }

    /// The best chain.
    fn chain(&self, first: &Route, single: Option<&Route>) -> Found {
        let mut best = first.clone();
        if let Some(single) = single.filter(|single| self.bottleneck(single) < self.bottleneck(&best)) {
            best = single.clone();
        }
        let bound = self.least(self.max_stages());
        let found = Found { value: self.bottleneck(&best), route: best, bound };
        match Exact::new(self.model, self.machines, self.max_stages(), false) {
            Some(exact) => {
                let found = self.narrow(&exact, found, Limits { low: 0.0, always: self.always_exact() });
                self.note("all sets of nodes", &found);
                match found.value <= found.bound * (1.0 + ROUNDING) {
                    true => found,
                    false => self.many(found),
                }
            }
            None => self.many(found),
        }
    }

    /// Asks for plans within ever closer limits, until the best is proved or, unless it must be, effort is spent.
    fn narrow(&self, exact: &Exact<'_>, mut found: Found, limits: Limits) -> Found {
        let mut effort = 0;
        let mut near = 1e-3;
        let spent = |effort: u64| !limits.always && (effort > self.effort() / 2 || self.past(0.4));
        found.bound = found.bound.max(limits.low);
        while found.value > found.bound * (1.0 + ROUNDING) && !spent(effort) {
            let strict = found.value - found.bound <= near * found.value;
            // Just below what is known: if there is nothing, that is the best.
            let limit = if strict { found.value * (1.0 - 1e-12) } else { (found.value + found.bound) / 2.0 };
            match exact.within(self.machines, limit, &mut effort) {
                Some(route) => {
                    found.value = self.bottleneck(&route);
                    found.route = route;
                    near = if strict { near / 10.0 } else { near };
                }
                None if strict => found.bound = found.value,
                None => found.bound = limit,
            }
        }
        if found.value <= found.bound * (1.0 + ROUNDING) {
            let latency = self.cost(&found.route).latency - dispatcher(self.model, self.machines).latency;
            let limit = found.value * (1.0 + 1e-12);
            if let Some(route) = exact.quickest(self.machines, limit, latency * (1.0 - ROUNDING), &mut effort) {
                found.value = self.bottleneck(&route);
                found.bound = found.bound.min(found.value);
                found.route = route;
            }
        }
        found
    }

    /// The best plan of all, stages on several nodes among them.
    fn shared(&self, chain: Found, replication: Option<Route>) -> Found {
        let bound = self.least(self.machines.count());
        let mut best = Found { value: chain.value, route: chain.route, bound };
        if let Some(route) = replication.filter(|route| self.bottleneck(route) < best.value) {
            best = Found { value: self.bottleneck(&route), route, bound };
        }
        let exact = Exact::new(self.model, self.machines, self.max_stages(), true);
        if let Some(exact) = exact {
            let always = self.machines.classes().len() == 1 || self.machines.count() <= 3;
            best = self.narrow(&exact, best, Limits { low: bound, always });
            self.note("all sets of groups", &best);
        }
        if best.value <= best.bound * (1.0 + ROUNDING) {
            return best;
        }
        let mut orders = Orders::new(self.model, self.machines, self.max_stages());
        let order = order_of(&best.route, self.machines.count());
        let start = Start { order: &order, best: best.value, bound: best.bound, shared: true };
        let mut random = Random::new(self.options.seed);
        let stop = || self.past(0.95);
        if let Some((value, route)) = orders.anneal(start, &mut random, self.effort() / 2, &stop) {
            (best.value, best.route) = (value, route);
        }
        self.note("changes of groups", &best);
        best
    }

    /// The chain with the least latency. With the whole network on the fastest node nothing is faster; otherwise as exact
    /// as [`Self::chain`].
    fn quickest(&self, first: &Route, single: Option<&Route>) -> Found {
        let latency = |route: &Route| self.cost(route).latency;
        let mut best = first.clone();
        if let Some(single) = single.filter(|single| latency(single) < latency(&best)) {
            best = single.clone();
        }
        let ways = dispatcher(self.model, self.machines).latency;
        let bound = ways + self.model.rest[0] / self.machines.fastest(1);
        let mut found = Found { value: latency(&best), route: best, bound };
        if found.value <= found.bound * (1.0 + ROUNDING) {
            return found;
        }
        let mut effort = 0;
        let exact = Exact::new(self.model, self.machines, self.max_stages(), false);
        if let Some(exact) = exact.filter(Exact::can_time) {
            let limit = (found.value - ways) * (1.0 - 1e-12);
            if let Some(route) = exact.quickest(self.machines, f64::INFINITY, limit, &mut effort) {
                found.value = latency(&route);
                found.route = route;
            }
            found.bound = found.value;
            return found;
        }
        if self.machines.count() > swift::NODES {
            return found;
        }
        // A label that has come sooner with more stages may not go on: no bound can be had where their number counts.
        let soonest = |best: f64, nodes| {
            let most = if nodes == Nodes::Once { self.max_stages() } else { usize::MAX };
            swift(self.model, self.machines, most, best, nodes)
        };
        // Nothing sooner even if nodes could come twice: what is known is the best.
        let (bound, sooner) = match soonest(found.value - ways, Nodes::Again) {
            Some((ms, _)) => (ways + ms, true),
            None => (found.value, false),
        };
        found.bound = found.bound.max(bound.min(found.value));
        if let Some((_, route)) = sooner.then(|| soonest(found.value - ways, Nodes::Once)).flatten()
            && latency(&route) < found.value
        {
            found.value = latency(&route);
            found.route = route;
        }
        found
    }
}

struct Limits {
    low: f64,
    always: bool,
}
