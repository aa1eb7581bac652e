//! Chains in which the architecture changes from node to node.

use crate::support::chain::{Chain, Node};
use crate::support::http::Request;
use crate::support::networks::{Staged, cut};
use crate::support::{PATIENCE, folder, poll};
use crate::traffic::Versions;
use defer_host::accuracy::difference;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// How far answers of a mixed chain may be from those of the uncut network on one machine, relative to the output's
/// largest value. Engines add up in the order that a processor's vectors suggest: that alone makes some 1e-6.
const BOUND: f64 = 1e-5;

/// Nodes of this machine's architecture (even ones) and of aarch64 (odd ones).
fn alternating(name: &str, count: usize) -> Vec<Node> {
    let folder = folder(&format!("mixed-{name}"));
    let start = |index: usize| match (index % 2, format!("n{index}")) {
        (0, name) => Node::start(&folder, &name, &[]),
        (_, name) => Node::start_emulated(&folder, &name),
    };
    let nodes: Vec<Node> = (0..count).map(start).collect();
    for (index, node) in nodes.iter().enumerate() {
        let arch = if index % 2 == 0 { std::env::consts::ARCH } else { "aarch64" };
        assert_eq!(node.get("/v1/node").json()["arch"], arch);
    }
    nodes
}

/// The network that chains of other architectures compute here, with its samples; `None` where it cannot be had.
pub fn network() -> Option<&'static defer_models::Entry> {
    let entry = defer_models::find("ocr-cls").expect("it is in the catalogue");
    if let Err(error) = entry.fetch(&mut |line| println!("{line}")) {
        assert!(std::env::var_os("CI").is_none(), "the network cannot be had: {error}");
        println!("SKIPPED: the network cannot be had: {error}");
        return None;
    }
    Some(entry)
}

/// Has the chain answer the samples.
pub fn answers_as_uncut(chain: &Chain, staged: &Staged, entry: &defer_models::Entry) {
    for (label, inputs) in entry.sample_inputs().unwrap() {
        let (got, want) = (chain.infer_in_time(&inputs), staged.whole(&inputs));
        let off = difference(&want, &got).unwrap();
        println!("{label}: {off:.1e}");
        assert!(off <= BOUND, "{label}: {off:.1e}");
    }
}

#[test]
fn the_same_stage_files_answer_as_the_uncut_network_on_alternating_architectures() {
    let Some(entry) = network() else { return };
    let staged = cut("ocr-cls", &folder("mixed-ocr-cls"), 4, &[]).unwrap();
    let chain = Chain::over(alternating("chain", 4), &staged, &[]);
    for (node, stage) in chain.nodes.iter().zip(&staged.pipeline.stages) {
        let slot = &node.stages()[0];
        assert_eq!((&slot["digest"], &slot["index"]), (&json!(stage.digest), &json!(stage.index)));
        println!("{} {} on {}", stage.file, stage.digest, node.get("/v1/node").json()["arch"]);
    }
    answers_as_uncut(&chain, &staged, entry);
}

/// Nodes of the active generation, stage by stage.
fn homes(chain: &Chain) -> Vec<String> {
    let stages: Vec<Value> = chain.admin()["generations"][0]["stages"].as_array().unwrap().clone();
    stages.iter().map(|stage| stage["node"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_stage_is_swapped_on_aarch64_and_then_moves_to_this_machine_under_traffic() {
    let versions = Versions::of("mixed-swap", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    let mut nodes = alternating("swap", 3);
    nodes.push(Node::start(&folder("mixed-spare"), "spare", &[]));
    let mut chain = Chain::over(nodes, staged, &[]);
    assert_eq!(homes(&chain), ["n0", "n1", "n2"]);
    let traffic = versions.traffic(&chain.door, 2);

    let swap = format!("{}/v1/stages/{}/1", chain.nodes[1].url(), staged.name());
    let reply = Request::new(Method::PUT, swap).body(versions.0[1].artifact(1)).send();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
    traffic.goes_on("a swap on aarch64");
    assert!(traffic.answers()[1] > 0, "{:?}", traffic.answers());

    // The very file that ran there goes on here.
    let digest = versions.0[1].pipeline.stages[1].digest.to_string();
    poll("the new stage on the spare", || chain.nodes[3].has_artifact(&digest).then_some(()));
    chain.nodes[1].process.ask_to_stop();
    poll("another home for its stage", || (homes(&chain) == ["n0", "spare", "n2"]).then_some(()));
    assert_eq!(chain.nodes[3].stages()[0]["digest"], digest);
    let before = traffic.answers();
    traffic.goes_on("the move to this machine");
    assert!(traffic.answers()[1] > before[1], "{:?} after {before:?}", traffic.answers());
    let status = chain.nodes[1].process.wait_exit(PATIENCE).expect("nothing holds it");
    assert_eq!(status.code(), Some(0));
    assert_eq!(chain.admin()["counters"]["failed"], 0);
    traffic.end();
}
