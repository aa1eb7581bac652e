//! A node's state directory: what is kept, what is made room for, what is found damaged.

use crate::support::chain::{Chain, Node};
use crate::support::cluster::Process;
use crate::support::hand::assignment;
use crate::support::hostile::{Parts, digest};
use crate::support::networks::{assert_same, ladder, stage};
use crate::support::{BINARY, PATIENCE, folder, poll, run, stderr};
use defer_partition::testing::Random;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

fn artifact_file(node: &Node, digest: &str) -> PathBuf {
    node.state_dir.join("artifacts").join(format!("{digest}.wasm"))
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len / 8).flat_map(|_| random.bits().to_le_bytes()).collect()
}

#[test]
fn a_state_directory_belongs_to_one_process() {
    let folder = folder("lock");
    let mut node = Node::start(&folder, "n0", &[]);
    let state = node.state_dir.to_str().unwrap().to_owned();
    let args = ["serve", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0", "--state-dir", &state];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains(&format!("the state directory {state} is in use by another process")), "{said}");
    assert_eq!(node.get("/healthz").status.as_u16(), 200, "the first one notices nothing");
    // Even a process that was killed gives it back.
    node.process.kill();
    node.start_again();
    assert_eq!(node.get("/healthz").status.as_u16(), 200);
}

#[test]
fn an_artifact_is_sent_once() {
    let staged = stage("once", &ladder(4), 2, &[]);
    let mut chain = Chain::start("once", &staged);
    let modified = |nodes: &[Node]| -> Vec<_> {
        let files = nodes.iter().zip(&staged.pipeline.stages);
        files
            .map(|(node, s)| fs::metadata(artifact_file(node, &s.digest.to_string())).unwrap().modified().unwrap())
            .collect()
    };
    let before = modified(&chain.nodes);
    assert!(chain.dispatcher.terminate().is_some_and(|status| status.success()));
    let chain = Chain::over(std::mem::take(&mut chain.nodes), &staged, &[]);
    assert_eq!(modified(&chain.nodes), before, "the second dispatcher sent nothing again");
    assert!(chain.infer(&staged.inputs(1, 2)).is_ok());
}

#[test]
fn room_is_made_by_what_nobody_uses() {
    let node = Node::start(&folder("room"), "n0", &["--store-limit", "1"]);
    let good = Parts::good("room").artifact();
    let used = digest(&good);
    assert!(node.upload(&used, good).status.is_success());
    assert!(node.prepare("room", 1, &assignment(0, &used, &json!([]))).status.is_success());
    // Larger than the limit together, and each of them later than the one in use.
    let unused: Vec<String> = (0..4)
        .map(|seed| {
            let bytes = noise(seed, 600 << 10);
            let digest = digest(&bytes);
            assert!(node.upload(&digest, bytes).status.is_success());
            digest
        })
        .collect();
    assert!(node.prepare("room", 2, &assignment(0, &used, &json!([]))).status.is_success());
    assert!(node.has_artifact(&used), "what runs is kept, old as it is");
    let kept: Vec<bool> = unused.iter().map(|digest| node.has_artifact(digest)).collect();
    assert_eq!(kept, [false, false, false, true], "the oldest go first");
    let size: u64 =
        fs::read_dir(node.state_dir.join("artifacts")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 1 << 20, "{size} bytes are left");
    assert_eq!(node.stages().len(), 2);
}

#[test]
fn what_was_asked_for_last_is_kept_longest() {
    let node = Node::start(&folder("last-use"), "n0", &["--store-limit", "1"]);
    // Two of them fit beside the one in use.
    let keep = |seed| {
        let bytes = noise(seed, 400 << 10);
        let digest = digest(&bytes);
        assert!(node.upload(&digest, bytes).status.is_success());
        digest
    };
    let mut digests = vec![keep(0), keep(1)];
    assert!(node.has_artifact(&digests[0]), "the oldest is asked for");
    digests.push(keep(2));
    let good = Parts::good("last-use").artifact();
    let used = digest(&good);
    assert!(node.upload(&used, good).status.is_success());
    assert!(node.prepare("last-use", 1, &assignment(0, &used, &json!([]))).status.is_success());
    let kept = digests.iter().map(|digest| node.has_artifact(digest));
    assert_eq!(kept.collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn without_a_directory_port_0_finds_the_same_one_at_each_start() {
    let base = folder("default-state");
    let args = ["serve", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0"];
    let start = || Process::spawn(Path::new(BINARY), &args, &[("XDG_STATE_HOME", base.to_str().unwrap())]).unwrap();
    for _ in 0..2 {
        let mut node = start();
        node.wait_listening(&["rest"], PATIENCE).unwrap();
        let mut second = start();
        assert_eq!(second.wait_exit(PATIENCE).and_then(|status| status.code()), Some(1));
        let said = second.stderr_tail();
        assert!(said.contains("in use by another process; give each its own --state-dir"), "{said}");
        assert!(node.terminate().is_some_and(|status| status.success()));
    }
    assert_eq!(fs::read_dir(base.join("defer-host")).unwrap().count(), 1);
}

#[test]
fn half_an_upload_is_swept_away() {
    let folder = folder("part");
    let mut node = Node::start(&folder, "n0", &[]);
    let good = Parts::good("part").artifact();
    let used = digest(&good);
    assert!(node.upload(&used, good).status.is_success());
    assert!(node.process.terminate().is_some_and(|status| status.success()));
    let part = node.state_dir.join("artifacts").join(format!("{used}.7.part"));
    fs::write(&part, noise(1, 1000)).unwrap();
    node.start_again();
    assert!(!part.exists());
    assert!(node.has_artifact(&used), "whole ones stay");
    // A client that goes away in the middle of its upload leaves none either.
    let address = node.url().trim_start_matches("http://").to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let name = "a".repeat(64);
    let head = format!("PUT /v1/artifacts/{name} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 100000\r\n\r\n");
    std::io::Write::write_all(&mut stream, &[head.as_bytes(), &noise(2, 5000)].concat()).unwrap();
    let parts = || {
        let files = fs::read_dir(node.state_dir.join("artifacts")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "part")).count()
    };
    poll("the upload's beginning", || (parts() == 1).then_some(()));
    drop(stream);
    poll("its end", || (parts() == 0).then_some(()));
    assert!(!node.has_artifact(&name));
}

#[test]
fn a_damaged_artifact_is_found_and_sent_again() {
    let staged = stage("rotten", &ladder(4), 2, &[]);
    let mut chain = Chain::start("rotten", &staged);
    let inputs = staged.inputs(1, 2);
    let want = staged.whole(&inputs);
    let digest = staged.pipeline.stages[1].digest.to_string();
    let node = &mut chain.nodes[1];
    node.process.kill();
    let file = artifact_file(node, &digest);
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 0x10;
    fs::write(&file, &bytes).unwrap();
    node.start_again();
    assert_eq!(node.stages().len(), 0, "a stage from a damaged file does not come back");
    assert!(node.process.stderr_tail().contains("damaged"), "{}", node.process.stderr_tail());
    // The dispatcher notices when it renews its lease.
    let got = chain.infer_in_time(&inputs);
    assert_same(&got, &want, "after damage");
    poll("the stage's return", || (chain.nodes[1].stages().len() == 1).then_some(()));
    assert_eq!(fs::read(artifact_file(&chain.nodes[1], &digest)).unwrap(), staged.artifact(1));
}

#[test]
fn a_node_that_lost_everything_is_given_its_stage_again() {
    let staged = stage("amnesia", &ladder(4), 3, &[]);
    let mut chain = Chain::start("amnesia", &staged);
    let inputs = staged.inputs(1, 2);
    chain.nodes[1].process.kill();
    fs::remove_dir_all(&chain.nodes[1].state_dir).unwrap();
    chain.nodes[1].start_again();
    let got = poll("an answer", || match chain.door.try_infer(&inputs, &json!({"timeout": 60_000_000})) {
        Some(Ok(got)) => Some(got),
        Some(Err(refusal)) => {
            assert!(matches!(refusal.status, 503 | 504), "{refusal:?}");
            None
        }
        None => panic!("the dispatcher hung up"),
    });
    assert_same(&got, &staged.whole(&inputs), "after amnesia");
}

#[test]
fn a_note_that_cannot_be_read_does_not_stop_a_node() {
    let folder = folder("notes");
    let mut node = Node::start(&folder, "n0", &[]);
    assert!(node.process.terminate().is_some_and(|status| status.success()));
    let notes: &Path = &node.state_dir.join("generations");
    fs::write(notes.join("0000000000000000-1.json"), b"{ half a note").unwrap();
    node.start_again();
    assert_eq!(node.stages().len(), 0);
    assert!(node.process.stderr_tail().contains("cannot restore a generation"), "{}", node.process.stderr_tail());
}
