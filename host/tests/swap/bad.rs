//! Swaps that are refused; the old stage goes on.

use crate::stages::{roll_back, settled, swap, swap_at};
use crate::support::chain::{Chain, Node, memory_limit};
use crate::support::guests::hostile;
use crate::support::hostile::Parts;
use crate::support::http::Request;
use crate::support::networks::{Staged, heavy, ladder_between, value};
use crate::support::{folder, hand::assignment, poll};
use crate::traffic::Versions;
use defer_host::artifact::{Artifact, Manifest};
use defer_partition::slice::{self, Slice};
use defer_partition::testing::{Random, op};
use defer_partition::{DType, Network};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;

/// The parts of an artifact that says it is stage 1 of `staged`.
pub fn like(staged: &Staged) -> Parts {
    let file = staged.folder.join(&staged.pipeline.stages[1].file);
    let manifest = Artifact::open(&file).unwrap().manifest;
    Parts { manifest, ..Parts::good(staged.name()) }
}

fn changed(staged: &Staged, change: impl Fn(&mut Manifest)) -> Vec<u8> {
    let mut parts = like(staged);
    change(&mut parts.manifest);
    parts.artifact()
}

/// A slice from `t1` to `t2` that looks well and cannot be computed: it takes what is not there.
fn out_of_range() -> Slice {
    let rows = |name: &str| value(name, DType::Fp32, &[-1, 64]);
    let far = defer_partition::Tensor::new(DType::Int64, vec![1], 1_000_000i64.to_le_bytes().to_vec()).unwrap();
    let nodes = vec![op("Shape", &["t1"], &["shape"]), op("Gather", &["t1", "far"], &["t2"])];
    let constants = vec![defer_partition::onnx::tensor_of("far", far)];
    let model = crate::support::networks::model(nodes, vec![rows("t1")], vec![rows("t2")], constants);
    slice::whole(&Network::new(model).unwrap(), &[])
}

#[test]
fn a_bad_stage_is_refused_with_the_reason_and_the_old_one_goes_on() {
    let versions = Versions::of("refusals", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    let limit = memory_limit("refusals", &[], 3);
    let chain = Chain::start_with("refusals", staged, &["--memory-limit", &limit, "--store-limit", "10"], &[]);
    let traffic = versions.traffic(&chain.door, 3);
    let node = &chain.nodes[1];
    let name = staged.name();
    let mut random = Random::new(5);
    let noise: Vec<u8> = (0..5000).map(|_| random.bits() as u8).collect();
    let good = slice::whole(&Network::new(ladder_between("t1", "t2", 9)).unwrap(), &[]);
    let heavy = slice::whole(&Network::new(heavy(6, 7)).unwrap(), &[]);
    let mut cut_short = versions.0[1].artifact(1);
    cut_short.truncate(cut_short.len() - 5000);
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("nothing", Vec::new(), 422, "the upload is no stage"),
        ("noise", noise, 422, "not a WASI component"),
        ("half a stage", cut_short, 422, "the upload is no stage"),
        (
            "an import",
            like(staged).component("(component (import \"wasi:sockets/tcp@0.2.0\" (instance)))").artifact(),
            422,
            "the component imports wasi:sockets/tcp@0.2.0",
        ),
        ("another stage", staged.artifact(0), 422, "it is stage 0 of pipeline \"refusals\""),
        (
            "another pipeline",
            changed(staged, |m| m.pipeline = "other".into()),
            422,
            "it is stage 1 of pipeline \"other\"",
        ),
        ("another count", changed(staged, |m| m.count = 4), 422, "it is one of 4 stages, the running one of 3"),
        ("another input", changed(staged, |m| m.inputs[0].name = "t0".into()), 422, "it takes \"t0\" FP32[-1, 64]"),
        (
            "another shape",
            changed(staged, |m| m.outputs[0].shape = vec![-1, 32]),
            422,
            "it computes \"t2\" FP32[-1, 32]",
        ),
        ("another type", changed(staged, |m| m.outputs[0].dtype = DType::Fp16), 422, "it computes \"t2\" FP16"),
        (
            "another tensor passed on",
            changed(staged, |m| m.forwards.push(m.inputs[0].clone())),
            422,
            "it passes on \"t1\"",
        ),
        ("another slice", changed(staged, |_| {}), 422, "the slice's inputs are {\"x\"}"),
        (
            "a component that loops",
            Parts { guest: hostile("loops_at_once"), slice: good.clone(), ..like(staged) }.artifact(),
            422,
            "1000 ms are allowed",
        ),
        ("a warm-up that fails", Parts { slice: out_of_range(), ..like(staged) }.artifact(), 422, "it cannot be run"),
        (
            "too much weight",
            Parts { slice: heavy, ..like(staged) }.artifact(),
            507,
            "is the limit (serve --memory-limit)",
        ),
        ("more than it keeps", vec![0; 11 << 20], 413, "larger than what the node keeps"),
    ];
    for (what, artifact, status, because) in cases {
        let reply = swap(node, name, 1, artifact);
        assert_eq!(reply.status.as_u16(), status, "{what}: {}", String::from_utf8_lossy(&reply.body));
        assert!(reply.error().contains(because), "{what}: {}", reply.error());
        traffic.goes_on(what);
    }
    for (index, pipeline) in [(0, name), (7, name), (1, "unknown")] {
        let reply = swap(node, pipeline, index, versions.0[1].artifact(1));
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "stage {index} of {pipeline}");
    }
    assert_eq!(roll_back(node, name, 1).status, StatusCode::NOT_FOUND, "nothing ran before");
    assert_eq!(settled(&chain.nodes), 1, "no generation was made of any of that");
    let seen = traffic.end();
    assert_eq!((seen.refused, seen.answers[1]), (0, 0), "{seen:?}");
}

#[test]
fn of_two_swaps_at_once_one_wins() {
    let versions = Versions::of("rival-swaps", &[[1, 2, 3], [1, 12, 3], [11, 2, 3], [11, 12, 3]]);
    let staged = &versions.0[0];
    let chain = Chain::start("rival-swaps", staged);
    let traffic = versions.traffic(&chain.door, 3);
    let (name, node) = (staged.name(), &chain.nodes[1]);
    // One whose upload takes its time holds the place, until it goes away.
    let new = versions.0[1].artifact(1);
    let address = node.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("PUT /v1/stages/{name}/1 HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", new.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&new[..1000]).unwrap();
    poll("409 while another swap runs", || {
        (swap(node, name, 1, new.clone()).status == StatusCode::CONFLICT).then_some(())
    });
    drop(stream);
    let reply = poll("the end of it", || {
        let reply = swap(node, name, 1, new.clone());
        (reply.status != StatusCode::CONFLICT).then_some(reply)
    });
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
    assert_eq!(roll_back(node, name, 1).status, StatusCode::OK);
    settled(&chain.nodes);
    // On two nodes at once: what is answered 200 is what runs, be it one or both in turn.
    let replies: Vec<u16> = thread::scope(|scope| {
        let swaps: Vec<_> = [(1, 1), (0, 2)]
            .map(|(stage, version)| {
                let (url, artifact) = (chain.nodes[stage].url(), versions.0[version].artifact(stage));
                scope.spawn(move || swap_at(url, name, stage, artifact).status.as_u16())
            })
            .into_iter()
            .collect();
        swaps.into_iter().map(|swap| swap.join().unwrap()).collect()
    });
    assert!(replies.contains(&200) && replies.iter().all(|status| [200, 409].contains(status)), "{replies:?}");
    settled(&chain.nodes);
    for (at, (stage, version)) in [(1, 1), (0, 2)].into_iter().enumerate() {
        let runs = chain.nodes[stage].stages()[0]["digest"].clone();
        let version = if replies[at] == 200 { version } else { 0 };
        assert_eq!(runs, versions.0[version].pipeline.stages[stage].digest.to_string(), "stage {stage}: {replies:?}");
    }
    let seen = traffic.end();
    assert_eq!(seen.refused, 0, "{seen:?}");
}

#[test]
fn a_node_that_cannot_prepare_is_named_and_nothing_changes_anywhere() {
    let versions = Versions::of("unprepared", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    let chain = Chain::start("unprepared", staged);
    let traffic = versions.traffic(&chain.door, 3);
    let folder = chain.nodes[2].state_dir.join("generations");
    let reply = swap(&chain.nodes[1], staged.name(), 1, {
        // Its notes cannot be written.
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, b"no folder").unwrap();
        versions.0[1].artifact(1)
    });
    assert_eq!(reply.status, StatusCode::INSUFFICIENT_STORAGE, "{}", String::from_utf8_lossy(&reply.body));
    assert!(reply.error().contains("stage 2 on node \"n2\""), "{}", reply.error());
    assert_eq!(settled(&chain.nodes), 1);
    // Mended, the very same swap goes well.
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let reply = swap(&chain.nodes[1], staged.name(), 1, versions.0[1].artifact(1));
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
    assert_eq!(reply.json()["generation"], 3, "the number of what failed is nobody else's");
    let seen = traffic.end();
    assert!(seen.refused == 0 && seen.answers[1] > 0, "{seen:?}");
}

#[test]
fn a_dispatcher_that_does_not_come_is_not_waited_for_for_ever() {
    let versions = Versions::cut("deserted", &[(&[1], &[]), (&[2], &[])]);
    let staged = &versions.0[0];
    let node = Node::start(&folder("deserted"), "n0", &[]);
    let digest = staged.pipeline.stages[0].digest.to_string();
    assert!(node.upload(&digest, staged.artifact(0)).status.is_success());
    assert!(node.prepare(staged.name(), 1, &assignment(0, &digest, &json!([]))).status.is_success());
    let url = format!("{}/v1/stages/{}/0", node.url(), staged.name());
    let reply = Request::new(Method::PUT, url).body(versions.0[1].artifact(0)).send();
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.error().contains("\"by hand\" did not take it up within 10 s"), "{}", reply.error());
    assert_eq!(settled(std::slice::from_ref(&node)), 1);
}

#[test]
fn one_stage_of_several_is_not_swapped_behind_the_back_of_a_dispatcher_that_is_gone() {
    let versions = Versions::cut("bereft", &[(&[1, 2], &["t1"]), (&[11, 2], &["t1"])]);
    let staged = &versions.0[0];
    let mut node = Node::start(&folder("bereft"), "n0", &[]);
    let digest = staged.pipeline.stages[0].digest.to_string();
    assert!(node.upload(&digest, staged.artifact(0)).status.is_success());
    let next = json!([{"relay": node.relay(), "stage": 1}]);
    assert!(node.prepare(staged.name(), 1, &assignment(0, &digest, &next)).status.is_success());
    // What comes back after a restart has no lease until its dispatcher says that it lives.
    node.process.kill();
    node.start_again();
    let reply = swap(&node, staged.name(), 0, versions.0[1].artifact(0));
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.error());
    assert!(reply.error().contains("dispatcher \"by hand\" is not heard of"), "{}", reply.error());
    let stages = node.stages();
    assert_eq!((stages.len(), &stages[0]["digest"], &stages[0]["generation"]), (1, &json!(digest), &json!(1)));
}
