//! Preparing a network: order, constants, copies, captures, what is dropped.

#![allow(clippy::unwrap_used)]

mod support;

use defer_partition::graph::{Dim, GraphError, Network};
use defer_partition::onnx::proto::{AttributeProto, ModelProto, attribute_proto::AttributeType, type_proto};
use support::*;

fn network(model: ModelProto) -> Network {
    Network::new(model).unwrap()
}

fn refused(model: ModelProto) -> GraphError {
    Network::new(model).unwrap_err()
}

fn reads(network: &Network, node: usize) -> Vec<&str> {
    network.nodes()[node].reads().collect()
}

#[test]
fn nodes_are_sorted_and_dead_ones_dropped() {
    let nodes = vec![
        op("Relu", &["b"], &["y"]),
        op("Tanh", &["a"], &["dead"]),
        op("Neg", &["a"], &["b"]),
        op("Add", &["x", "w"], &["a"]),
    ];
    let unread = floats("unread", &[1], &[0.0]);
    let net = network(model(&["x", "idle"], &["y"], nodes, vec![floats("w", &[1, 2], &[1.0, 2.0]), unread]));
    assert_eq!(ops(&net), ["Add", "Neg", "Relu"]);
    assert_eq!(net.initializers().keys().collect::<Vec<_>>(), ["w"]);
    assert_eq!(net.inputs().len(), 2);
    assert_eq!(net.weights_bytes(), 8);
}

#[test]
fn constants_of_every_form_become_initializers() {
    let constant = |name: &str, attribute: AttributeProto| {
        let mut node = op("Constant", &[], &[name]);
        node.attribute.push(attribute);
        node
    };
    let by = attribute;
    use AttributeType as T;
    let nodes = vec![
        constant("t", AttributeProto { t: Some(floats("", &[2], &[1.0, 2.0])), ..by("value", T::Tensor) }),
        constant("f", AttributeProto { f: Some(2.0), ..by("value_float", T::Float) }),
        constant("fs", AttributeProto { floats: vec![1.0, 2.0], ..by("value_floats", T::Floats) }),
        constant("i", AttributeProto { i: Some(-1), ..by("value_int", T::Int) }),
        constant("is", AttributeProto { ints: vec![1, 2], ..by("value_ints", T::Ints) }),
        constant("s", AttributeProto { strings: vec!["a".into()], ..by("value_strings", T::Strings) }),
        op("Custom", &["x", "t", "f", "fs", "i", "is", "s"], &["y"]),
    ];
    let net = network(model(&["x"], &["y"], nodes, vec![]));
    assert_eq!(ops(&net), ["Custom"]);
    let shape = |name: &str| (net.initializers()[name].dims.clone(), net.initializers()[name].data_type());
    assert_eq!(shape("t"), (vec![2], 1));
    assert_eq!(shape("f"), (vec![], 1));
    assert_eq!(shape("fs"), (vec![2], 1));
    assert_eq!(shape("i"), (vec![], 7));
    assert_eq!(shape("is"), (vec![2], 7));
    assert_eq!(shape("s"), (vec![1], 8));
    assert_eq!(values(&net.initializers()["t"]), [1.0, 2.0]);
}

#[test]
fn copies_vanish_unless_an_output_needs_them() {
    // A chain of copies, a copy that is an output, and a second output that copies the same tensor.
    let nodes = vec![
        op("Relu", &["x"], &["a"]),
        op("Identity", &["a"], &["b"]),
        op("Identity", &["b"], &["c"]),
        op("Neg", &["c"], &["n"]),
        op("Identity", &["b"], &["y"]),
        op("Identity", &["a"], &["z"]),
        op("Add", &["n", "b"], &["s"]),
    ];
    let net = network(model(&["x"], &["y", "z", "s"], nodes, vec![]));
    assert_eq!(ops(&net), ["Relu", "Neg", "Identity", "Add"]);
    assert_eq!(net.nodes()[0].proto.output, ["y"]);
    assert_eq!((reads(&net, 1), reads(&net, 2), reads(&net, 3)), (vec!["y"], vec!["y"], vec!["n", "y"]));
    assert_eq!(net.outputs(), ["y", "z", "s"]);
    for gone in ["a", "b", "c", "y"] {
        assert_eq!(net.resolve(gone), Some("y"), "{gone}");
    }
    assert_eq!(net.resolve("nothing"), None);
}

#[test]
fn outputs_that_are_inputs_or_constants_have_a_node_that_makes_them() {
    let mut constant = op("Constant", &[], &["k"]);
    constant.attribute.push(AttributeProto { f: Some(2.0), ..attribute("value_float", AttributeType::Float) });
    let nodes =
        vec![constant, op("Identity", &["x"], &["y"]), op("Identity", &["w"], &["z"]), op("Mul", &["x", "k"], &["m"])];
    let net = network(model(&["x"], &["y", "z", "k", "w", "m"], nodes, vec![floats("w", &[2], &[1.0, 2.0])]));
    let made: Vec<&str> = net.nodes().iter().flat_map(|n| n.writes()).collect();
    for output in net.outputs() {
        assert!(made.contains(&output.as_str()), "{output} in {made:?}");
    }
}

#[test]
fn subgraphs_read_outer_names_unless_they_hide_them() {
    // The inner graph reads `a` (a copy of `r`) at two depths; its own `h` hides the outer one.
    let deep = subgraph(vec![op("Add", &["a", "h"], &["d"])], &["d"]);
    let branch = subgraph(
        vec![op("Neg", &["a"], &["h"]), with_graph(op("If", &["flag"], &["e"]), "then_branch", deep.clone())],
        &["e"],
    );
    let nodes = vec![
        op("Relu", &["x"], &["r"]),
        op("Identity", &["r"], &["a"]),
        op("Tanh", &["x"], &["h"]),
        with_graph(op("If", &["flag"], &["y"]), "then_branch", branch),
        op("Neg", &["h"], &["z"]),
    ];
    let net = network(model(&["x", "flag"], &["y", "z"], nodes, vec![]));
    assert_eq!(ops(&net), ["Relu", "Tanh", "If", "Neg"]);
    assert_eq!(net.nodes()[2].captures, ["r", "flag"]);
    let branch = net.nodes()[2].proto.attribute[0].g.as_ref().unwrap();
    assert_eq!(branch.node[0].input, ["r"]);
    assert_eq!(branch.node[1].attribute[0].g.as_ref().unwrap().node[0].input, ["r", "h"]);

    // A copy whose original would be hidden inside stays.
    let branch = subgraph(vec![op("Neg", &["x"], &["r"]), op("Add", &["a", "r"], &["e"])], &["e"]);
    let nodes = vec![
        op("Relu", &["x"], &["r"]),
        op("Identity", &["r"], &["a"]),
        with_graph(op("If", &["flag"], &["y"]), "then_branch", branch),
    ];
    let net = network(model(&["x", "flag"], &["y"], nodes, vec![]));
    assert_eq!(ops(&net), ["Relu", "Identity", "If"]);
    assert_eq!(net.nodes()[2].captures, ["x", "a"]);
}

#[test]
fn a_capture_alone_keeps_its_producer_and_its_order() {
    let branch = subgraph(vec![op("Add", &["a", "w"], &["e"])], &["e"]);
    let nodes = vec![with_graph(op("If", &["flag"], &["y"]), "then_branch", branch), op("Relu", &["x"], &["a"])];
    let net = network(model(&["x", "flag"], &["y"], nodes, vec![floats("w", &[1], &[1.0])]));
    assert_eq!(ops(&net), ["Relu", "If"]);
    assert!(net.is_constant("w"));
}

#[test]
fn inputs_with_a_value_are_constants() {
    let mut old =
        model(&["x", "w"], &["y"], vec![op("Add", &["x", "w"], &["y"])], vec![floats("w", &[1, 2], &[1.0, 2.0])]);
    old.ir_version = Some(3);
    let net = network(old);
    assert_eq!(net.inputs().iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["x"]);
    // Without initializers among the inputs, the model needs a newer version of the format.
    assert_eq!(net.model_with_outputs(&[]).ir_version, Some(4));
}

#[test]
fn inputs_say_their_dimensions() {
    let mut open = model(&["x"], &["y"], vec![op("Relu", &["x"], &["y"])], vec![]);
    open.graph.as_mut().unwrap().input[0] = value("x", 10, &[-1, 3]);
    let net = network(open);
    assert_eq!(net.inputs()[0].dims, [Dim::Unknown, Dim::Fixed(3)]);
    assert_eq!(net.inputs()[0].info().to_string(), "\"x\" FP16[-1, 3]");
}

#[test]
fn what_cannot_be_cut_is_refused_by_name() {
    let relu = || vec![op("Relu", &["x"], &["y"])];
    let with_input = |input| {
        let mut model = model(&[], &["y"], relu(), vec![]);
        model.graph.as_mut().unwrap().input.push(input);
        model
    };
    let sequence = type_proto::Value::SequenceType(Default::default());
    let map = type_proto::Value::MapType(Default::default());
    let sparse = type_proto::Value::SparseTensorType(Default::default());
    let rankless = type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(1), shape: None });
    let cases = [
        (with_input(typed("x", sequence.clone())), "\"x\" is a sequence"),
        (with_input(typed("x", map)), "\"x\" is a map"),
        (with_input(typed("x", sparse)), "\"x\" is a sparse tensor"),
        (with_input(value("x", 8, &[1])), "\"x\" has element type STRING"),
        (with_input(value("x", 22, &[1])), "\"x\" has element type INT4"),
        (with_input(typed("x", rankless)), "\"x\" has no rank"),
        (model(&["x"], &[], relu(), vec![]), "no outputs"),
        (model(&["x"], &["gone"], relu(), vec![]), "\"gone\" is produced by nothing"),
        (model(&[], &["y"], relu(), vec![]), "reads \"x\", which nothing produces"),
        (model(&["x"], &["y"], vec![op("Relu", &["y2"], &["y"]), op("Relu", &["y"], &["y2"])], vec![]), "circle"),
        (model(&["x"], &["y"], [relu(), relu()].concat(), vec![]), "\"y\" is defined twice"),
        (model(&["x"], &["y", "y"], relu(), vec![]), "\"y\" is defined twice"),
        (model(&["x"], &["x"], vec![], vec![]), "computes nothing"),
    ];
    for (model, want) in cases {
        let error = refused(model).to_string();
        assert!(error.contains(want), "{error} instead of {want}");
    }
    let mut output = model(&["x"], &["y"], relu(), vec![]);
    output.graph.as_mut().unwrap().output[0] = typed("y", sequence);
    assert!(refused(output).to_string().contains("output \"y\" is a sequence"));
    assert_eq!(refused(ModelProto::default()), GraphError::NoGraph);
}
