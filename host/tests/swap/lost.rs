//! Nodes that are killed, freeze, and come back.

use crate::stages::settled;
use crate::support::chain::{Chain, Node};
use crate::support::{PATIENCE, folder, poll, signal};
use crate::traffic::Versions;
use rustix::process::Signal;
use serde_json::{Value, json};

pub fn nodes(name: &str, count: usize, serve: &[&str]) -> Vec<Node> {
    let folder = folder(&format!("lost-{name}"));
    (0..count).map(|index| Node::start(&folder, &format!("n{index}"), serve)).collect()
}

/// What happens to a node.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Frozen,
    /// Told to stop, as a person would.
    Stopped,
}

/// The nodes of the active generation, stage by stage.
pub fn homes(chain: &Chain) -> Vec<String> {
    let admin = chain.admin();
    let stages = admin["generations"][0]["stages"].as_array().unwrap().clone();
    stages.iter().map(|stage| stage["node"].as_str().unwrap().to_owned()).collect()
}

pub fn is_up(chain: &Chain, name: &str) -> bool {
    let admin = chain.admin();
    let nodes: Vec<Value> = admin["nodes"].as_array().unwrap().clone();
    nodes.iter().any(|node| node["name"] == name && node["up"] == json!(true))
}

pub fn assert_none_failed(chain: &Chain) {
    let admin = chain.admin();
    assert_eq!(admin["counters"]["failed"], 0, "{admin}");
}

#[test]
fn fault_after_fault_is_survived_as_long_as_one_node_is_spare() {
    let versions = Versions::of("spare", &[[1, 2, 3]]);
    let mut chain = Chain::over(nodes("spare", 4, &[]), &versions.0[0], &[]);
    let traffic = versions.traffic(&chain.door, 4);
    let digests: Vec<String> = versions.0[0].pipeline.stages.iter().map(|stage| stage.digest.to_string()).collect();
    poll("every stage on the spare", || digests.iter().all(|digest| chain.nodes[3].has_artifact(digest)).then_some(()));
    // Each comes back and takes over from the next.
    let mut spare = "n3".to_owned();
    for (stage, fault) in
        [(1, Fault::Killed), (2, Fault::Frozen), (0, Fault::Stopped), (1, Fault::Frozen), (0, Fault::Killed)]
    {
        let before = homes(&chain);
        let name = before[stage].clone();
        let at = chain.nodes.iter().position(|node| node.name == name).unwrap();
        match fault {
            Fault::Frozen => signal(chain.nodes[at].process.pid(), Signal::STOP),
            Fault::Killed => chain.nodes[at].process.kill(),
            Fault::Stopped => chain.nodes[at].process.ask_to_stop(),
        }
        poll("another home for its stage", || (homes(&chain)[stage] == spare).then_some(()));
        traffic.goes_on(&format!("the loss of {name}: {fault:?}"));
        // What wakes up is of no generation that counts, and spare.
        match fault {
            Fault::Frozen => signal(chain.nodes[at].process.pid(), Signal::CONT),
            Fault::Killed => chain.nodes[at].start_again(),
            Fault::Stopped => {
                let node = &mut chain.nodes[at];
                let status = node.process.wait_exit(PATIENCE).expect("nothing holds it");
                assert_eq!(status.code(), Some(0));
                node.start_again();
            }
        }
        poll("its return", || is_up(&chain, &name).then_some(()));
        poll("its stages' end", || chain.nodes[at].stages().is_empty().then_some(()));
        spare = name;
    }
    // An attempt that fails takes its number along.
    assert!(chain.tag().0 >= 6);
    assert_none_failed(&chain);
    traffic.end();
}

#[test]
fn without_a_spare_a_stage_moves_in_with_another_and_out_again() {
    let versions = Versions::of("replanned", &[[1, 2, 3]]);
    let mut chain = Chain::over(nodes("replanned", 3, &[]), &versions.0[0], &["--replan-after", "1"]);
    let traffic = versions.traffic(&chain.door, 3);
    chain.nodes[1].process.kill();
    poll("two stages on one node", || {
        let homes = homes(&chain);
        (homes.iter().all(|home| home != "n1")).then_some(())
    });
    traffic.goes_on("moving in");
    chain.nodes[1].start_again();
    poll("a node for each stage again", || {
        let mut homes = homes(&chain);
        homes.sort();
        homes.dedup();
        (homes.len() == 3).then_some(())
    });
    traffic.goes_on("moving out");
    settled(&chain.nodes);
    assert_none_failed(&chain);
    traffic.end();
}

#[test]
fn without_room_requests_fail_fast_and_name_the_stage_until_its_node_is_back() {
    let versions = Versions::cut("no-room", &[(&[1, 2], &["t1"])]);
    let staged = &versions.0[0];
    let mut chain = Chain::over(nodes("no-room", 2, &[]), staged, &["--replan-after", "600"]);
    let inputs = staged.inputs(1, 2);
    assert!(chain.infer(&inputs).is_ok());
    chain.nodes[1].process.kill();
    let refusal = poll("a refusal", || match chain.door.try_infer(&inputs, &json!({"timeout": 2_000_000})) {
        Some(Err(refusal)) if refusal.error.contains("stage 1 of pipeline \"no-room\": its node \"n1\"") => {
            Some(refusal)
        }
        _ => None,
    });
    assert_eq!(refusal.status, 503);
    assert!(refusal.retry_after.is_some());
    chain.nodes[1].start_again();
    chain.infer_in_time(&inputs);
    assert_eq!(chain.tag().0, 1, "it came back with its stage");
}
