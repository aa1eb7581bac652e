//! Tensors that come about inside the chain and are too much for a frame or a node: only their own requests fail.

use crate::support::chain::{Chain, Node, spawn_dispatcher};
use crate::support::http::Refusal;
use crate::support::networks::{Staged, assert_same, outer, stage, tower};
use crate::support::{PATIENCE, folder, http, poll};
use std::thread;

/// Side of a square of 16 MiB, 16 times the limit here. What is larger costs its connection too: requests that come before
/// there is another one are told to come again. Those already accepted are answered all the same.
const READ_PAST: usize = 2048;

/// The refusal of a request with inputs of size `n`, while others are under way, which are answered.
fn refused_alone(chain: &Chain, staged: &Staged, n: usize, what: &str) -> Refusal {
    let small: Vec<_> = (0..3).map(|seed| staged.inputs(seed, 2 + seed as usize)).collect();
    let wanted = staged.whole_all(&small.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let door = &chain.door;
    let check = |inputs: &_, want: &_, when: &str| {
        let got = poll("an answer", || match door.infer(inputs) {
            Err(refusal) if refusal.status == 503 && n > READ_PAST => None,
            answer => Some(answer),
        });
        assert_same(&got.unwrap_or_else(|refusal| panic!("{what}, {when}: {refusal:?}")), want, what);
    };
    let large = staged.inputs(9, n);
    let refusal = thread::scope(|scope| {
        for (inputs, want) in small.iter().zip(&wanted) {
            scope.spawn(|| (0..4).for_each(|_| check(inputs, want, "beside it")));
        }
        chain.infer(&large).expect_err(what)
    });
    check(&small[0], &wanted[0], "after it");
    refusal
}

#[test]
fn a_tensor_over_a_limit_fails_its_own_request() {
    let mean = stage("outer-mean", &outer("y"), 0, &["big"]);
    let square = stage("outer-square", &outer("big"), 0, &["t"]);
    for (who, staged, limits) in [
        ("its-sender", &mean, ["1", "256"]),
        ("the-next-node", &mean, ["256", "1"]),
        // The dispatcher takes what the least of its nodes takes.
        ("the-dispatcher", &square, ["1", "256"]),
    ] {
        let folder = folder(&format!("over-{who}"));
        let node = |(index, mb)| Node::start(&folder, &format!("n{index}"), &["--max-tensor-mb", mb]);
        let chain = Chain::over(limits.into_iter().enumerate().map(node).collect(), staged, &[]);
        for n in [1024, READ_PAST + 100] {
            let what = format!("[{n},{n}] and {who}");
            let refusal = refused_alone(&chain, staged, n, &what);
            assert!(!matches!(refusal.status, 503 | 504), "{what}: {refusal:?}");
            assert!(
                refusal.error.contains("limit") && refusal.error.contains("--max-tensor-mb"),
                "{what}: {refusal:?}"
            );
        }
        let counters = chain.admin()["counters"].clone();
        assert_eq!((&counters["failed"], &counters["pending"]), (&2.into(), &0.into()), "{who}: {counters}");
    }
}

#[test]
fn a_tensor_of_more_dimensions_than_a_frame_carries_fails_its_own_request() {
    let staged = stage("tower", &tower(70), 0, &["tall"]);
    let chain = Chain::start("tower", &staged);
    let other = stage("beside-the-tower", &tower(64), 0, &["tall"]);
    let nodes: Vec<&Node> = chain.nodes.iter().collect();
    let mut second = spawn_dispatcher(&other, &nodes, &[]);
    second.wait_listening(&["inference"], PATIENCE).unwrap();
    for seed in 0..3 {
        let refusal = chain.infer(&staged.inputs(seed, 3)).expect_err("70 dimensions");
        assert!(refusal.error.contains("70 dimensions") && refusal.error.contains("at most 64"), "{refusal:?}");
        let inputs = other.inputs(seed, 3);
        let got = http::infer(second.address("inference"), other.name(), &inputs).unwrap();
        assert_same(&got, &other.whole(&inputs), "64 dimensions");
    }
}
