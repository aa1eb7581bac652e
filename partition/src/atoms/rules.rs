//! Which nodes engines fuse. Each rule only proposes: [`Groups::merge`] refuses what would not be computable in order.

use super::groups::Groups;
use super::ops::{
    is_channel_norm, is_cheap, is_elementwise, is_move, is_product, is_shape_source, is_shape_step, makes_no_tensor,
};
use crate::graph::{Network, Node};
use crate::onnx::proto::type_proto::Value;
use crate::tensor::DType;
use std::collections::{BTreeSet, HashSet};

/// Nodes of one written-out activation or normalisation at most; the longest in use (layer norm, gelu by tanh) has 12.
const REGION: usize = 16;

pub(super) fn apply(network: &Network, groups: &mut Groups) {
    let facts = Facts::new(network, groups);
    facts.untransportable(groups);
    for index in 0..network.nodes.len() {
        facts.region(groups, index);
    }
    // Shapes first: a tensor whose shape is measured for the node that reads it has one reader, then.
    for index in (0..network.nodes.len()).rev() {
        facts.shape_step(groups, index);
    }
    for index in 0..network.nodes.len() {
        facts.epilogue(groups, index);
    }
    for index in (0..network.nodes.len()).rev() {
        facts.prologue(groups, index);
    }
}

struct Facts<'a> {
    network: &'a Network,
    /// Nodes that make an output of the network.
    makes_output: Vec<bool>,
    /// Nodes whose results depend on shapes and constants only.
    is_shape: Vec<bool>,
    /// Nodes that read no tensor but constants.
    is_source: Vec<bool>,
}

impl<'a> Facts<'a> {
    fn new(network: &'a Network, groups: &Groups) -> Self {
        let outputs: HashSet<&str> = network.outputs.iter().map(String::as_str).collect();
        let makes_output = network.nodes.iter().map(|n| n.writes().any(|w| outputs.contains(w))).collect();
        let is_source = network.nodes.iter().map(|n| n.reads().all(|r| network.is_constant(r))).collect();
        let mut facts = Self { network, makes_output, is_shape: Vec::new(), is_source };
        for (index, node) in network.nodes.iter().enumerate() {
            let from_shapes = !groups.previous[index].is_empty()
                && groups.previous[index].iter().all(|&p| facts.is_shape[p])
                && !node.reads().any(|r| facts.is_input(r));
            facts.is_shape.push(is_shape_source(node) || (is_shape_step(node) && from_shapes));
        }
        facts
    }

    fn node(&self, index: usize) -> &'a Node {
        &self.network.nodes[index]
    }

    fn is_input(&self, name: &str) -> bool {
        self.network.inputs.iter().any(|input| input.name == name)
    }

    /// Whether all that happens to what `index` makes is that the group of `reader` reads it.
    fn only_feeds(&self, groups: &Groups, index: usize, reader: usize) -> bool {
        !self.makes_output[index] && groups.next[index].iter().all(|&n| groups.of(n) == groups.of(reader))
    }

    /// Keeps makers and readers of sequences, optionals, strings and odd element types in one stage.
    fn untransportable(&self, groups: &mut Groups) {
        for (index, node) in self.network.nodes.iter().enumerate() {
            let stated = node.writes().filter_map(|name| self.network.types.get(name)?.value.as_ref());
            let odd = stated.into_iter().any(|value| match value {
                Value::TensorType(tensor) => tensor.elem_type() != 0 && DType::from_onnx(tensor.elem_type()).is_none(),
                _ => true,
            });
            if odd || makes_no_tensor(node) {
                let mut nodes = groups.next[index].clone();
                nodes.push(index);
                groups.merge_with_between(&nodes);
            }
        }
    }

    /// Activations and normalisations written out: cheap nodes between a tensor that several of them read and the one
    /// tensor in which they end, as in `x · sigmoid(x)`, gelu, layer norm, softmax.
    fn region(&self, groups: &mut Groups, root: usize) {
        let entry: Vec<usize> = groups.next[root].iter().copied().filter(|&n| is_cheap(self.node(n))).collect();
        if entry.len() < 2 || self.is_shape[root] {
            return;
        }
        let mut members: Vec<usize> = Vec::new();
        let mut open: BTreeSet<usize> = entry.iter().copied().collect();
        let mut best = 0;
        while let Some(index) = open.pop_first() {
            let inside = |p: &usize| *p == root || members.contains(p);
            if !groups.previous[index].iter().all(inside) || self.node(index).reads().any(|r| self.is_input(r)) {
                continue;
            }
            members.push(index);
            open.extend(groups.next[index].iter().copied().filter(|&n| is_cheap(self.node(n))));
            let entered = entry.iter().filter(|n| members.contains(n)).count();
            if entered >= 2 && self.ends(groups, &members) == 1 {
                best = members.len();
            }
            if members.len() == REGION {
                break;
            }
        }
        members.truncate(best);
        if members.is_empty() {
            return;
        }
        let whole = !self.makes_output[root] && groups.next[root].iter().all(|n| members.contains(n));
        if whole && (is_product(self.node(root)) || is_cheap(self.node(root)) || is_channel_norm(self.node(root))) {
            members.push(root);
        }
        groups.merge(&members);
    }

    /// How many of `members` are read outside them, or make an output.
    fn ends(&self, groups: &Groups, members: &[usize]) -> usize {
        let leaves = |&&m: &&usize| self.makes_output[m] || groups.next[m].iter().any(|n| !members.contains(n));
        members.iter().filter(leaves).count()
    }

    /// What follows an operation and is computed in the same pass over its result: bias, norm, activation, residual
    /// sum, quantisation, and moves.
    fn epilogue(&self, groups: &mut Groups, index: usize) {
        let node = self.node(index);
        let follows = is_elementwise(node) || is_channel_norm(node) || is_move(node) || node.op() == "QuantizeLinear";
        if !follows || self.is_shape[index] {
            return;
        }
        // Of several operands that could carry on, the one computed last: the engine has it at hand.
        for before in groups.previous[index].clone().into_iter().rev() {
            if self.is_shape[before] || self.is_source[before] || !self.only_feeds(groups, before, index) {
                continue;
            }
            let carries = |&m: &usize| {
                let node = self.node(m);
                is_product(node) || is_elementwise(node) || is_channel_norm(node) || is_move(node)
            };
            if (is_move(node) || groups.members(before).iter().any(carries)) && groups.merge(&[before, index]) {
                return;
            }
        }
    }

    /// What belongs to the operation after it: dequantisation, padding, moves of what several nodes read, and anything
    /// made of constants alone.
    fn prologue(&self, groups: &mut Groups, index: usize) {
        let node = self.node(index);
        let readers: BTreeSet<usize> = groups.next[index].iter().map(|&n| groups.of(n)).collect();
        if self.makes_output[index] || self.is_shape[index] || readers.is_empty() {
            return;
        }
        if self.is_source[index] {
            // A constant blown up here would otherwise cross a cut.
            groups.merge(&[index, groups.next[index][0]]);
        } else if readers.len() == 1 {
            let reader = groups.next[index][0];
            let alone = groups.members(index).len() == 1;
            let pads =
                node.op() == "Pad" && (is_product(self.node(reader)) || self.node(reader).op().ends_with("Pool"));
            if node.op() == "DequantizeLinear" || pads || (is_move(node) && alone) {
                groups.merge(&[index, reader]);
            }
        }
    }

    /// Shape arithmetic goes to the operation that needs it if that reads the measured tensor anyway; else it stays
    /// where the tensor is made, and a few numbers cross the cut instead of the tensor.
    fn shape_step(&self, groups: &mut Groups, index: usize) {
        if !self.is_shape[index] {
            return;
        }
        let readers: BTreeSet<usize> = groups.next[index].iter().map(|&n| groups.of(n)).collect();
        let measured: Vec<usize> = groups.previous[index].clone();
        if readers.len() == 1 && !self.makes_output[index] {
            let reader = groups.next[index][0];
            let members = groups.members(reader);
            let at_hand = measured.iter().all(|&m| {
                self.is_shape[m]
                    || members.contains(&m)
                    || groups.next[m].iter().any(|n| members.contains(n) && *n != index)
            });
            if at_hand && groups.merge(&[index, reader]) {
                return;
            }
        }
        if let Some(&producer) = measured.first() {
            groups.merge(&[producer, index]);
        }
    }
}
