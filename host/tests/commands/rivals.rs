//! Dispatchers that want the same pipeline on the same nodes, at once or one after the other.

use crate::support::PATIENCE;
use crate::support::chain::{Chain, Node, spawn_dispatcher};
use crate::support::networks::{assert_same, ladder, slow, stage};
use crate::support::{http, poll};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

#[test]
fn a_second_dispatcher_gives_up_and_the_first_notices_nothing() {
    let staged = stage("rivals", &ladder(4), 2, &[]);
    let chain = Chain::start_with("rivals", &staged, &[], &["--name", "first"]);
    let inputs = staged.inputs(1, 2);
    let want = staged.whole(&inputs);
    let tag = chain.tag();
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let door = &chain.door;
        let client = || {
            while !done.load(Ordering::Relaxed) {
                assert_same(&door.infer(&inputs).expect("an answer beside a rival"), &want, "beside a rival");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        let clients = [scope.spawn(client), scope.spawn(client)];
        let mut rival = spawn_dispatcher(&staged, &chain.nodes.iter().collect::<Vec<_>>(), &["--name", "second"]);
        let status = rival.wait_exit(PATIENCE);
        // Answers went on to the very end, and after it.
        let so_far = answered.load(Ordering::Relaxed);
        let more =
            || answered.load(Ordering::Relaxed) > so_far + 1 || clients.iter().any(|client| client.is_finished());
        poll("answers after the rival", || more().then_some(()));
        done.store(true, Ordering::Relaxed);
        let said = rival.stderr_tail();
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{said}");
        assert!(said.contains("belongs to dispatcher \"first\"") && said.contains("waiting for the lease"), "{said}");
    });
    assert!(answered.load(Ordering::Relaxed) > 2);
    assert_eq!(chain.tag(), tag);
    for node in &chain.nodes {
        let slots = node.stages();
        let generations: Vec<_> = slots.iter().map(|slot| (&slot["generation"], &slot["dispatcher"])).collect();
        assert_eq!(generations, [(&tag.0.into(), &"first".into())], "only the first one's stage is on {}", node.name);
    }
    let counters = chain.admin()["counters"].clone();
    assert_eq!((&counters["failed"], &counters["refused"]), (&0.into(), &0.into()), "{counters}");
}

#[test]
fn a_dispatcher_that_was_told_to_stop_can_be_started_again_at_once() {
    let staged = stage("successor", &ladder(4), 2, &[]);
    let inputs = staged.inputs(1, 2);
    let want = staged.whole(&inputs);
    let mut chain = Chain::start("successor", &staged);
    for life in 2..5 {
        assert!(chain.dispatcher.terminate().is_some_and(|status| status.success()));
        // Over the very same artifacts.
        chain = Chain::over(std::mem::take(&mut chain.nodes), &staged, &[]);
        let said = chain.dispatcher.stderr_tail();
        assert!(!said.contains("waiting for the lease"), "life {life}: {said}");
        assert_same(&chain.infer(&inputs).unwrap(), &want, &format!("life {life}"));
    }
}

#[test]
fn a_dispatcher_takes_over_from_one_that_is_still_answering() {
    let staged = stage("relief", &slow(8), 2, &[]);
    let mut chain = Chain::start_with("relief", &staged, &[], &["--drain-timeout", "60"]);
    let inputs = staged.inputs(1, 0);
    let want = staged.whole(&inputs);
    let door = chain.door.clone();
    let mut second = thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| door.infer(&inputs))).collect();
        let accepted = || chain.admin()["counters"]["accepted"].as_u64() == Some(4);
        poll("four accepted requests", || accepted().then_some(()));
        chain.dispatcher.ask_to_stop();
        let second = spawn_dispatcher(&staged, &chain.nodes.iter().collect::<Vec<&Node>>(), &[]);
        for client in clients {
            assert_same(&client.join().unwrap().expect("an accepted request is answered"), &want, "while stopping");
        }
        second
    });
    assert_eq!(chain.dispatcher.wait_exit(PATIENCE).and_then(|status| status.code()), Some(0));
    second.wait_listening(&["inference"], PATIENCE).expect("the second one's turn");
    assert_same(&http::infer(second.address("inference"), staged.name(), &inputs).unwrap(), &want, "the second one");
}
