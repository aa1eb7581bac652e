//! Stages that run on several nodes.

use crate::lost::{assert_none_failed, is_up, nodes};
use crate::stages::{settled, swap};
use crate::support::chain::{Chain, Node};
use crate::support::networks::assert_same;
use crate::support::{folder, poll, run, signal, stderr};
use crate::traffic::Versions;
use rustix::process::Signal;
use serde_json::Value;

/// Frames that have come to a node.
fn received(node: &Node) -> u64 {
    let count = |slot: Value| slot["counters"]["frames_received"].as_u64().expect("a count");
    node.stages().into_iter().map(count).sum()
}

/// The nodes of each stage in the active generation, in the order of their names.
fn homes(chain: &Chain) -> Vec<Vec<String>> {
    let admin = chain.admin();
    let mut homes = vec![Vec::new(); 3];
    for placed in admin["generations"][0]["stages"].as_array().expect("a list") {
        let stage = usize::try_from(placed["stage"].as_u64().expect("a number")).expect("a small one");
        homes[stage].push(placed["node"].as_str().expect("a name").to_owned());
    }
    homes.iter_mut().for_each(|home| home.sort());
    homes
}

#[test]
fn replicas_share_the_work_and_where_one_is_lost_the_others_go_on_in_the_same_generation() {
    let versions = Versions::of("replicas", &[[1, 2, 3]]);
    let flags = ["--replicas", "stage=0:2", "stage=1:2", "stage=2:2"];
    let mut chain = Chain::over(nodes("replicas", 6, &[]), &versions.0[0], &flags);
    let named = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    assert_eq!(homes(&chain), [named(["n0", "n1"]), named(["n2", "n3"]), named(["n4", "n5"])]);
    let traffic = versions.traffic(&chain.door, 4);
    let all_have_more = |chain: &Chain, what: &str| {
        let before: Vec<u64> = chain.nodes.iter().map(received).collect();
        poll(&format!("frames at every node {what}"), || {
            chain.nodes.iter().zip(&before).all(|(node, before)| received(node) > *before).then_some(())
        });
    };
    all_have_more(&chain, "at first");
    // One of each stage, one after the other; each comes back.
    for (lost, frozen) in [(1, false), (3, true), (4, true), (2, false), (5, false), (0, true)] {
        let name = chain.nodes[lost].name.clone();
        if frozen {
            signal(chain.nodes[lost].process.pid(), Signal::STOP);
        } else {
            chain.nodes[lost].process.kill();
        }
        traffic.goes_on(&format!("the loss of {name}"));
        poll("the dispatcher to see it", || (!is_up(&chain, &name)).then_some(()));
        traffic.goes_on(&format!("{name} is known to be lost"));
        if lost == 2 {
            // Longer than nodes may be without a link to each other.
            std::thread::sleep(std::time::Duration::from_millis(2500));
        }
        if frozen {
            signal(chain.nodes[lost].process.pid(), Signal::CONT);
        } else {
            chain.nodes[lost].start_again();
        }
        poll("its return", || is_up(&chain, &name).then_some(()));
        all_have_more(&chain, &format!("after the return of {name}"));
    }
    assert_eq!(chain.tag().0, 1, "nothing had to be placed anew");
    assert_none_failed(&chain);
    let seen = traffic.end();
    assert_eq!(seen.refused, 0, "{seen:?}");
}

#[test]
fn a_swap_and_a_next_life_keep_all_replicas() {
    let versions = Versions::of("replicas-swapped", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    let state = folder("replicas-dispatcher");
    let flags = ["--replicas", "stage=1:2", "--state-dir", state.to_str().expect("UTF-8")];
    let mut chain = Chain::over(nodes("replicas-swapped", 4, &[]), staged, &flags);
    let before = homes(&chain);
    let traffic = versions.traffic(&chain.door, 4);
    let reply = swap(&chain.nodes[2], staged.name(), 1, versions.0[1].artifact(1));
    assert!(reply.status.is_success(), "{}", reply.error());
    traffic.goes_on("the swap");
    assert_eq!(settled(&chain.nodes), 2);
    let digest = versions.0[1].pipeline.stages[1].digest.to_string();
    for node in &chain.nodes[1..3] {
        assert_eq!(node.stages()[0]["digest"], digest.as_str(), "both have the new one");
    }
    traffic.end();
    chain.dispatcher.kill();
    let nodes = std::mem::take(&mut chain.nodes);
    let chain = Chain::over(nodes, staged, &flags);
    assert_eq!(homes(&chain), before);
    let inputs = staged.inputs(1, 2);
    assert_same(&chain.infer(&inputs).expect("an answer"), &versions.0[1].whole(&inputs), "the next life");
    assert_none_failed(&chain);
}

#[test]
fn a_spare_takes_a_lost_replicas_place_and_a_stage_without_any_takes_one_of_another_stage() {
    let versions = Versions::of("replicas-lost", &[[1, 2, 3]]);
    let mut chain = Chain::over(nodes("replicas-lost", 5, &[]), &versions.0[0], &["--replicas", "stage=1:2"]);
    let traffic = versions.traffic(&chain.door, 3);
    let sorted = |chain: &Chain, stage: usize| {
        let mut names = homes(chain)[stage].clone();
        names.sort();
        names
    };
    assert_eq!(sorted(&chain, 1), ["n1", "n2"]);
    chain.nodes[1].process.kill();
    poll("two nodes again", || (sorted(&chain, 1) == ["n2", "n4"]).then_some(()));
    traffic.goes_on("the spare came in");
    // No spare is left.
    chain.nodes[0].process.kill();
    poll("a node for the first stage", || {
        let mut two = [sorted(&chain, 0), sorted(&chain, 1)].concat();
        two.sort();
        (two == ["n2", "n4"] && sorted(&chain, 2) == ["n3"]).then_some(())
    });
    traffic.goes_on("a stage gave up a replica");
    chain.nodes[1].start_again();
    poll("its old number of nodes", || {
        let names = sorted(&chain, 1);
        (names.len() == 2 && names[0] == "n1").then_some(())
    });
    traffic.goes_on("a node came back");
    assert_none_failed(&chain);
    traffic.end();
}

#[test]
fn replicas_that_cannot_be_are_refused_with_the_reason() {
    let versions = Versions::of("replicas-refused", &[[1, 2, 3]]);
    let pipeline = versions.0[0].folder.to_str().expect("UTF-8");
    let dispatch = |more: &[&str]| {
        let node = "http://127.0.0.1:1";
        let mut args = vec!["dispatch", "--pipeline", pipeline, "--node", node, node, node];
        args.extend(more);
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    for (flags, want) in [
        (&["--replicas", "stage=1:2"][..], "has 3 stages, 3 --node were given; with their replicas they take 4"),
        (&["--replicas", "stage=3:2"], "has stages 0 to 2, no stage 3"),
        (&["--replicas", "stage=1:1", "stage=1:1"], "stage 1 is given twice"),
        (&["--replicas", "1:2"], "give stage=I:N"),
        (&["--replicas", "stage=1:0"], "give stage=I:N"),
        (&["--replicas", "stage=1:65"], "at most 64 nodes"),
    ] {
        let said = dispatch(flags);
        assert!(said.contains(want), "{flags:?}: {said}");
    }
}
