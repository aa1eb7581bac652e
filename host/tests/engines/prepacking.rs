//! A second version of weights is kept where it pays, and where the node's limit leaves room.

use crate::support::hand::ByHand;
use crate::support::networks::{slow, stage};

#[test]
fn weights_are_held_twice_only_where_it_pays_and_fits() {
    // A matrix of 1 MiB; the limit is in MiB.
    let matrices = stage("matrices", &slow(1), 1, &[]);
    for (flags, want) in [
        (&["--engine", "onnxruntime"][..], true),
        (&["--engine", "onnxruntime", "--memory-limit", "2"], true),
        (&["--engine", "onnxruntime", "--memory-limit", "1"], false),
        (&["--engine", "tract", "--memory-limit", "1"], true),
    ] {
        let hand = ByHand::start(&format!("prepacking{}", flags.join("")), &matrices, flags);
        assert_eq!(hand.nodes[0].stages()[0]["prepacking"], want, "{flags:?}");
    }
}
