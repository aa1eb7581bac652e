//! Fusion groups: nodes that engines run as one operation stay together. They are what cuts fall between.

mod groups;
mod ops;
mod rules;

use crate::graph::Network;
use std::collections::BTreeSet;

/// Nodes that stay in one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atom {
    /// The tensor that the group's last node produces, nodes that only measure a shape aside.
    pub name: String,
    /// Indices into [`Network::nodes`], ascending, which is a topological order; never empty.
    pub nodes: Vec<usize>,
    /// Bytes of the constants that the nodes read, each counted once.
    pub weights_bytes: u64,
}

impl Atom {
    pub(crate) fn new(network: &Network, nodes: Vec<usize>) -> Self {
        let reads: BTreeSet<&str> = nodes.iter().flat_map(|&n| network.nodes[n].reads()).collect();
        let constants = reads.iter().filter_map(|name| network.initializers.get(*name));
        let weights_bytes = constants.map(|tensor| tensor.raw_data().len() as u64).sum();
        let computes = |n: &&usize| !ops::is_shape_source(&network.nodes[**n]);
        let last = nodes.iter().rev().find(computes).or(nodes.last());
        let last = last.and_then(|&n| network.nodes[n].writes().next());
        Self { name: last.unwrap_or_default().to_owned(), nodes, weights_bytes }
    }
}

/// All fusion groups of a network, in topological order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atoms {
    pub atoms: Vec<Atom>,
}

impl Atoms {
    /// Groups the nodes of `network`. The same network gives the same groups in the same order.
    pub fn new(network: &Network) -> Self {
        let mut groups = groups::Groups::new(network);
        rules::apply(network, &mut groups);
        Self { atoms: groups.sorted().into_iter().map(|nodes| Atom::new(network, nodes)).collect() }
    }

    /// Every node a group of its own: every topological cut that the file's order has, fused or not.
    pub fn single_nodes(network: &Network) -> Self {
        Self { atoms: (0..network.nodes.len()).map(|n| Atom::new(network, vec![n])).collect() }
    }

    /// Index of the group that holds `node`.
    pub fn of_node(&self, node: usize) -> usize {
        let found = self.atoms.iter().position(|atom| atom.nodes.binary_search(&node).is_ok());
        found.expect("every node is in one group")
    }
}
