//! Swaps of one stage.

use crate::bad::like;
use crate::support::chain::{Chain, Node};
use crate::support::hand::assignment;
use crate::support::http::{Reply, Request};
use crate::support::networks::ladder_between;
use crate::support::raw::{Hello, Raw, data, parts};
use crate::support::{folder, hand, poll, run, stderr};
use crate::traffic::Versions;
use defer_host::relay::codec::Codec;
use defer_host::relay::frame::{Kind, write_head};
use defer_partition::{Network, slice};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::thread;

pub fn swap(node: &Node, pipeline: &str, index: usize, artifact: Vec<u8>) -> Reply {
    swap_at(node.url(), pipeline, index, artifact)
}

/// The same by the URL of the node's REST port.
pub fn swap_at(url: &str, pipeline: &str, index: usize, artifact: Vec<u8>) -> Reply {
    Request::new(Method::PUT, format!("{url}/v1/stages/{pipeline}/{index}")).body(artifact).send()
}

pub fn roll_back(node: &Node, pipeline: &str, index: usize) -> Reply {
    Request::new(Method::POST, format!("{}/v1/stages/{pipeline}/{index}/rollback", node.url())).send()
}

/// Waits until only one generation is on `nodes`; its number.
pub fn settled(nodes: &[Node]) -> u64 {
    poll("one generation everywhere", || {
        let mut all: Vec<u64> =
            nodes.iter().flat_map(Node::stages).map(|slot| slot["generation"].as_u64().unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        (all.len() == 1).then(|| all[0])
    })
}

#[test]
fn stages_are_swapped_under_traffic_and_no_answer_is_lost_wrong_or_mixed() {
    let versions = Versions::of("swapped", &[[1, 2, 3], [1, 12, 3], [11, 12, 3], [11, 12, 13]]);
    let staged = &versions.0[0];
    let chain = Chain::start("swapped", staged);
    let traffic = versions.traffic(&chain.door, 4);
    let digest = |version: usize, stage: usize| versions.0[version].pipeline.stages[stage].digest.to_string();
    let mut first_seq = 0;
    // A middle stage, the first, the last.
    for (step, stage) in [(1, 1), (2, 0), (3, 2)] {
        let before = traffic.answers()[step];
        assert_eq!(before, 0);
        let reply = swap(&chain.nodes[stage], staged.name(), stage, versions.0[step].artifact(stage));
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
        let said = reply.json();
        assert_eq!(said["generation"], json!(step + 1));
        assert_eq!(said["digest"], digest(step, stage));
        assert_eq!(said["previous_digest"], digest(0, stage));
        assert!(said["loaded_ms"].as_f64().unwrap() > 0.0);
        assert!(said["first_seq"].as_u64().unwrap() > first_seq);
        first_seq = said["first_seq"].as_u64().unwrap();
        // Whoever asks once the swap is answered gets the new one.
        let old = traffic.answers()[step - 1];
        traffic.goes_on("a swap");
        let late = traffic.answers()[step - 1] - old;
        assert!(late <= 4, "{late} answers of the generation before, from 4 requests under way");
    }
    assert_eq!(settled(&chain.nodes), 4);
    for node in &chain.nodes {
        assert_eq!(node.stages().len(), 1);
    }
    let admin = chain.admin();
    let generation = &admin["generations"][0];
    assert_eq!((&generation["generation"], &generation["state"]), (&json!(4), &json!("active")), "{admin}");
    assert!(generation["counters"]["answered"].as_u64().unwrap() > 0, "{admin}");
    assert_eq!(admin["counters"]["failed"], 0, "{admin}");

    // And back: to what ran before in that slot.
    let reply = roll_back(&chain.nodes[2], staged.name(), 2);
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
    assert_eq!(reply.json()["digest"], digest(0, 2));
    traffic.goes_on("a rollback");
    // Twice is there again.
    let reply = roll_back(&chain.nodes[2], staged.name(), 2);
    assert_eq!(reply.json()["digest"], digest(3, 2), "{}", String::from_utf8_lossy(&reply.body));
    let seen = traffic.end();
    assert_eq!(seen.refused, 0, "{seen:?}");
    assert!(seen.answers.iter().all(|answers| *answers > 0), "{seen:?}");
    // Each of the 4 clients saw each change once.
    assert_eq!(seen.turns, 4 * 5, "{seen:?}");
}

#[test]
fn the_command_swaps_and_takes_back_and_says_what_came_of_it() {
    let versions = Versions::of("by-command", &[[1, 2, 3], [1, 2, 4]]);
    let staged = &versions.0[0];
    let chain = Chain::start("by-command", staged);
    let new = versions.0[1].folder.join(&versions.0[1].pipeline.stages[2].file);
    let node = ["--node", chain.nodes[2].url(), "--pipeline", staged.name(), "--stage", "2"];
    let command = |extra: &[&str]| run(&[&["swap"], &node[..], extra].concat());
    let output = command(&[new.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(said.starts_with("stage 2 of by-command: ") && said.contains("in generation 2, from request"), "{said}");
    let output = command(&["--rollback", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["generation"], 3);
    let output = command(&[file!()]);
    assert_eq!(output.status.code(), Some(2), "a file that is not there: {}", stderr(&output));
    let wrong = versions.0[1].folder.join(&versions.0[1].pipeline.stages[0].file);
    let output = command(&[wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("422") && stderr(&output).contains("it is stage 0"), "{}", stderr(&output));
}

#[test]
fn many_swaps_leave_neither_stages_nor_files_nor_threads_behind() {
    let versions = Versions::of("many", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    let chain = Chain::start_with("many", staged, &["--store-limit", "1"], &[]);
    let node = &chain.nodes[1];
    let threads = || std::fs::read_dir(format!("/proc/{}/task", node.process.pid())).unwrap().count();
    let memory = || node.get("/v1/node").json()["memory"]["anonymous_bytes"].as_u64().unwrap();
    let mut early = (0, 0);
    // Twice as many swaps; by hand, with DEFER_TEST_ROUNDS=500, a thousand.
    let rounds = std::env::var("DEFER_TEST_ROUNDS").map_or(16, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        // A weight that nobody has had before, so that the store must let go of something.
        let mut stage = like(staged);
        stage.slice = slice::whole(&Network::new(ladder_between("t1", "t2", 100 + round)).unwrap(), &[]);
        // Words, to be large.
        stage.slice.model.doc_string = Some("x".repeat(300_000));
        let reply = swap(node, staged.name(), 1, stage.artifact());
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
        let reply = roll_back(node, staged.name(), 1);
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
        if round == 2 {
            settled(&chain.nodes);
            early = (threads(), memory());
        }
    }
    assert_eq!(settled(&chain.nodes), 2 * rounds + 1);
    assert_eq!(node.stages().len(), 1, "what was swapped out is gone");
    poll("its threads' end", || (threads() <= early.0 + 2).then_some(()));
    let now = memory();
    println!("anonymous memory after 3 swaps there and back {} MiB, after {rounds} {} MiB", early.1 >> 20, now >> 20);
    assert!(now < early.1 + (16 << 20), "from {} to {now} bytes", early.1);
    let files = std::fs::read_dir(node.state_dir.join("artifacts")).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 1 << 20, "{bytes} bytes of artifacts");
}

#[test]
fn without_a_dispatcher_a_node_swaps_by_itself() {
    let versions = Versions::cut("alone", &[(&[1], &[]), (&[2], &[])]);
    let staged = &versions.0[0];
    let name = staged.name();
    let mut node = Node::start(&folder("alone"), "n0", &[]);
    let digest = staged.pipeline.stages[0].digest.to_string();
    assert!(node.upload(&digest, staged.artifact(0)).status.is_success());
    let mut body = assignment(0, &digest, &json!([]));
    body["lease_ms"] = json!(400);
    assert!(node.prepare(name, 1, &body).status.is_success());
    let ask = |node: &Node, generation: u64| {
        let tag = (generation, hand::INCARNATION);
        let (mut collect, _) = Raw::open(node.relay(), &Hello::new("collect", name, tag, 0));
        let hello = Hello::new("feed", name, tag, 0);
        collect.send(&write_head(Kind::Credit, &hello.tag(0), &1u32.to_le_bytes(), 0));
        let (mut feed, _) = Raw::open(node.relay(), &hello);
        let inputs = staged.inputs(1, 2);
        feed.send(&data(&hello.tag(1), &parts(&inputs, Codec::Raw)));
        collect.result().tensors().remove(0).1.to_f32().unwrap()
    };
    let want = |version: usize| versions.0[version].whole(&staged.inputs(1, 2))[0].1.to_f32().unwrap();
    let close = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-4);
    assert!(close(&ask(&node, 1), &want(0)));
    // While its lease runs somebody is expected to come; nobody does.
    thread::sleep(std::time::Duration::from_millis(500));
    let reply = swap(&node, name, 0, versions.0[1].artifact(0));
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
    let said = reply.json();
    assert_eq!((&said["generation"], &said["first_seq"]), (&json!(2), &json!(0)), "{said}");
    assert!(close(&ask(&node, 2), &want(1)));
    // A restart brings the new one back, and knows the old one.
    node.process.kill();
    node.start_again();
    assert!(close(&ask(&node, 2), &want(1)));
    assert_eq!(roll_back(&node, name, 0).json()["digest"], digest);
    assert!(close(&ask(&node, 3), &want(0)));
    assert_eq!(settled(std::slice::from_ref(&node)), 3);
}
