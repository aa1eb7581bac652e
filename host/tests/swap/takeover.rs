//! A dispatcher that dies, and its next life.

use crate::lost::nodes;
use crate::stages::{settled, swap};
use crate::support::chain::{Chain, Node, spawn_dispatcher};
use crate::support::networks::{assert_same, ladder, long, stage};
use crate::support::{PATIENCE, folder, poll};
use crate::traffic::Versions;
use serde_json::{Value, json};
use std::thread;

#[test]
fn the_next_life_of_a_dispatcher_goes_on_with_what_its_nodes_run() {
    let versions = Versions::of("lives", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    let state = folder("lives-dispatcher");
    let flags = ["--state-dir", state.to_str().unwrap()];
    let mut chain = Chain::start_with("lives", staged, &[], &flags);
    let inputs = staged.inputs(1, 2);
    assert!(swap(&chain.nodes[1], staged.name(), 1, versions.0[1].artifact(1)).status.is_success());
    let want = versions.0[1].whole(&inputs);
    assert_same(&chain.infer(&inputs).unwrap(), &want, "the first life");
    let loaded = |chain: &Chain| -> Vec<(Value, Value)> {
        let slots = chain.nodes.iter().flat_map(|node| node.stages());
        slots.map(|slot| (slot["digest"].clone(), slot["loaded_ms"].clone())).collect()
    };
    settled(&chain.nodes);
    let before = loaded(&chain);
    for life in 2..4 {
        let incarnation = chain.tag().1;
        chain.dispatcher.kill();
        let nodes = std::mem::take(&mut chain.nodes);
        chain = Chain::over(nodes, staged, &flags);
        let said = chain.dispatcher.stderr_tail();
        assert!(said.contains("going on where the last life") && !said.contains("waiting for the lease"), "{said}");
        assert_ne!(chain.tag().1, incarnation);
        assert_same(&chain.infer(&inputs).unwrap(), &want, &format!("life {life}"));
        settled(&chain.nodes);
        // Loading takes a time of its own to the microsecond: nothing was loaded anew.
        assert_eq!(loaded(&chain), before, "life {life}");
    }
    // Another pipeline than what it was given then is meant to be deployed.
    chain.dispatcher.kill();
    let mut nodes = std::mem::take(&mut chain.nodes);
    // One more thing can happen meanwhile: a node that is started again too.
    nodes[2].process.kill();
    nodes[2].start_again();
    let chain = Chain::over(nodes, &versions.0[1], &flags);
    assert_same(&chain.infer(&inputs).unwrap(), &want, "the other pipeline");
}

#[test]
fn a_dispatcher_waits_for_nodes_that_start_after_it() {
    let staged = stage("late", &ladder(2), 2, &[]);
    let mut nodes = nodes("late", 2, &[]);
    nodes[1].process.kill();
    let state = folder("late-dispatcher");
    let state_dir = ["--state-dir", state.to_str().unwrap()];
    let both: Vec<&Node> = nodes.iter().collect();
    let mut hasty = spawn_dispatcher(&staged, &both, &[&state_dir[..], &["--wait-for-nodes", "0"]].concat());
    assert_eq!(hasty.wait_exit(PATIENCE).unwrap().code(), Some(1));
    assert!(hasty.stderr_tail().contains(nodes[1].url()), "{}", hasty.stderr_tail());
    assert!(!state.join("dispatcher.json").exists(), "a life that asked nothing of anybody");
    let mut patient = spawn_dispatcher(&staged, &both, &["--wait-for-nodes", "100"]);
    poll("a word that it waits", || patient.stderr_tail().contains("waiting for a node").then_some(()));
    nodes[1].start_again();
    patient.wait_listening(&["inference"], PATIENCE).unwrap();
    let inputs = staged.inputs(1, 2);
    let got = crate::support::http::infer(patient.address("inference"), "late", &inputs).unwrap();
    assert_same(&got, &staged.whole(&inputs), "the patient one");
}

#[test]
fn what_was_prepared_and_not_committed_is_dropped_by_the_next_life() {
    let versions = Versions::cut("uncommitted", &[(&[1, 2], &["t1"])]);
    let staged = &versions.0[0];
    let state = folder("uncommitted-dispatcher");
    let flags = ["--state-dir", state.to_str().unwrap()];
    let mut chain = Chain::start_with("uncommitted", staged, &[], &flags);
    // As a dispatcher would have left it that died between the phases.
    let (generation, incarnation) = chain.tag();
    for (index, node) in chain.nodes.iter().enumerate() {
        let next = if index == 0 { json!([{"relay": chain.nodes[1].relay(), "stage": 1}]) } else { json!([]) };
        let digest = staged.pipeline.stages[index].digest.to_string();
        let body = json!({
            "dispatcher": {"name": "late", "incarnation": incarnation},
            "lease_ms": 15_000,
            "stages": [{"index": index, "artifact": digest, "next": next, "codec": "raw"}],
        });
        assert!(node.prepare(staged.name(), generation + 1, &body).status.is_success());
    }
    chain.dispatcher.kill();
    let chain = Chain::over(std::mem::take(&mut chain.nodes), staged, &flags);
    poll("only the next life's", || (settled(&chain.nodes) == generation + 2).then_some(()));
    assert!(chain.infer(&staged.inputs(1, 2)).is_ok());
}

#[test]
fn the_next_life_does_not_wait_for_what_the_last_one_left_in_the_chain() {
    let staged = stage("unfinished", &long(40), 1, &[]);
    let state = folder("unfinished-dispatcher");
    let flags = ["--state-dir", state.to_str().unwrap()];
    let mut chain = Chain::start_with("unfinished", &staged, &[], &flags);
    let door = chain.door.clone();
    let large = staged.inputs(1, 2000);
    let client = thread::spawn(move || door.try_infer(&large, &json!({})));
    poll("the request in the stage", || {
        let counters = &chain.nodes[0].stages()[0]["counters"];
        (counters["frames_received"] == 1 && counters["frames_sent"] == 0).then_some(())
    });
    chain.dispatcher.kill();
    assert!(!matches!(client.join().unwrap(), Some(Ok(_))), "answered before the kill");
    let chain = Chain::over(std::mem::take(&mut chain.nodes), &staged, &flags);
    // Its answer is still there, or being computed, for a collector that does not come.
    assert_eq!(chain.nodes[0].stages().len(), 2);
    assert!(chain.infer(&staged.inputs(2, 2)).is_ok());
    settled(&chain.nodes);
}
