//! Tensors that come about inside the chain and are too much for a frame or a node: only their own requests fail.

use crate::support::chain::{Chain, Node, spawn_dispatcher};
use crate::support::http::Refusal;
use crate::support::networks::{Staged, assert_same, cut, outer, stage, tower};
use crate::support::{PATIENCE, folder, http, poll};
use defer_host::artifact::{self, Artifact, Digest};
use defer_host::build::GUEST;
use defer_partition::{Atoms, DType, Network, Partition, TensorInfo, slice};
use prost::Message as _;
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
fn a_network_with_more_dimensions_than_a_frame_carries_is_not_cut_there() {
    let folder = folder("tower-refused");
    let file = folder.join("tower.onnx");
    std::fs::write(&file, tower(70).encode_to_vec()).unwrap();
    let file = file.to_str().unwrap();
    let error = cut(file, &folder.join("at"), 0, &["tall"]).expect_err("70 dimensions");
    let text = error.to_string();
    assert!(error.is_usage(), "{text}");
    assert!(text.contains("\"tall\" would cross there") && text.contains("70 dimensions"), "{text}");
    // Inside a stage it may have as many as the engine takes.
    let staged = cut(file, &folder.join("whole"), 1, &[]).unwrap();
    assert_eq!(staged.pipeline.stages.len(), 1);
}

/// The tower cut in its middle, as no build does it any more: artifacts that were made elsewhere may hold anything.
fn tower_by_hand(rank: usize) -> Staged {
    let mut staged = stage("tower", &tower(64), 0, &["tall"]);
    let network = Network::new(tower(rank)).unwrap();
    let (_, partition, _) = Partition::at_tensors(&network, &Atoms::new(&network), &["tall".to_owned()]).unwrap();
    let deep = TensorInfo { name: "tall".into(), dtype: DType::Fp32, shape: vec![-1; rank] };
    for (index, stage) in staged.pipeline.stages.iter_mut().enumerate() {
        let path = staged.folder.join(&stage.file);
        let mut manifest = Artifact::open(&path).unwrap().manifest;
        for info in stage.inputs.iter_mut().chain(&mut stage.outputs) {
            if info.name == deep.name {
                *info = deep.clone();
            }
        }
        (manifest.inputs, manifest.outputs) = (stage.inputs.clone(), stage.outputs.clone());
        for shape in manifest.warm_up.iter_mut().filter(|shape| shape.len() > 2) {
            *shape = [vec![1; rank - 1], vec![2]].concat();
        }
        let describe = |name: &str| (name == deep.name).then(|| deep.clone());
        let slice = slice::slice(&network, &partition.stages[index], &describe).unwrap();
        let mut bytes = Vec::new();
        artifact::write(&mut bytes, GUEST, manifest, &slice).unwrap();
        stage.digest = Digest::of(&bytes[..]).unwrap();
        // Under another name first: nothing that may be mapped is changed.
        let part = path.with_extension("part");
        std::fs::write(&part, bytes).unwrap();
        std::fs::rename(part, path).unwrap();
    }
    staged.pipeline.write(&staged.folder).unwrap();
    staged
}

#[test]
fn a_tensor_of_more_dimensions_than_a_frame_carries_fails_its_own_request() {
    let staged = tower_by_hand(70);
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
