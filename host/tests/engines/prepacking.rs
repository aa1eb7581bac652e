//! A second version of weights is kept where it pays, and where the node's limit leaves room.

use crate::support::chain::memory_limit;
use crate::support::hand::ByHand;
use crate::support::networks::{heavy, stage};

#[test]
fn weights_are_held_twice_only_where_it_pays_and_fits() {
    // A matrix of 16 MiB; what a node takes itself differs by less than 8 MiB between two starts, buffers of uploads included.
    let matrix = stage("matrix", &heavy(16, 7), 1, &[]);
    for (engine, room, want) in [
        ("onnxruntime", None, true),
        ("onnxruntime", Some(2 * 16 + 8), true),
        ("onnxruntime", Some(16 + 8), false),
        ("tract", Some(16 + 8), true),
    ] {
        let name = format!("prepacking-{engine}-{}", room.unwrap_or_default());
        let flags = ["--engine", engine];
        let limit = room.map(|room| memory_limit(&name, &flags, room));
        let limit: Vec<&str> = limit.iter().flat_map(|limit| ["--memory-limit", limit]).collect();
        let hand = ByHand::start(&name, &matrix, &[&flags[..], &limit].concat());
        assert_eq!(hand.nodes[0].stages()[0]["prepacking"], want, "{engine} {room:?}");
    }
}
