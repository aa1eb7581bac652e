//! Subgraphs of If, Loop and Scan: they read names of the graphs around them without listing them as inputs.

use crate::onnx::proto::{GraphProto, NodeProto};
use std::collections::{BTreeSet, HashSet};

/// The graphs that `node` carries as attributes, outermost level only.
fn graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

fn graphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs))
}

/// Names that `graph` defines itself, not those of graphs inside it.
fn defined(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|v| v.name());
    let dense = graph.initializer.iter().map(|t| t.name());
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|t| t.name());
    let outputs = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    inputs.chain(dense).chain(sparse).chain(outputs).filter(|n| !n.is_empty())
}

/// Names of the outer graph that the subgraphs of `node` read, each once, in the order of first use.
pub(crate) fn captures(node: &NodeProto) -> Vec<String> {
    let mut found = Vec::new();
    for graph in graphs(node) {
        collect(graph, &HashSet::new(), &mut found);
    }
    let mut seen = HashSet::new();
    found.into_iter().filter(|n| seen.insert(*n)).map(str::to_owned).collect()
}

fn collect<'a>(graph: &'a GraphProto, around: &HashSet<&'a str>, found: &mut Vec<&'a str>) {
    let mut local = around.clone();
    local.extend(defined(graph));
    let read = |name: &'a str, found: &mut Vec<&'a str>| {
        if !name.is_empty() && !local.contains(name) {
            found.push(name);
        }
    };
    for node in &graph.node {
        node.input.iter().for_each(|name| read(name, found));
        graphs(node).for_each(|inner| collect(inner, &local, found));
    }
    graph.output.iter().for_each(|value| read(value.name(), found));
}

/// Every name that any subgraph of `node` defines, at any depth.
pub(crate) fn inner_names(node: &NodeProto, into: &mut BTreeSet<String>) {
    for graph in graphs(node) {
        into.extend(defined(graph).map(str::to_owned));
        graph.node.iter().for_each(|inner| inner_names(inner, into));
    }
}

/// Gives the outer names that `node` reads, directly or in subgraphs, the names that `rename` returns.
///
/// A name that a subgraph defines itself hides the outer one and stays.
pub(crate) fn rename_reads(node: &mut NodeProto, rename: &dyn Fn(&str) -> Option<String>) {
    for name in &mut node.input {
        if let Some(new) = rename(name) {
            *name = new;
        }
    }
    for graph in graphs_mut(node) {
        rename_in(graph, rename);
    }
}

fn rename_in(graph: &mut GraphProto, rename: &dyn Fn(&str) -> Option<String>) {
    let local: HashSet<String> = defined(graph).map(str::to_owned).collect();
    let visible = |name: &str| if local.contains(name) { None } else { rename(name) };
    for node in &mut graph.node {
        rename_reads(node, &visible);
    }
    for value in &mut graph.output {
        if let Some(new) = visible(value.name()) {
            value.name = Some(new);
        }
    }
}
