//! Nodes that live, and do not reach each other.

use crate::lost::{assert_none_failed, homes, is_up, nodes};
use crate::support::chain::{Chain, Node};
use crate::support::gate::{Gate, Passage};
use crate::support::{folder, poll};
use crate::traffic::Versions;
use serde_json::json;
use std::sync::LazyLock;
use tokio::runtime::Runtime;

/// Where gates work.
static GATES: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Nodes n0 to n3; those of `gated` are reached by others through a gate only.
fn gated<const N: usize>(name: &str, gated: [usize; N]) -> (Vec<Node>, [Gate; N]) {
    let gates = gated.map(|_| GATES.block_on(Gate::open("127.0.0.1:0".parse().unwrap())).unwrap());
    let mut nodes = nodes(name, 4, &[]);
    for (gate, at) in gates.iter().zip(gated) {
        let advertise = ["--advertise".to_owned(), gate.address.to_string()];
        let flags: Vec<&str> = advertise.iter().map(String::as_str).collect();
        nodes[at] = Node::start(&folder(&format!("apart-{name}-{at}")), &format!("n{at}"), &flags);
        gate.lead_to(nodes[at].relay().parse().unwrap());
    }
    (nodes, gates)
}

#[test]
fn a_node_that_another_does_not_reach_leaves_its_stage_to_the_spare() {
    let versions = Versions::of("apart", &[[1, 2, 3]]);
    let (nodes, [gate]) = gated("one", [1]);
    let chain = Chain::over(nodes, &versions.0[0], &[]);
    let traffic = versions.traffic(&chain.door, 3);
    traffic.goes_on("the start");
    gate.set(Passage::Refused);
    poll("the spare in its place", || (homes(&chain) == ["n0", "n3", "n2"]).then_some(()));
    traffic.goes_on("the cut");
    assert!(is_up(&chain, "n1"));
    // What was cut off is the spare now.
    gate.set(Passage::Open);
    let mut chain = chain;
    chain.nodes[3].process.kill();
    poll("its stage again", || (homes(&chain) == ["n0", "n1", "n2"]).then_some(()));
    traffic.goes_on("the loss of the spare");
    assert_none_failed(&chain);
    traffic.end();
}

#[test]
fn the_other_replica_goes_on_without_one_that_is_not_reached() {
    let versions = Versions::of("apart-replica", &[[1, 2, 3]]);
    let (nodes, [gate]) = gated("replica", [1]);
    let chain = Chain::over(nodes, &versions.0[0], &["--replicas", "stage=1:2"]);
    let traffic = versions.traffic(&chain.door, 3);
    traffic.goes_on("the start");
    assert!(homes(&chain).contains(&"n1".to_owned()));
    gate.set(Passage::Refused);
    poll("a generation without it", || (!homes(&chain).contains(&"n1".to_owned())).then_some(()));
    traffic.goes_on("the cut");
    assert_none_failed(&chain);
    traffic.end();
}

#[test]
fn a_stage_that_moved_in_with_another_stays_there_as_long_as_the_link_is_missing() {
    let versions = Versions::of("shared", &[[1, 2, 3]]);
    let (mut nodes, [gate]) = gated("shared", [1]);
    nodes.pop();
    let chain = Chain::over(nodes, &versions.0[0], &["--replan-after", "1"]);
    let traffic = versions.traffic(&chain.door, 3);
    traffic.goes_on("the start");
    gate.set(Passage::Refused);
    poll("two stages on one node", || (!homes(&chain).contains(&"n1".to_owned())).then_some(()));
    traffic.goes_on("the cut");
    let (generation, _) = chain.tag();
    // Longer than a node is left alone that could not keep a stage.
    std::thread::sleep(std::time::Duration::from_secs(13));
    assert_eq!(chain.tag().0, generation);
    assert_none_failed(&chain);
    traffic.end();
}

#[test]
fn where_there_is_no_other_node_requests_fail_fast_until_the_link_is_back() {
    let versions = Versions::of("severed", &[[1, 2, 3]]);
    let staged = &versions.0[0];
    let (mut nodes, [gate]) = gated("severed", [1]);
    nodes.pop();
    let chain = Chain::over(nodes, staged, &["--replan-after", "600"]);
    let inputs = staged.inputs(1, 2);
    assert!(chain.infer(&inputs).is_ok());
    gate.set(Passage::Refused);
    let refusal = poll("a refusal", || match chain.door.try_infer(&inputs, &json!({"timeout": 1_000_000})) {
        Some(Err(refusal)) if refusal.error.contains("no link from node \"n0\" to node \"n1\"") => Some(refusal),
        _ => None,
    });
    assert_eq!(refusal.status, 503, "{}", refusal.error);
    assert!(refusal.error.contains("stage 1 of pipeline \"severed\""), "{}", refusal.error);
    gate.set(Passage::Open);
    poll("an answer", || chain.infer(&inputs).ok());
}
