//! What a cluster file says, arranged for search: nodes, classes of nodes that are alike, and groups of nodes.

use crate::cluster::{Cluster, ClusterError, Link};

/// The machines.
pub(super) struct Machines {
    pub speed: Vec<f64>,
    pub memory: Vec<u64>,
    links: Vec<Vec<Link>>,
    pub dispatcher: Link,
}

/// One node, or several that share a stage's requests by their speeds, as one machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// Of all its nodes together.
    pub speed: f64,
    /// Of the one that has least.
    pub memory: u64,
    /// By how much a request's time in a stage is longer than the work at speed 1: the mean over the nodes' shares.
    pub delay: f64,
}

/// What a hop between two groups costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    /// Of the busiest pair, per byte that goes from group to group.
    pub ms_per_byte: f64,
    /// Of one request, on average over the pairs.
    pub delay_ms_per_byte: f64,
    pub latency_ms: f64,
}

impl Hop {
    /// How long `bytes` take from group to group, on average.
    pub fn delay(&self, bytes: f64) -> f64 {
        bytes * self.delay_ms_per_byte + self.latency_ms
    }
}

impl Machines {
    pub fn new(cluster: &Cluster) -> Result<Self, ClusterError> {
        Ok(Self {
            speed: cluster.nodes.iter().map(|node| node.speed).collect(),
            memory: cluster.nodes.iter().map(|node| node.memory_bytes).collect(),
            links: cluster.links()?,
            dispatcher: cluster.dispatcher_link(),
        })
    }

    pub fn count(&self) -> usize {
        self.speed.len()
    }

    pub fn total_speed(&self) -> f64 {
        self.speed.iter().sum()
    }

    /// Speed of the `count` fastest together.
    pub fn fastest(&self, count: usize) -> f64 {
        let mut speeds = self.speed.clone();
        speeds.sort_by(|a, b| b.total_cmp(a));
        speeds.iter().take(count).sum()
    }

    pub fn group(&self, nodes: &[usize]) -> Group {
        let speed = nodes.iter().map(|node| self.speed[*node]).sum();
        let memory = nodes.iter().map(|node| self.memory[*node]).min().unwrap_or(0);
        Group { speed, memory, delay: nodes.len() as f64 / speed }
    }

    /// The hop from the nodes `from` to the nodes `to`. A pair carries the product of its nodes' shares.
    pub fn hop(&self, from: &[usize], to: &[usize]) -> Hop {
        let total = |nodes: &[usize]| nodes.iter().map(|node| self.speed[*node]).sum::<f64>();
        let (all_from, all_to) = (total(from), total(to));
        let mut hop = Hop { ms_per_byte: 0.0, delay_ms_per_byte: 0.0, latency_ms: 0.0 };
        for &a in from {
            for &b in to {
                let share = (self.speed[a] / all_from) * (self.speed[b] / all_to);
                let Link { bandwidth_bps, latency_ms } = self.links[a][b];
                let ms = 8e3 / bandwidth_bps;
                hop.ms_per_byte = hop.ms_per_byte.max(share * ms);
                // One request goes over one pair, as a whole.
                hop.delay_ms_per_byte += share * ms;
                hop.latency_ms += share * latency_ms;
            }
        }
        hop
    }

    /// Nodes that can take each other's place, by class. Classes are in the order of their first nodes.
    pub fn classes(&self) -> Vec<Vec<usize>> {
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for node in 0..self.count() {
            match classes.iter_mut().find(|class| self.alike(class[0], node)) {
                Some(class) => class.push(node),
                None => classes.push(vec![node]),
            }
        }
        classes
    }

    fn alike(&self, a: usize, b: usize) -> bool {
        let elsewhere = |x: &usize| *x != a && *x != b;
        self.speed[a] == self.speed[b]
            && self.memory[a] == self.memory[b]
            && self.links[a][b] == self.links[b][a]
            && (0..self.count())
                .filter(elsewhere)
                .all(|x| self.links[a][x] == self.links[b][x] && self.links[x][a] == self.links[x][b])
    }
}
