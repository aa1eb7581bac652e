//! Layers in parts: which nodes there are then, and what their weights are.

#![allow(clippy::unwrap_used)]

mod support;

use defer_partition::onnx::proto::{NodeProto, TensorProto};
use defer_partition::split::{Split, split};
use defer_partition::{Atoms, Network};
use support::*;

fn network(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Network {
    Network::new(model(&["x"], &["y"], nodes, constants)).unwrap()
}

fn counted(name: &str, shape: &[usize]) -> TensorProto {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|n| n as f32).collect();
    floats(name, shape, &values)
}

fn constant(net: &Network, node: usize, input: usize) -> (Vec<i64>, Vec<f32>) {
    let tensor = &net.initializers()[&net.nodes()[node].proto.input[input]];
    (tensor.dims.clone(), values(tensor))
}

#[test]
fn each_part_has_its_columns_of_weights_and_bias() {
    let transposed = with_int(op("Gemm", &["x", "w", "b"], &["y"]), "transB", 1);
    for (node, weights, bias, parts) in [
        // 3 columns of 2 numbers each: 8 bytes a column.
        (
            op("MatMul", &["x", "w"], &["y"]),
            counted("w", &[2, 3]),
            None,
            [(vec![2, 2], vec![0.0, 1.0, 3.0, 4.0]), (vec![2, 1], vec![2.0, 5.0])],
        ),
        (
            op("Gemm", &["x", "w", "b"], &["y"]),
            counted("w", &[2, 3]),
            Some((counted("b", &[1, 3]), [(vec![1, 2], vec![0.0, 1.0]), (vec![1, 1], vec![2.0])])),
            [(vec![2, 2], vec![0.0, 1.0, 3.0, 4.0]), (vec![2, 1], vec![2.0, 5.0])],
        ),
        (
            transposed,
            counted("w", &[3, 2]),
            Some((counted("b", &[3]), [(vec![2], vec![0.0, 1.0]), (vec![1], vec![2.0])])),
            [(vec![2, 2], vec![0.0, 1.0, 2.0, 3.0]), (vec![1, 2], vec![4.0, 5.0])],
        ),
        (
            op("Conv", &["x", "w", "b"], &["y"]),
            counted("w", &[3, 2, 1]),
            Some((floats("b", &[3], &[7.0; 3]), [(vec![2], vec![7.0, 7.0]), (vec![1], vec![7.0])])),
            [(vec![2, 2, 1], vec![0.0, 1.0, 2.0, 3.0]), (vec![1, 2, 1], vec![4.0, 5.0])],
        ),
    ] {
        let op = node.op_type().to_owned();
        let mut constants = vec![weights];
        constants.extend(bias.iter().map(|(bias, _)| bias.clone()));
        let mut net = network(vec![node], constants);
        let done = split(&mut net, &|_| Some(17));
        assert_eq!(done, [Split { name: "y".into(), weights_bytes: 24, parts: 2 }], "{op}");
        assert_eq!(ops(&net), [op.as_str(), op.as_str(), "Concat"]);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(constant(&net, index, 1), *part, "{op}");
            if let Some((_, biases)) = &bias {
                assert_eq!(constant(&net, index, 2), biases[index], "{op}");
            }
        }
        // Nobody holds the whole, and each part can be on a machine of its own.
        assert_eq!(net.weights_bytes(), 24 + if bias.is_some() { 12 } else { 0 });
        assert_eq!(Atoms::new(&net).atoms.len(), 3, "{op}");
        assert_eq!(net.resolve("y"), Some("y"));
    }
}

#[test]
fn contiguous_parts_are_views_of_the_same_bytes() {
    let node = with_int(op("Gemm", &["x", "w"], &["y"]), "transB", 1);
    let mut net = network(vec![node], vec![counted("w", &[4, 2])]);
    let whole = net.initializers()["w"].raw_data.clone().unwrap();
    split(&mut net, &|_| Some(16));
    let starts: Vec<usize> =
        (0..2).map(|n| net.initializers()[&net.nodes()[n].proto.input[1]].raw_data().as_ptr() as usize).collect();
    assert_eq!(starts, [whole.as_ptr() as usize, whole.as_ptr() as usize + 16]);
}

#[test]
fn columns_go_by_sixteens_where_there_is_room() {
    let mut net = network(vec![op("MatMul", &["x", "w"], &["y"])], vec![counted("w", &[1, 100])]);
    split(&mut net, &|_| Some(200));
    let columns = (0..2).map(|n| constant(&net, n, 1).0[1]).collect::<Vec<_>>();
    // 50 each would do; 64 and 36 would not fit into 200 bytes.
    assert_eq!(columns, [50, 50]);
    let mut net = network(vec![op("MatMul", &["x", "w"], &["y"])], vec![counted("w", &[1, 100])]);
    split(&mut net, &|_| Some(260));
    assert_eq!((0..2).map(|n| constant(&net, n, 1).0[1]).collect::<Vec<_>>(), [64, 36]);
}

#[test]
fn what_fits_or_cannot_be_split_stays() {
    let two = || vec![op("MatMul", &["x", "w"], &["m"]), op("MatMul", &["m", "v"], &["y"])];
    let constants = || vec![counted("w", &[2, 2]), counted("v", &[2, 2])];
    let mut net = network(two(), constants());
    assert_eq!(split(&mut net, &|_| None), []);
    assert_eq!(split(&mut net, &|_| Some(16)), []);
    // Only the second one is too large where it is.
    assert_eq!(split(&mut net, &|node| Some(if node == 1 { 8 } else { 16 })).len(), 1);
    assert_eq!(ops(&net), ["MatMul", "MatMul", "MatMul", "Concat"]);
    // Weights that are computed, groups of channels, and a bias that comes from outside.
    let grouped = with_int(op("Conv", &["x", "w"], &["y"]), "group", 2);
    for (nodes, constants) in [
        (vec![op("MatMul", &["x", "x"], &["y"])], vec![]),
        (vec![grouped], vec![counted("w", &[2, 1, 1])]),
        (vec![op("Gemm", &["x", "w", "x"], &["y"])], vec![counted("w", &[2, 2])]),
        (vec![op("MatMul", &["w", "x"], &["y"])], vec![counted("w", &[2, 2])]),
    ] {
        let mut net = network(nodes, constants);
        assert_eq!(split(&mut net, &|_| Some(1)), []);
    }
}

#[test]
fn layers_that_share_weights_share_the_parts() {
    let nodes = vec![op("MatMul", &["x", "w"], &["m"]), op("MatMul", &["m", "w"], &["y"])];
    let mut net = network(nodes, vec![counted("w", &[2, 2])]);
    assert_eq!(split(&mut net, &|_| Some(8)).len(), 2);
    assert_eq!(net.weights_bytes(), 16);
}
