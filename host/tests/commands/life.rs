//! Processes that end, are killed and come back.

use crate::support::chain::{Chain, Node, spawn_dispatcher};
use crate::support::cluster::Process;
use crate::support::hand::ByHand;
use crate::support::networks::{Staged, assert_same, ladder, slow, stage};
use crate::support::{BINARY, PATIENCE, folder, http, poll, run, signal, stderr};
use defer_host::engine::Named;
use rustix::process::Signal;
use serde_json::json;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let state = folder("port-in-use");
    let state = state.to_str().unwrap();
    let staged = stage("port-in-use", &ladder(2), 1, &[]);
    let pipeline = staged.folder.to_str().unwrap();
    for args in [
        &["serve", "--state-dir", state, "--listen", &address, "--relay", "127.0.0.1:0"][..],
        &["serve", "--state-dir", state, "--listen", "127.0.0.1:0", "--relay", &address],
        &["dispatch", "--pipeline", pipeline, "--node", "http://127.0.0.1:1", "--listen", &address],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = stderr(&output);
        assert!(said.contains(&format!("cannot listen on {address}")) && said.contains("another port"), "{said}");
    }
}

#[test]
fn a_dispatcher_without_its_nodes_says_which() {
    let staged = stage("absent-nodes", &ladder(4), 2, &[]);
    let folder = folder("absent-nodes");
    let node = Node::start(&folder, "n0", &[]);
    let mut gone = Node::start(&folder, "n1", &[]);
    gone.process.kill();
    let mut dispatcher = spawn_dispatcher(&staged, &[&node, &gone], &[]);
    assert_eq!(dispatcher.wait_exit(PATIENCE).and_then(|status| status.code()), Some(1));
    let said = dispatcher.stderr_tail();
    assert!(said.contains("cannot reach the node at") && said.contains(gone.url()), "{said}");
    assert_eq!(node.stages().len(), 0);

    // A stage that is not in the folder any more, and one that is not what pipeline.json says.
    gone.start_again();
    let file = staged.folder.join(&staged.pipeline.stages[1].file);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for because in ["the upload's SHA-256 is", "was the pipeline moved?"] {
        let mut dispatcher = spawn_dispatcher(&staged, &[&node, &gone], &[]);
        assert_eq!(dispatcher.wait_exit(PATIENCE).and_then(|status| status.code()), Some(1));
        let said = dispatcher.stderr_tail();
        assert!(said.contains("stage 1 on node \"n1\"") && said.contains(because), "{said}");
        assert_eq!(node.stages().len(), 0, "what was prepared beside it is dropped again");
        let _ = std::fs::remove_file(&file);
    }

    // Too few of them, and one twice.
    let mut dispatcher = spawn_dispatcher(&staged, &[&node], &[]);
    assert_eq!(dispatcher.wait_exit(PATIENCE).and_then(|status| status.code()), Some(2));
    assert!(dispatcher.stderr_tail().contains("has 2 stages, 1 --node were given"), "{}", dispatcher.stderr_tail());
    let mut dispatcher = spawn_dispatcher(&staged, &[&node, &node], &[]);
    assert_eq!(dispatcher.wait_exit(PATIENCE).and_then(|status| status.code()), Some(1));
    assert!(dispatcher.stderr_tail().contains("is given twice"), "{}", dispatcher.stderr_tail());
}

#[test]
fn told_to_stop_a_process_ends_well_and_leaves_nothing() {
    let staged = stage("stopped", &slow(8), 2, &[]);
    let mut chain = Chain::start("stopped", &staged);
    let inputs = staged.inputs(1, 0);
    let want = staged.whole(&inputs);
    // Answers that are pending when it is told to stop are given.
    let door = chain.door.clone();
    let accepted = || chain.admin()["counters"]["accepted"].as_u64().unwrap();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(|| door.infer(&inputs))).collect();
        poll("twelve accepted requests", || (accepted() == 12).then_some(()));
        signal(chain.dispatcher.pid(), Signal::TERM);
        // Others are told to come again, while the port is there.
        let refusal = poll("a refusal", || door.try_infer(&inputs, &json!({})).expect("somebody listens").err());
        assert!(refusal.status == 503 && refusal.error.contains("shutting down"), "{refusal:?}");
        assert_eq!(refusal.retry_after, Some(1));
        for client in clients {
            assert_same(&client.join().unwrap().expect("an accepted request is answered"), &want, "while stopping");
        }
    });
    assert_eq!(chain.dispatcher.wait_exit(PATIENCE).and_then(|status| status.code()), Some(0));
    for node in &mut chain.nodes {
        assert_eq!(node.stages().len(), 0, "the dispatcher freed {}", node.name);
        assert!(
            node.has_artifact(&staged.pipeline.stages[node.name[1..].parse::<usize>().unwrap()].digest.to_string())
        );
        assert_eq!(node.process.terminate().and_then(|status| status.code()), Some(0));
    }
}

/// A node with a frame in it that cannot leave: nobody takes it from the first stage.
fn stuck(name: &str, drain_timeout: &str) -> ByHand {
    let staged = stage(name, &ladder(4), 2, &[]);
    let mut chain = ByHand::start(name, &staged, &["--drain-timeout", drain_timeout]);
    let (_, frame) = chain.frame(&staged.inputs(1, 2));
    chain.nodes[1].process.kill();
    chain.feed.send(&frame);
    poll("the frame in the first stage", || {
        (chain.nodes[0].stages()[0]["counters"]["compute"]["count"].as_u64() >= Some(1)).then_some(())
    });
    chain
}

#[test]
fn a_drain_waits_no_longer_than_it_may() {
    let mut chain = stuck("stuck", "1");
    let node = &mut chain.nodes[0].process;
    assert_eq!(node.terminate().and_then(|status| status.code()), Some(0));
    assert!(node.stderr_tail().contains("in_flight=1"), "{}", node.stderr_tail());
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut chain = stuck("impatient", "600");
    let node = &mut chain.nodes[0];
    node.process.ask_to_stop();
    // Two signals that are both pending would be one.
    poll("the drain", || (node.get("/readyz").status.as_u16() == 503).then_some(()));
    assert!(node.process.wait_exit(Duration::from_millis(500)).is_none(), "the first signal lets it finish");
    node.process.ask_to_stop();
    let status = node.process.wait_exit(PATIENCE).expect("long before its drain is over");
    assert_eq!(status.code(), Some(1), "what was in it is lost");
}

/// Kills node `victim` with SIGKILL while requests are under way, and starts it again: every request that was accepted
/// gets its answer, every other one is told to come again, and the chain goes on without a new dispatcher.
fn survives(victim: usize) {
    let name = format!("killed-{victim}");
    let staged: Staged = stage(&name, &slow(6), 3, &[]);
    let mut chain = Chain::start(&name, &staged);
    let requests: Vec<Vec<Named>> = (0..6).map(|seed| staged.inputs(seed, 0)).collect();
    let wanted = staged.whole_all(&requests.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let (generation, incarnation) = chain.tag();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let door = chain.door.clone();
    thread::scope(|scope| {
        for (request, want) in requests.iter().zip(&wanted) {
            let (door, stop, answered) = (&door, &stop, &answered);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match door.try_infer(request, &json!({"timeout": 80_000_000})) {
                        Some(Ok(got)) => {
                            assert_same(&got, want, "around a crash");
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(Err(refusal)) => {
                            // Anything else would be an accepted request that was lost.
                            assert_eq!(refusal.status, 503, "{refusal:?}");
                            thread::sleep(Duration::from_millis(50));
                        }
                        None => panic!("the dispatcher hung up"),
                    }
                }
            });
        }
        // A panic in here must end the clients too.
        let stop_at_end = StopAtEnd(&stop);
        let until = |count: usize| poll("answers", || (answered.load(Ordering::Relaxed) >= count).then_some(()));
        until(6);
        for _ in 0..2 {
            chain.nodes[victim].process.kill();
            chain.nodes[victim].start_again();
            until(answered.load(Ordering::Relaxed) + 12);
        }
        drop(stop_at_end);
    });
    assert_eq!(chain.tag(), (generation, incarnation), "no new dispatcher, no new generation");
    assert_eq!(chain.nodes[victim].stages()[0]["state"], "active");
    assert_same(&chain.infer_in_time(&requests[0]), &wanted[0], "after two crashes");
}

#[test]
fn a_node_told_to_stop_under_load_ends_long_before_its_patience_and_loses_nothing() {
    let staged = stage("drained", &slow(6), 2, &[]);
    let mut chain = Chain::start_with("drained", &staged, &["--drain-timeout", "60"], &[]);
    let inputs = staged.inputs(1, 0);
    let want = staged.whole(&inputs);
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let door = chain.door.clone();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match door.try_infer(&inputs, &json!({"timeout": 80_000_000})) {
                        Some(Ok(got)) => {
                            assert_same(&got, &want, "around a drain");
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(Err(refusal)) => {
                            assert_eq!(refusal.status, 503, "{refusal:?}");
                            thread::sleep(Duration::from_millis(50));
                        }
                        None => panic!("the dispatcher hung up"),
                    }
                }
            });
        }
        let stop_at_end = StopAtEnd(&stop);
        let until = |count: usize| poll("answers", || (answered.load(Ordering::Relaxed) >= count).then_some(()));
        until(6);
        for victim in [0, 1] {
            let node = &mut chain.nodes[victim];
            node.process.ask_to_stop();
            let status = node.process.wait_exit(Duration::from_secs(20)).expect("a third of its patience at most");
            assert_eq!(status.code(), Some(0));
            node.start_again();
            until(answered.load(Ordering::Relaxed) + 12);
        }
        drop(stop_at_end);
    });
    let counters = chain.admin()["counters"].clone();
    assert_eq!(counters["failed"], 0, "{counters}");
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_first_node_killed_comes_back_with_its_stage() {
    survives(0);
}

#[test]
fn a_middle_node_killed_comes_back_with_its_stage() {
    survives(1);
}

#[test]
fn the_last_node_killed_comes_back_with_its_stage() {
    survives(2);
}

#[test]
fn a_dispatcher_killed_and_started_again_takes_its_nodes_back() {
    let staged = stage("orphans", &ladder(4), 2, &[]);
    let mut chain = Chain::start("orphans", &staged);
    let inputs = staged.inputs(1, 2);
    let want = staged.whole(&inputs);
    assert_same(&chain.infer(&inputs).unwrap(), &want, "before");
    chain.dispatcher.kill();
    for node in &chain.nodes {
        assert_eq!(node.stages().len(), 1, "an active generation outlives its dispatcher");
    }
    // Its lease has to run out first.
    let nodes = std::mem::take(&mut chain.nodes);
    let refs: Vec<&Node> = nodes.iter().collect();
    let mut dispatcher = poll("the lease's end", || {
        let mut dispatcher = spawn_dispatcher(&staged, &refs, &[]);
        match dispatcher.wait_listening(&["inference", "admin"], PATIENCE) {
            Ok(()) => Some(dispatcher),
            Err(error) => {
                assert!(error.to_string().contains("belongs to dispatcher"), "{error}");
                None
            }
        }
    });
    let got = http::infer(dispatcher.address("inference"), staged.name(), &inputs).unwrap();
    assert_same(&got, &want, "after");
    for node in &nodes {
        let generations: Vec<u64> = node.stages().iter().map(|slot| slot["generation"].as_u64().unwrap()).collect();
        // Attempts that failed while the lease ran have used up numbers.
        assert!(
            matches!(generations[..], [number] if number > 1),
            "only the new one is on {}: {generations:?}",
            node.name
        );
    }
    assert!(dispatcher.terminate().is_some_and(|status| status.success()));
}

#[test]
fn a_generation_that_nobody_uses_expires() {
    use crate::support::hand::assignment;
    use crate::support::hostile::{Parts, digest};
    let node = Node::start(&folder("unused"), "n0", &[]);
    let artifact = Parts::good("unused").artifact();
    let digest = digest(&artifact);
    assert!(node.upload(&digest, artifact).status.is_success());
    let mut body = assignment(0, &digest, &json!([]));
    body["lease_ms"] = json!(200);
    let reply = node.prepare("unused", 1, &body);
    assert_eq!(reply.json()["state"], "prepared");
    poll("the end of its lease", || node.stages().is_empty().then_some(()));
}

#[test]
fn no_process_is_left_when_its_parent_lets_go() {
    let state = folder("let-go");
    let args = ["serve", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0", "--state-dir", state.to_str().unwrap()];
    let mut node = Process::spawn(Path::new(BINARY), &args, &[]).unwrap();
    node.wait_listening(&["rest"], PATIENCE).unwrap();
    let pid = node.pid();
    drop(node);
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
}
