//! Groups of nodes that can be computed one after the other: merging never makes two groups wait for each other.

use crate::graph::Network;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

pub(super) struct Groups {
    /// Group of each node.
    of: Vec<usize>,
    /// Nodes of each group, ascending; empty for a group that was merged into another.
    members: Vec<Vec<usize>>,
    /// Nodes that read what each node makes, ascending, each once, and the reverse.
    pub(super) next: Vec<Vec<usize>>,
    pub(super) previous: Vec<Vec<usize>>,
}

impl Groups {
    /// Each node a group of its own.
    pub(super) fn new(network: &Network) -> Self {
        let count = network.nodes.len();
        let producers: HashMap<&str, usize> = network.producers();
        let mut next = vec![Vec::new(); count];
        let mut previous = vec![Vec::new(); count];
        for (index, node) in network.nodes.iter().enumerate() {
            let before: BTreeSet<usize> = node.reads().filter_map(|n| producers.get(n).copied()).collect();
            before.iter().for_each(|&p| next[p].push(index));
            previous[index] = before.into_iter().collect();
        }
        Self { of: (0..count).collect(), members: (0..count).map(|n| vec![n]).collect(), next, previous }
    }

    pub(super) fn of(&self, node: usize) -> usize {
        self.of[node]
    }

    pub(super) fn members(&self, node: usize) -> &[usize] {
        &self.members[self.of[node]]
    }

    /// Puts the groups of `nodes` together, unless another group would then be both before and after them.
    pub(super) fn merge(&mut self, nodes: &[usize]) -> bool {
        let groups: BTreeSet<usize> = nodes.iter().map(|&n| self.of[n]).collect();
        if groups.len() < 2 {
            return true;
        }
        if !self.detours(&groups).is_empty() {
            return false;
        }
        self.join(groups);
        true
    }

    /// Puts the groups of `nodes` together, with every group between them.
    pub(super) fn merge_with_between(&mut self, nodes: &[usize]) {
        let mut groups: BTreeSet<usize> = nodes.iter().map(|&n| self.of[n]).collect();
        groups.extend(self.detours(&groups));
        self.join(groups);
    }

    fn join(&mut self, groups: BTreeSet<usize>) {
        let mut groups = groups.into_iter();
        let Some(first) = groups.next() else { return };
        for group in groups {
            for node in std::mem::take(&mut self.members[group]) {
                self.of[node] = first;
                self.members[first].push(node);
            }
        }
        self.members[first].sort_unstable();
    }

    /// Groups outside `groups` on a path from one of them to another.
    fn detours(&self, groups: &BTreeSet<usize>) -> BTreeSet<usize> {
        // Nodes are in topological order: no path back can pass a node after the last of these.
        let Some(last) = groups.iter().filter_map(|&g| self.members[g].last().copied()).max() else {
            return BTreeSet::new();
        };
        let after = self.reach(groups, &self.next, |group| self.members[group][0] <= last);
        if !after.iter().any(|&g| self.neighbours(g, &self.next).any(|n| groups.contains(&n))) {
            return BTreeSet::new();
        }
        let first = groups.iter().map(|&g| self.members[g][0]).min().unwrap_or(0);
        let before = self.reach(groups, &self.previous, |group| self.members[group].last() >= Some(&first));
        after.intersection(&before).copied().collect()
    }

    /// Groups that can be reached from `groups` along `edges` through groups that `enter` admits, without `groups`.
    fn reach(&self, groups: &BTreeSet<usize>, edges: &[Vec<usize>], enter: impl Fn(usize) -> bool) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = groups.iter().copied().collect();
        while let Some(group) = open.pop() {
            for other in self.neighbours(group, edges) {
                if !groups.contains(&other) && enter(other) && found.insert(other) {
                    open.push(other);
                }
            }
        }
        found
    }

    fn neighbours<'a>(&'a self, group: usize, edges: &'a [Vec<usize>]) -> impl Iterator<Item = usize> + 'a {
        let nodes = self.members[group].iter().flat_map(move |&n| &edges[n]);
        nodes.map(|&n| self.of[n]).filter(move |&other| other != group)
    }

    /// The groups in topological order; of those that could come next, the one whose last node is first in the file.
    pub(super) fn sorted(self) -> Vec<Vec<usize>> {
        let count = self.members.len();
        let before = |g: usize| self.neighbours(g, &self.previous).collect::<BTreeSet<_>>();
        let mut missing: Vec<usize> = (0..count).map(|g| before(g).len()).collect();
        let key = |g: usize| self.members[g].last().map(|&last| Reverse((last, g)));
        let mut ready: BinaryHeap<_> = (0..count).filter(|&g| missing[g] == 0).filter_map(key).collect();
        let mut order = Vec::with_capacity(count);
        while let Some(Reverse((_, group))) = ready.pop() {
            order.push(group);
            for other in self.neighbours(group, &self.next).collect::<BTreeSet<_>>() {
                missing[other] -= 1;
                if missing[other] == 0 {
                    ready.extend(key(other));
                }
            }
        }
        let mut members = self.members;
        order.into_iter().map(|g| std::mem::take(&mut members[g])).collect()
    }
}
