//! Cuts at tensors that a user names.

use super::{CutError, Partition};
use crate::atoms::{Atom, Atoms};
use crate::graph::{Alias, Network};
use std::collections::HashSet;
use std::fmt;

/// What a user should know about the cuts they asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The tensor is made in the middle of nodes that engines fuse into one operation.
    Split { tensor: String, atom: String },
    /// The tensor is an intermediate value of an operation that was folded; the cut is after the whole operation.
    Absorbed { tensor: String, into: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Split { tensor, atom } => write!(
                f,
                "cutting at \"{tensor}\" splits the fusion group \"{atom}\", which engines run as one operation; both parts will be slower"
            ),
            Warning::Absorbed { tensor, into } => {
                write!(f, "\"{tensor}\" was folded into the operation that produces \"{into}\"; cutting there instead")
            }
        }
    }
}

impl Partition {
    /// Cuts after the fusion group that produces each of `tensors`, in this order.
    ///
    /// A group that produces one halfway is split: the nodes of it that the tensor depends on come first. The groups
    /// as they are after such splits are returned too.
    pub fn at_tensors(
        network: &Network,
        atoms: &Atoms,
        tensors: &[String],
    ) -> Result<(Atoms, Self, Vec<Warning>), CutError> {
        let producers = network.producers();
        let mut atoms = atoms.clone();
        let mut warnings = Vec::new();
        let mut nodes = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let name = resolve(network, tensor, &mut warnings)?;
            if network.is_constant(name) {
                return Err(CutError::Constant { tensor: tensor.clone() });
            }
            let Some(&node) = producers.get(name) else {
                return Err(CutError::Input { tensor: tensor.clone() });
            };
            if let Some(atom) = split(network, &mut atoms, node) {
                warnings.push(Warning::Split { tensor: tensor.clone(), atom });
            }
            nodes.push(node);
        }
        let mut boundaries: Vec<usize> = Vec::with_capacity(nodes.len());
        for (index, &node) in nodes.iter().enumerate() {
            let boundary = atoms.of_node(node);
            if boundaries.last().is_some_and(|&before| before >= boundary) {
                let before = tensors[index - 1].clone();
                return Err(CutError::Order { tensor: tensors[index].clone(), before });
            }
            if boundary + 1 >= atoms.atoms.len() {
                return Err(CutError::Last { tensor: tensors[index].clone() });
            }
            boundaries.push(boundary);
        }
        let partition = Self::new(network, &atoms, &boundaries)?;
        Ok((atoms, partition, warnings))
    }
}

/// The network's name for what the user calls `tensor`.
fn resolve<'a>(network: &'a Network, tensor: &str, warnings: &mut Vec<Warning>) -> Result<&'a str, CutError> {
    let Some(name) = network.resolve(tensor) else {
        return Err(CutError::Unknown { tensor: tensor.to_owned(), hint: hint(network, tensor) });
    };
    let mut step = tensor;
    while let Some(alias) = network.aliases.get(step) {
        match alias {
            Alias::Same(next) => step = next,
            Alias::Absorbed(_) => {
                warnings.push(Warning::Absorbed { tensor: tensor.to_owned(), into: name.to_owned() });
                break;
            }
        }
    }
    Ok(name)
}

/// Splits the group of `node` so that nothing that the node does not need comes before the cut after it. Gives the
/// group's name if that changed anything.
fn split(network: &Network, atoms: &mut Atoms, node: usize) -> Option<String> {
    let index = atoms.of_node(node);
    let atom = atoms.atoms[index].clone();
    let mut needed: HashSet<&str> = network.nodes[node].reads().collect();
    let mut first = vec![node];
    // Nodes of a group are in topological order: going backwards meets readers before producers.
    for &other in atom.nodes.iter().rev().filter(|&&other| other < node) {
        if network.nodes[other].writes().any(|name| needed.contains(name)) {
            needed.extend(network.nodes[other].reads());
            first.push(other);
        }
    }
    first.reverse();
    let rest: Vec<usize> = atom.nodes.iter().copied().filter(|n| !first.contains(n)).collect();
    if rest.is_empty() {
        return None;
    }
    let parts = [Atom::new(network, first), Atom::new(network, rest)];
    atoms.atoms.splice(index..=index, parts);
    Some(atom.name)
}

/// Names of tensors like `tensor`, for the error message.
fn hint(network: &Network, tensor: &str) -> String {
    let made = network.nodes.iter().flat_map(|n| n.writes());
    let gone = network.aliases.keys().map(String::as_str);
    let mut near: Vec<(usize, &str)> = made.chain(gone).map(|name| (distance(tensor, name), name)).collect();
    near.sort_unstable();
    let close = near.iter().take_while(|(d, _)| *d <= tensor.len() / 2 + 1).take(3);
    let names: Vec<String> = close.map(|(_, name)| format!("\"{name}\"")).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; near names: {}", names.join(", ")),
    }
}

/// Edits (insert, delete, replace a byte) from one name to the other: Levenshtein, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
