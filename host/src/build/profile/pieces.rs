//! Pieces: fusion groups that no cut can come between are one.

use super::obstacles;
use crate::build::shapes::Trace;
use defer_partition::cut::crossings;
use defer_partition::{Atoms, Network};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A network as a chain of pieces, with a boundary between each two.
pub(in crate::build) struct Pieces {
    /// Groups after which a cut may come, ascending; the pieces lie between.
    pub boundaries: Vec<usize>,
    /// Names of the tensors that cross each of them.
    pub crossing: Vec<Vec<String>>,
    /// Bytes of these.
    pub bytes: Vec<u64>,
    /// Who makes and who reads each tensor that crosses a boundary.
    pub lives: BTreeMap<String, Life>,
    /// The tensor that each piece ends with, its weights, and the most that its activations take at once.
    pub sizes: Vec<Size>,
    groups: usize,
}

/// Pieces that have to do with a tensor.
#[derive(Default)]
pub(in crate::build) struct Life {
    /// None for an input of the network.
    pub made: Option<usize>,
    pub used: BTreeSet<usize>,
}

pub(in crate::build) struct Size {
    pub name: String,
    pub weights_bytes: u64,
    pub activation_peak_bytes: u64,
}

impl Pieces {
    pub fn new(network: &Network, atoms: &Atoms, trace: &Trace) -> Self {
        let obstacles = obstacles(network, atoms, trace);
        let boundaries: Vec<usize> = (0..obstacles.len()).filter(|&at| obstacles[at].is_none()).collect();
        let size = |name: &&str| trace.tensors.get(*name).map_or(0, |tensor| tensor.data.len() as u64);
        let all = crossings(network, atoms);
        let bytes = boundaries.iter().map(|&at| all[at].iter().map(size).sum()).collect();
        let crossing = boundaries.iter().map(|&at| all[at].iter().map(|&name| name.to_owned()).collect()).collect();
        let mut pieces =
            Self { boundaries, crossing, bytes, lives: BTreeMap::new(), sizes: Vec::new(), groups: atoms.atoms.len() };
        pieces.lives = pieces.lives(network, atoms);
        let live = |group: usize| {
            // While a group runs, what crosses the boundaries on either side of it is there.
            let before = match group.checked_sub(1) {
                Some(before) => all[before].clone(),
                None => network.inputs().iter().map(|input| input.name.as_str()).collect(),
            };
            let after = match all.get(group) {
                Some(after) => after.clone(),
                None => network.outputs().iter().map(String::as_str).collect(),
            };
            before.into_iter().chain(after).collect::<BTreeSet<_>>().iter().map(size).sum::<u64>()
        };
        let describe = |piece: usize| {
            let groups = pieces.groups(&(piece..piece + 1));
            Size {
                name: atoms.atoms[groups.end - 1].name.clone(),
                weights_bytes: atoms.atoms[groups.clone()].iter().map(|atom| atom.weights_bytes).sum(),
                activation_peak_bytes: groups.map(live).max().unwrap_or_default(),
            }
        };
        let sizes = (0..pieces.count()).map(describe).collect();
        Self { sizes, ..pieces }
    }

    pub fn count(&self) -> usize {
        self.boundaries.len() + 1
    }

    /// The groups of a run of pieces.
    pub fn groups(&self, run: &Range<usize>) -> Range<usize> {
        let from = if run.start == 0 { 0 } else { self.boundaries[run.start - 1] + 1 };
        let to = self.boundaries.get(run.end - 1).map_or(self.groups, |at| at + 1);
        from..to
    }

    /// The most that activations take at once in a run of pieces, in bytes.
    pub fn peak(&self, run: &Range<usize>) -> u64 {
        self.sizes[run.clone()].iter().map(|size| size.activation_peak_bytes).max().unwrap_or_default()
    }

    /// The piece that a group belongs to.
    pub fn of_group(&self, group: usize) -> usize {
        self.boundaries.partition_point(|&at| at < group)
    }

    fn lives(&self, network: &Network, atoms: &Atoms) -> BTreeMap<String, Life> {
        let names = self.crossing.iter().flatten().cloned();
        let mut lives: BTreeMap<String, Life> = names.map(|name| (name, Life::default())).collect();
        for (group, atom) in atoms.atoms.iter().enumerate() {
            let piece = self.of_group(group);
            for node in atom.nodes.iter().map(|&node| &network.nodes()[node]) {
                for name in node.writes() {
                    if let Some(life) = lives.get_mut(name) {
                        life.made = Some(piece);
                    }
                }
                for name in node.reads() {
                    if let Some(life) = lives.get_mut(name) {
                        life.used.insert(piece);
                    }
                }
            }
        }
        lives
    }
}
