//! Order, and what a network can do without: nodes that copy, nodes that nothing needs.

use super::{Alias, GraphError, Network, Node, inner_names, rename_reads};
use crate::onnx::proto::NodeProto;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

impl Network {
    /// Sorts the nodes topologically. What is in order already stays as it is.
    pub(super) fn sort(&mut self) -> Result<(), GraphError> {
        let producers = self.producers();
        let mut missing = vec![0usize; self.nodes.len()];
        let mut next = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            let before: BTreeSet<usize> = node.reads().filter_map(|n| producers.get(n).copied()).collect();
            missing[index] = before.len();
            before.into_iter().for_each(|p| next[p].push(index));
        }
        let mut ready: BinaryHeap<_> = (0..self.nodes.len()).filter(|&i| missing[i] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(Reverse(index)) = ready.pop() {
            order.push(index);
            for &reader in &next[index] {
                missing[reader] -= 1;
                if missing[reader] == 0 {
                    ready.push(Reverse(reader));
                }
            }
        }
        if let Some(stuck) = missing.iter().position(|&n| n > 0) {
            return Err(GraphError::Cycle { node: self.nodes[stuck].label() });
        }
        let mut nodes: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|i| nodes[i].take()).collect();
        Ok(())
    }

    /// Gives every output that is a constant a node of its own, so that some stage produces it.
    pub(crate) fn materialise_outputs(&mut self) {
        for output in self.outputs.clone() {
            if !self.is_constant(&output) {
                continue;
            }
            let name = self.free_name(&format!("{output}/value"));
            if let Some(mut tensor) = self.initializers.remove(&output) {
                tensor.name = Some(name.clone());
                self.initializers.insert(name.clone(), tensor);
            }
            if let Some(mut sparse) = self.sparse.remove(&output) {
                if let Some(values) = &mut sparse.values {
                    values.name = Some(name.clone());
                }
                self.sparse.insert(name.clone(), sparse);
            }
            let renamed = HashMap::from([(output.clone(), name.clone())]);
            self.rename(&renamed);
            let copy = NodeProto {
                op_type: Some("Identity".to_owned()),
                input: vec![name],
                output: vec![output],
                ..Default::default()
            };
            self.nodes.insert(0, Node::new(copy));
        }
    }

    /// Removes `Identity` nodes: readers of the copy read the original. One stays where an output is a plain copy of an
    /// input, a constant or another output, since a tensor has one name only.
    pub(super) fn drop_identities(&mut self) {
        let mut inner = BTreeSet::new();
        self.nodes.iter().for_each(|n| inner_names(&n.proto, &mut inner));
        let made: HashSet<String> = self.nodes.iter().flat_map(Node::writes).map(str::to_owned).collect();
        let mut outputs: HashSet<String> = self.outputs.iter().cloned().collect();
        // The root name of each copy met so far. Nodes are sorted, so that the original is known first.
        let mut root: HashMap<String, String> = HashMap::new();
        let mut keep = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let copy = match (node.op(), node.proto.input.as_slice(), node.proto.output.as_slice()) {
                ("Identity", [from], [to]) if !from.is_empty() && !to.is_empty() => Some((from, to)),
                _ => None,
            };
            let Some((from, to)) = copy else {
                keep.push(true);
                continue;
            };
            let source = root.get(from).cloned().unwrap_or_else(|| from.clone());
            // A subgraph that defines a name like it would hide the new name from the readers inside.
            let hidden = inner.contains(&source) || inner.contains(to);
            let is_output = outputs.contains(to);
            if hidden || (is_output && (outputs.contains(&source) || !made.contains(&source))) {
                keep.push(true);
                continue;
            }
            keep.push(false);
            if is_output {
                // The original takes the output's name, also for copies of it that were removed before.
                root.values_mut().filter(|r| **r == source).for_each(|r| r.clone_from(to));
                root.insert(source, to.clone());
                outputs.insert(to.clone());
            } else {
                root.insert(to.clone(), source);
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_| keep.next().unwrap_or(true));
        self.rename(&root);
        for (old, new) in root {
            if let Some(known) = self.types.get(&old).cloned() {
                self.types.entry(new.clone()).or_insert(known);
            }
            self.aliases.insert(old, Alias::Same(new));
        }
    }

    /// Renames tensors wherever nodes read or write them. `outputs` of the network keep their names.
    fn rename(&mut self, names: &HashMap<String, String>) {
        if names.is_empty() {
            return;
        }
        for node in &mut self.nodes {
            rename_reads(&mut node.proto, &|name| names.get(name).cloned());
            for name in &mut node.captures {
                if let Some(new) = names.get(name) {
                    name.clone_from(new);
                }
            }
            for name in &mut node.proto.output {
                if let Some(new) = names.get(name) {
                    name.clone_from(new);
                }
            }
        }
    }

    /// Drops nodes that no output needs, and constants that no node reads.
    pub(crate) fn drop_dead(&mut self) {
        let mut wanted: HashSet<&str> = self.outputs.iter().map(String::as_str).collect();
        let mut alive = vec![false; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if node.writes().any(|name| wanted.contains(name)) {
                alive[index] = true;
                wanted.extend(node.reads());
            }
        }
        let wanted: HashSet<String> = wanted.into_iter().map(str::to_owned).collect();
        let mut alive = alive.into_iter();
        self.nodes.retain(|_| alive.next().unwrap_or(true));
        self.initializers.retain(|name, _| wanted.contains(name));
        self.sparse.retain(|name, _| wanted.contains(name));
    }
}
