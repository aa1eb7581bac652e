//! Cuts: which nodes each stage runs, and which tensors pass from stage to stage.

mod named;

use crate::atoms::Atoms;
use crate::graph::Network;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

pub use named::Warning;

/// Why a network cannot be cut where it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    #[error("cut after fusion group {boundary} of {atoms}: cuts must increase and leave a group after the last")]
    Boundary { boundary: usize, atoms: usize },
    #[error("no tensor \"{tensor}\" in the network{hint}")]
    Unknown { tensor: String, hint: String },
    #[error("cannot cut at \"{tensor}\": it is a constant, which each stage holds itself")]
    Constant { tensor: String },
    #[error("cannot cut at \"{tensor}\": it is an input of the network, and nothing would come before the cut")]
    Input { tensor: String },
    #[error("cannot cut at \"{tensor}\": nothing would come after the cut")]
    Last { tensor: String },
    #[error(
        "cannot cut at \"{tensor}\" after \"{before}\": it is computed earlier or together with it; list cuts in the order of the network, each once"
    )]
    Order { tensor: String, before: String },
}

/// What one stage computes, takes and hands on. All names sorted by their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub index: usize,
    /// Fusion groups of the stage.
    pub atoms: Range<usize>,
    /// Indices into [`Network::nodes`], ascending, never empty.
    pub nodes: Vec<usize>,
    /// Tensors that the stage's slice reads and does not produce: network inputs, or from earlier stages.
    pub inputs: Vec<String>,
    /// Tensors that the stage's slice produces and that a later stage reads or that are network outputs.
    pub outputs: Vec<String>,
    /// Tensors that enter the stage and leave it as they are, since a later stage reads them or they are network
    /// outputs. May overlap `inputs`.
    pub forwards: Vec<String>,
}

impl Stage {
    /// Every tensor that enters the stage: `inputs` and `forwards`, sorted, each once.
    pub fn entering(&self) -> Vec<&str> {
        sorted(self.inputs.iter().chain(&self.forwards))
    }

    /// Every tensor that leaves the stage: `outputs` and `forwards`, sorted, each once.
    pub fn leaving(&self) -> Vec<&str> {
        sorted(self.outputs.iter().chain(&self.forwards))
    }
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    names.map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A network cut into stages.
///
/// What leaves a stage is what enters the next. The first stage is entered by those network inputs that something
/// reads (one that nothing reads is in no stage: whoever feeds the chain drops it); exactly the network's outputs
/// leave the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub stages: Vec<Stage>,
}

impl Partition {
    /// Cuts after each of the fusion groups `boundaries`, strictly increasing. No boundary: one stage.
    pub fn new(network: &Network, atoms: &Atoms, boundaries: &[usize]) -> Result<Self, CutError> {
        let count = atoms.atoms.len();
        let mut ranges = Vec::with_capacity(boundaries.len() + 1);
        let mut from = 0;
        for &boundary in boundaries {
            if boundary < from || boundary + 1 >= count {
                return Err(CutError::Boundary { boundary, atoms: count });
            }
            ranges.push(from..boundary + 1);
            from = boundary + 1;
        }
        ranges.push(from..count);

        let lives = Lives::new(network, &stage_of_nodes(network, atoms, &ranges), ranges.len());
        let stages = ranges.into_iter().enumerate().map(|(index, range)| lives.stage(network, atoms, index, range));
        Ok(Self { stages: stages.collect() })
    }

    /// Tensors that cross from stage `boundary` to the next one, sorted.
    pub fn crossing(&self, boundary: usize) -> Vec<&str> {
        self.stages.get(boundary).map(Stage::leaving).unwrap_or_default()
    }
}

/// Tensors that would cross each boundary between consecutive fusion groups, if the network were cut there: entry k
/// lists, sorted, what crosses a cut after group k. One fewer than groups.
pub fn crossings<'a>(network: &'a Network, atoms: &Atoms) -> Vec<Vec<&'a str>> {
    let count = atoms.atoms.len();
    let ranges: Vec<Range<usize>> = (0..count).map(|k| k..k + 1).collect();
    let lives = Lives::new(network, &stage_of_nodes(network, atoms, &ranges), count);
    let mut crossing = vec![Vec::new(); count.saturating_sub(1)];
    for (name, life) in &lives.of {
        let from = life.made.unwrap_or(0);
        for list in crossing.iter_mut().take(life.needed).skip(from) {
            list.push(*name);
        }
    }
    crossing
}

fn stage_of_nodes(network: &Network, atoms: &Atoms, ranges: &[Range<usize>]) -> Vec<usize> {
    let mut stage = vec![0; network.nodes.len()];
    for (index, range) in ranges.iter().enumerate() {
        for &node in atoms.atoms[range.clone()].iter().flat_map(|atom| &atom.nodes) {
            stage[node] = index;
        }
    }
    stage
}

/// From where to where a tensor lives.
struct Life {
    /// Stage that produces it; `None` for a network input.
    made: Option<usize>,
    /// Last stage that reads it; the number of stages for a network output.
    needed: usize,
}

struct Lives<'a> {
    of: BTreeMap<&'a str, Life>,
}

impl<'a> Lives<'a> {
    fn new(network: &'a Network, stage: &[usize], stages: usize) -> Self {
        let mut needed: HashMap<&str, usize> = HashMap::new();
        for (index, node) in network.nodes.iter().enumerate() {
            for name in node.reads() {
                let last = needed.entry(name).or_default();
                *last = (*last).max(stage[index]);
            }
        }
        needed.extend(network.outputs.iter().map(|name| (name.as_str(), stages)));
        let inputs = network.inputs.iter().map(|input| (input.name.as_str(), None));
        let nodes = network.nodes.iter().zip(stage);
        let made = nodes.flat_map(|(node, &stage)| node.writes().map(move |name| (name, Some(stage))));
        let of = inputs.chain(made).filter_map(|(name, made)| Some((name, Life { made, needed: *needed.get(name)? })));
        Self { of: of.collect() }
    }

    fn stage(&self, network: &Network, atoms: &Atoms, index: usize, range: Range<usize>) -> Stage {
        let mut nodes: Vec<usize> = atoms.atoms[range.clone()].iter().flat_map(|a| a.nodes.iter().copied()).collect();
        nodes.sort_unstable();
        let reads: BTreeSet<&str> = nodes.iter().flat_map(|&n| network.nodes[n].reads()).collect();
        let from_outside = |name: &&&str| self.of.get(**name).is_some_and(|life| life.made != Some(index));
        let inputs = reads.iter().filter(from_outside).map(|n| (*n).to_owned()).collect();
        let mut outputs = Vec::new();
        let mut forwards = Vec::new();
        for (name, life) in self.of.iter().filter(|(_, life)| life.needed > index) {
            if life.made == Some(index) {
                outputs.push((*name).to_owned());
            } else if life.made.is_none_or(|made| made < index) {
                forwards.push((*name).to_owned());
            }
        }
        Stage { index, atoms: range, nodes, inputs, outputs, forwards }
    }
}
