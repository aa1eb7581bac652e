//! Which node it is that an engine does not take.

use super::BuildError;
use super::scratch::Bench;
use crate::engine::EngineError;
use defer_partition::graph::Node;
use defer_partition::onnx::proto::{ModelProto, NodeProto};
use defer_partition::{Atoms, Network, Partition, slice};

/// How onnxruntime says that it lacks an operator (of an unknown domain, of an unknown name, for these element types), and
/// how tract does.
const LACKING: [&str; 4] =
    ["is not a registered function/op", "No Op registered for", "Could not find an implementation", "no operator "];

/// Finds the first node without which the network would load: the end of the shortest beginning of the network that
/// does not. `error` is what the whole network came to.
pub(super) fn refused(bench: &Bench<'_>, network: &Network, error: EngineError) -> BuildError {
    let nodes = network.nodes();
    let (mut low, mut high) = (0, nodes.len().saturating_sub(1));
    let mut error = error;
    while low < high {
        let middle = (low + high) / 2;
        match beginning(bench, network, middle) {
            Ok(Some(refusal)) => (high, error) = (middle, refusal),
            Ok(None) => low = middle + 1,
            Err(failed) => return failed,
        }
    }
    let EngineError::Load { engine, cause } = error else { return error.into() };
    let Some(node) = nodes.get(high) else { return EngineError::Load { engine, cause }.into() };
    let label = node.label();
    if !LACKING.iter().any(|lacking| cause.contains(lacking)) {
        return BuildError::Node { engine, node: label, cause };
    }
    let named = named(node, &cause);
    let domain = if named.domain().is_empty() { "ai.onnx" } else { named.domain() };
    let opset = opset(&slice::whole(network, &[]).model, named.domain());
    BuildError::NoOperator {
        engine,
        op: named.op_type().to_owned(),
        domain: domain.to_owned(),
        opset,
        node: label,
        cause,
    }
}

/// What the engine has against the nodes up to and with `last`, if anything.
fn beginning(bench: &Bench<'_>, network: &Network, last: usize) -> Result<Option<EngineError>, BuildError> {
    let partition = Partition::new(network, &Atoms::single_nodes(network), &[last])?;
    let slice = slice::slice(network, &partition.stages[0], &|_| None)?;
    Ok(bench.load(&slice)?.err())
}

/// The node that `cause` names: `node` itself, or one in its subgraphs.
fn named<'a>(node: &'a Node, cause: &str) -> &'a NodeProto {
    let mut pending = vec![&node.proto];
    while let Some(proto) = pending.pop() {
        let word = |word: &str| word == proto.op_type();
        if cause.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(word) {
            return proto;
        }
        let graphs = proto.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        pending.extend(graphs.flat_map(|graph| &graph.node));
    }
    &node.proto
}

/// Version of `domain`'s operators that the model imports; 0 if it imports none.
fn opset(model: &ModelProto, domain: &str) -> i64 {
    let same = |other: &str| other == domain || (matches!(other, "" | "ai.onnx") && matches!(domain, "" | "ai.onnx"));
    model.opset_import.iter().find(|import| same(import.domain())).map_or(0, |import| import.version())
}
