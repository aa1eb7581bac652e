//! Whether a stage's engine may keep a second version of its weights, in the order in which it reads them.
//!
//! Measured with onnxruntime 1.24: it speeds up matrix products of several rows by a constant matrix (BERT-mini 3.8 → 2.5
//! ms) and recurrent layers; convolutions, which are reordered in any case, and the fully connected end of a network on
//! one picture (VGG-16: 287 ms either way) gain nothing. There it would cost all of the weights a second time.

use crate::engine::Prepacking;
use defer_partition::onnx::proto::{GraphProto, ModelProto, NodeProto};
use prost::Message as _;
use std::collections::HashSet;

/// Operators that multiply several rows by a constant. `Gemm` is not among them: it ends networks, on one row.
const PAYING: [&str; 9] = [
    "MatMul",
    "FusedMatMul",
    "MatMulInteger",
    "QLinearMatMul",
    "DynamicQuantizeMatMul",
    "Attention",
    "LSTM",
    "GRU",
    "RNN",
];
/// Bytes that are left free when a second version is kept: for activations, and for whatever else the machine does.
const MARGIN: u64 = 256 << 20;

/// Bytes that a stage may take, from each place that sets a limit; `None` where it sets none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// What the node's own limit leaves.
    pub limit: Option<u64>,
    /// What the machine has.
    pub machine: Option<u64>,
}

/// What is best for `graph`, an encoded `ModelProto` with so many bytes of weights.
pub fn choose(graph: &[u8], weights: u64, room: Room) -> Prepacking {
    let twice = weights.saturating_mul(2);
    let fits = room.limit.is_none_or(|limit| twice <= limit)
        && room.machine.is_none_or(|free| twice.saturating_add(MARGIN) <= free);
    match fits && ModelProto::decode(graph).is_ok_and(|model| model.graph.is_some_and(|graph| pays(&graph))) {
        true => Prepacking::On,
        false => Prepacking::Off,
    }
}

fn pays(graph: &GraphProto) -> bool {
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let multiplies = |node: &NodeProto| {
        PAYING.contains(&node.op_type()) && node.input.iter().any(|input| constants.contains(input.as_str()))
    };
    let inner = |node: &NodeProto| node.attribute.iter().any(|a| a.g.iter().chain(&a.graphs).any(pays));
    graph.node.iter().any(|node| multiplies(node) || inner(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::Tensor;
    use defer_partition::onnx::tensor_of;
    use defer_partition::testing::op;

    fn graph(op_type: &str, constant: &str) -> Vec<u8> {
        let weights = Tensor::from_f32(vec![1], &[1.0]).expect("one value");
        let graph = GraphProto {
            node: vec![op(op_type, &["x", "w"], &["y"])],
            initializer: vec![tensor_of(constant, weights)],
            ..Default::default()
        };
        ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn weights_are_kept_twice_where_it_pays_and_fits() {
        let (mebi, free) = (1 << 20, Room::default());
        let limit = |limit| Room { limit: Some(limit), machine: None };
        let machine = |machine| Room { limit: None, machine: Some(machine) };
        let cases = [
            ("MatMul", "w", free, Prepacking::On),
            ("LSTM", "w", free, Prepacking::On),
            ("MatMul", "elsewhere", free, Prepacking::Off),
            ("Conv", "w", free, Prepacking::Off),
            ("Gemm", "w", free, Prepacking::Off),
            ("MatMul", "w", limit(200 * mebi), Prepacking::On),
            ("MatMul", "w", limit(200 * mebi - 1), Prepacking::Off),
            ("MatMul", "w", machine(200 * mebi + MARGIN), Prepacking::On),
            ("MatMul", "w", machine(200 * mebi + MARGIN - 1), Prepacking::Off),
        ];
        for (op_type, constant, room, want) in cases {
            assert_eq!(choose(&graph(op_type, constant), 100 * mebi, room), want, "{op_type} {constant} {room:?}");
        }
        assert_eq!(choose(b"no model", 0, free), Prepacking::Off);
    }
}
