//! Folding: the numbers that come out, and what is left alone.

#![allow(clippy::unwrap_used)]

mod support;

use defer_partition::fold::{Folded, fold, fold_constants};
use defer_partition::onnx::proto::{ModelProto, NodeProto, TensorProto};
use defer_partition::{DType, Network, Tensor};
use support::*;

/// A convolution of 2 channels into 2, 1×1, followed by `rest`.
fn conv(rest: Vec<NodeProto>, outputs: &[&str], mut constants: Vec<TensorProto>) -> Network {
    let mut nodes = vec![op("Conv", &["x", "w"], &["c"])];
    nodes.extend(rest);
    constants.push(floats("w", &[2, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0]));
    Network::new(model(&["x"], outputs, nodes, constants)).unwrap()
}

fn norm(of: &str, to: &str) -> (NodeProto, Vec<TensorProto>) {
    let mut node = op("BatchNormalization", &[of, "s", "b", "m", "v"], &[to]);
    node.attribute.push(defer_partition::onnx::proto::AttributeProto {
        f: Some(0.0),
        ..attribute("epsilon", defer_partition::onnx::proto::attribute_proto::AttributeType::Float)
    });
    let constants = vec![
        floats("s", &[2], &[1.0, 2.0]),
        floats("b", &[2], &[0.5, 0.0]),
        floats("m", &[2], &[1.0, 1.0]),
        floats("v", &[2], &[4.0, 1.0]),
    ];
    (node, constants)
}

fn inputs_of(net: &Network, node: usize) -> Vec<Vec<f32>> {
    let names = net.nodes()[node].proto.input.iter().skip(1);
    names.map(|name| values(&net.initializers()[name])).collect()
}

#[test]
fn norm_bias_and_scale_all_go_into_one_convolution() {
    let (node, mut constants) = norm("c", "n");
    constants.push(floats("plus", &[1, 2, 1, 1], &[10.0, 20.0]));
    constants.push(floats("times", &[2, 1, 1], &[2.0, 0.5]));
    let rest =
        vec![node, op("Add", &["plus", "n"], &["p"]), op("Mul", &["p", "times"], &["t"]), op("Relu", &["t"], &["y"])];
    let mut net = conv(rest, &["y"], constants);
    assert_eq!(fold(&mut net), Folded { batch_norms: 1, biases: 2 });
    assert_eq!(ops(&net), ["Conv", "Relu"]);
    assert_eq!(net.nodes()[0].proto.output, ["t"]);
    // Scales 1/2 and 2, shifts 0 and -2; then +10, +20; then ·2, ·0.5.
    assert_eq!(inputs_of(&net, 0), [vec![1.0, 2.0, 3.0, 4.0], vec![20.0, 9.0]]);
    assert_eq!(net.initializers().len(), 2);
    assert_eq!(net.resolve("c"), Some("t"));
}

#[test]
fn shared_weights_keep_their_value_for_others() {
    let rest = vec![op("Mul", &["c", "two"], &["t"]), op("Conv", &["t", "w"], &["y"])];
    let mut net = conv(rest, &["y"], vec![floats("two", &[], &[2.0])]);
    assert_eq!(fold(&mut net).biases, 1);
    assert_eq!(inputs_of(&net, 0), [vec![2.0, 4.0, 6.0, 8.0], vec![0.0, 0.0]]);
    assert_eq!(inputs_of(&net, 1), [vec![1.0, 2.0, 3.0, 4.0]]);
}

#[test]
fn what_is_no_scale_and_shift_per_channel_stays() {
    let add = |constant: TensorProto| (vec![op("Add", &["c", "k"], &["y"])], vec!["y"], vec![constant]);
    let (node, constants) = norm("c", "y");
    let half = TensorProto { data_type: Some(DType::Int32.onnx()), ..floats("k", &[1], &[1.0]) };
    let cases = [
        // Another reader; an output; twice the same operand.
        (vec![node.clone(), op("Relu", &["c"], &["z"])], vec!["y", "z"], constants.clone()),
        (vec![node], vec!["y", "c"], constants),
        (vec![op("Add", &["c", "c"], &["y"])], vec!["y"], vec![]),
        // Along another axis; more dimensions than the result; another type; a subtraction the wrong way round.
        add(floats("k", &[2], &[1.0, 2.0])),
        add(floats("k", &[1, 1, 1, 1, 1], &[1.0])),
        add(half),
        (vec![op("Sub", &["k", "c"], &["y"])], vec!["y"], vec![floats("k", &[], &[1.0])]),
        // A division by zero makes no weights.
        (vec![op("Div", &["c", "k"], &["y"])], vec!["y"], vec![floats("k", &[], &[0.0])]),
        (vec![op("Relu", &["c"], &["y"])], vec!["y"], vec![]),
    ];
    for (rest, outputs, constants) in cases {
        let mut net = conv(rest, &outputs, constants);
        let before = net.clone();
        assert_eq!(fold(&mut net), Folded::default(), "{:?}", ops(&before));
        assert_eq!(ops(&net), ops(&before));
        assert_eq!(net.initializers(), before.initializers());
    }
}

#[test]
fn a_norm_without_a_convolution_stays() {
    let (node, constants) = norm("x", "y");
    let mut net = Network::new(model(&["x"], &["y"], vec![node], constants)).unwrap();
    assert_eq!(fold(&mut net), Folded::default());
    assert_eq!(ops(&net), ["BatchNormalization"]);
}

/// A network in which `Neg(k)` feeds two nodes, a random node draws, and a large constant would be blown up.
fn constant_network() -> Network {
    let nodes = vec![
        op("Neg", &["k"], &["n"]),
        op("Abs", &["n"], &["a"]),
        op("Add", &["x", "a"], &["s"]),
        op("RandomNormalLike", &["k"], &["r"]),
        op("Add", &["s", "r"], &["t"]),
        op("Expand", &["n", "huge"], &["e"]),
        op("Add", &["t", "e"], &["y"]),
    ];
    let constants = vec![floats("k", &[2], &[1.0, -2.0]), ints("huge", &[1 << 20, 2])];
    Network::new(model(&["x"], &["y"], nodes, constants)).unwrap()
}

#[test]
fn constants_are_computed_once_by_the_callers_engine() {
    let mut net = constant_network();
    let mut asked = Vec::new();
    let folded = fold_constants(&mut net, &mut |model: &ModelProto| {
        let graph = model.graph.as_ref().unwrap();
        assert!(graph.input.is_empty() && model.opset_import.len() == 1);
        asked = graph.output.iter().map(|o| o.name().to_owned()).collect();
        let large = Tensor::new(DType::Fp32, vec![1 << 20, 2], vec![0; 8 << 20]).unwrap();
        let small = Tensor::from_f32(vec![2], &[1.0, 2.0]).unwrap();
        Ok::<_, String>(vec![("a".into(), small), ("e".into(), large)])
    });
    assert_eq!(folded, Ok(1));
    assert_eq!(asked, ["a", "e"]);
    assert_eq!(ops(&net), ["Neg", "Add", "RandomNormalLike", "Add", "Expand", "Add"]);
    assert_eq!(values(&net.initializers()["a"]), [1.0, 2.0]);
}

#[test]
fn an_engine_that_fails_or_leaves_results_out_changes_nothing() {
    for result in [Ok(Vec::new()), Err("no such operator")] {
        let mut net = constant_network();
        let before = ops(&net).len();
        let folded = fold_constants(&mut net, &mut |_| result.clone());
        assert_eq!(folded, result.map(|_| 0));
        assert_eq!(ops(&net).len(), before);
    }
}

#[test]
fn an_output_that_is_constant_is_still_produced_by_a_node() {
    let nodes = vec![op("Neg", &["k"], &["n"]), op("Relu", &["x"], &["y"])];
    let mut net = Network::new(model(&["x"], &["y", "n"], nodes, vec![floats("k", &[1], &[1.0])])).unwrap();
    let value = Tensor::from_f32(vec![1], &[-1.0]).unwrap();
    fold_constants(&mut net, &mut |_| Ok::<_, ()>(vec![("n".into(), value.clone())])).unwrap();
    assert_eq!(ops(&net), ["Identity", "Relu"]);
    assert_eq!(net.nodes()[0].proto.output, ["n"]);
    // A second pass finds nothing more to do.
    let again = fold_constants(&mut net, &mut |_| -> Result<_, ()> { panic!("nothing to compute") });
    assert_eq!(again, Ok(0));
}
