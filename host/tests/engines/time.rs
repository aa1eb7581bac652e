//! An engine that takes too long fails its request or its load, and nothing else.

use super::networks::*;
use crate::support::chain::{Chain, Node, spawn_dispatcher};
use crate::support::hand::{ByHand, assignment};
use crate::support::hostile::{Parts, digest};
use crate::support::networks::{assert_same, ladder, stage};
use crate::support::raw::{data, parts};
use crate::support::{PATIENCE, folder, http, poll};
use defer_host::relay::Codec;
use defer_host::relay::frame::{FailureKind, Tag};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

fn abandoned(node: &Node) -> u64 {
    node.get("/v1/node").json()["abandoned_threads"].as_u64().unwrap()
}

#[test]
fn a_loop_without_end_fails_its_request_in_time_and_the_stage_serves_the_next() {
    let staged = stage("loop", &rounds(), 1, &[]);
    let mut hand = ByHand::start("loop", &staged, &["--engine", "onnxruntime", "--engine-timeout", "1"]);
    for (budget, kind, because) in [
        (None, FailureKind::Stage, "longer than 1 s (serve --engine-timeout)"),
        (Some(300), FailureKind::Expired, "its time budget ended while the engine computed"),
    ] {
        let started = Instant::now();
        let (seq, frame) = hand.frame(&rounds_inputs(1 << 62));
        match budget {
            None => hand.feed.send(&frame),
            Some(ms) => {
                let tag = Tag { budget_us: ms * 1000, ..hand.hello().tag(seq) };
                hand.feed.send(&data(&tag, &parts(&rounds_inputs(1 << 62), Codec::Raw)));
            }
        }
        let failure = hand.collect.result().failure();
        let took = started.elapsed();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.cause[0].contains(because), "{failure:?}");
        assert!(took < Duration::from_millis(budget.unwrap_or(1000) + 1500), "{took:?}");
        let inputs = rounds_inputs(3);
        let result = hand.ask(&inputs);
        assert_same(&hand.outputs(&result), &staged.whole(&inputs), "the next request");
    }
    // It stopped when it was told to.
    assert_eq!(abandoned(&hand.nodes[0]), 0);
}

#[test]
fn other_stages_of_a_node_go_on_while_one_does_not_come_back() {
    let (endless, other) = (stage("endless", &rounds(), 1, &[]), stage("beside", &ladder(2), 1, &[]));
    let chain = Chain::start_with("endless", &endless, &["--engine", "onnxruntime", "--engine-timeout", "3"], &[]);
    let mut second = spawn_dispatcher(&other, &[&chain.nodes[0]], &[]);
    second.wait_listening(&["inference"], PATIENCE).unwrap();
    let url = second.address("inference").to_owned();
    let inputs = other.inputs(1, 2);
    let want = other.whole(&inputs);
    thread::scope(|scope| {
        let door = &chain.door;
        let stuck = scope.spawn(|| door.infer(&rounds_inputs(1 << 62)));
        let mut answers = 0;
        while !stuck.is_finished() {
            assert_same(&http::infer(&url, "beside", &inputs).unwrap(), &want, "beside");
            answers += 1;
        }
        let refusal = stuck.join().unwrap().unwrap_err();
        assert!(refusal.error.contains("--engine-timeout"), "{}", refusal.error);
        assert!(answers > 10, "{answers} answers in three seconds");
    });
}

#[test]
fn an_engine_that_does_not_stop_loses_its_thread_and_the_stage_gets_another() {
    for engine in ["onnxruntime", "tract"] {
        let name = format!("stuck-{engine}");
        let staged = stage(&name, &products(), 1, &[]);
        let serve = ["--engine", engine, "--engine-timeout", "0.3", "--max-tensor-mb", "1"];
        let mut hand = ByHand::start(&name, &staged, &serve);
        let started = Instant::now();
        let (stuck, first) = hand.frame(&products_inputs(MANY));
        hand.feed.send(&first);
        let failure = hand.collect.result().failure();
        assert!(failure.cause[0].ends_with("(serve --engine-timeout), and would not stop"), "{failure:?}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert_eq!(abandoned(&hand.nodes[0]), 1, "{engine}");
        // A fresh session answers, while the old one is still busy.
        let inputs = products_inputs(3);
        let result = hand.ask(&inputs);
        assert_same(&hand.outputs(&result), &staged.whole(&inputs), engine);
        let slot = &hand.nodes[0].stages()[0];
        assert_eq!((&slot["state"], &slot["failure"]), (&json!("active"), &json!(null)));
        // The same request again, as a dispatcher sends it that had no answer: not another thread for that.
        let again = Tag { attempt: 1, ..hand.hello().tag(stuck) };
        hand.feed.send(&data(&again, &parts(&products_inputs(MANY), Codec::Raw)));
        let failure = hand.collect.result().failure();
        assert!(failure.cause[0].contains("took too long before"), "{failure:?}");
        poll("the thread's return", || (abandoned(&hand.nodes[0]) == 0).then_some(()));
        let metrics = String::from_utf8(hand.nodes[0].get("/metrics").body.to_vec()).unwrap();
        assert!(metrics.contains("\ndefer_abandoned_threads 0\n"), "{metrics}");
    }
}

#[test]
fn a_clients_impatience_costs_no_thread_and_no_session() {
    for engine in ["onnxruntime", "tract"] {
        let name = format!("impatient-{engine}");
        let staged = stage(&name, &products(), 1, &[]);
        let mut hand = ByHand::start(&name, &staged, &["--engine", engine, "--max-tensor-mb", "1"]);
        // Each is in the engine for longer than its client waits, inside one operator that cannot be stopped.
        for _ in 0..2 * defer_host::engine::abandoned::LIMIT {
            let inputs = products_inputs(MANY / 8);
            let (seq, _) = hand.frame(&inputs);
            let tag = Tag { budget_us: 2000, ..hand.hello().tag(seq) };
            hand.feed.send(&data(&tag, &parts(&inputs, Codec::Raw)));
            let result = hand.collect.result();
            assert_eq!(abandoned(&hand.nodes[0]), 0, "{engine}: {result:?}");
        }
        let inputs = products_inputs(3);
        let result = hand.ask(&inputs);
        assert_same(&hand.outputs(&result), &staged.whole(&inputs), engine);
        assert_eq!(hand.nodes[0].stages()[0]["state"], "active");
    }
}

#[test]
fn no_more_threads_than_the_limit_are_given_up_and_the_stage_says_that_it_failed() {
    let staged = stage("spent", &products(), 1, &[]);
    let mut hand = ByHand::start("spent", &staged, &["--engine", "tract", "--engine-timeout", "0.1"]);
    // More than are given up, each in the engine for longer than all their time limits together.
    let limit = defer_host::engine::abandoned::LIMIT;
    for number in 0..limit {
        let failure = {
            let (_, frame) = hand.frame(&products_inputs(MANY + number));
            hand.feed.send(&frame);
            hand.collect.result().failure()
        };
        assert!(failure.cause[0].contains("would not stop"), "{number}: {failure:?}");
    }
    assert_eq!(abandoned(&hand.nodes[0]), limit as u64);
    let slot = &hand.nodes[0].stages()[0];
    assert_eq!(slot["state"], "failed");
    let ready = hand.nodes[0].get("/readyz");
    assert_eq!(ready.status.as_u16(), 503);
    assert!(ready.error().contains("stage 0 of pipeline \"spent\" does not compute"), "{}", ready.error());
    assert!(slot["failure"].as_str().unwrap().contains("threads are in that state"), "{slot}");
    // At once, and with the cause.
    let started = Instant::now();
    let failure = hand.ask(&products_inputs(3)).failure();
    assert!(failure.cause[0].starts_with("the stage does not compute at present: the engine computed"), "{failure:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
    // Nothing more is loaded, either.
    let good = Parts::good("late").artifact();
    assert!(hand.nodes[0].upload(&digest(&good), good.clone()).status.is_success());
    let refused = hand.nodes[0].prepare("late", 1, &assignment(0, &digest(&good), &json!([])));
    assert!(refused.error().contains("do not return"), "{}", refused.error());
    // Once they are back, the stage computes again by itself.
    poll("the threads' return", || (abandoned(&hand.nodes[0]) == 0).then_some(()));
    let inputs = products_inputs(3);
    let answer = poll("an answer", || {
        let result = hand.ask(&inputs);
        (result.kind == defer_host::relay::frame::Kind::Data).then(|| hand.outputs(&result))
    });
    assert_same(&answer, &staged.whole(&inputs), "after all");
    assert_eq!(hand.nodes[0].stages()[0]["state"], "active");
}

#[test]
fn a_stage_that_its_node_can_no_longer_compute_moves_to_a_spare() {
    let staged = stage("given-up", &products(), 1, &[]);
    let folder = folder("given-up");
    let short = ["--engine", "tract", "--engine-timeout", "0.1"];
    let nodes = vec![Node::start(&folder, "n0", &short), Node::start(&folder, "n1", &["--engine", "tract"])];
    let mut chain = Chain::over(nodes, &staged, &["--replan-after", "1"]);
    for number in 0..defer_host::engine::abandoned::LIMIT {
        let refusal = chain.infer(&products_inputs(MANY + number)).unwrap_err();
        assert!(refusal.error.contains("would not stop"), "{number}: {}", refusal.error);
    }
    poll("its stage on the spare", || (chain.admin()["generations"][0]["stages"][0]["node"] == "n1").then_some(()));
    let inputs = products_inputs(3);
    assert_same(&chain.infer_in_time(&inputs), &staged.whole(&inputs), "the spare");
    let said = chain.dispatcher.stderr_tail();
    assert!(said.contains("does not compute it (the engine computed for longer than 0.1 s"), "{said}");
    // Where the spare is lost, the first node gets it back as soon as it can compute it, and not before.
    chain.nodes[1].process.kill();
    let answer = poll("an answer of the first node", || match chain.door.try_infer(&inputs, &json!({})) {
        Some(Ok(outputs)) => Some(outputs),
        Some(Err(refusal)) => {
            assert_eq!(refusal.status, 503, "{}", refusal.error);
            None
        }
        None => panic!("the dispatcher is gone"),
    });
    assert_same(&answer, &staged.whole(&inputs), "the first node");
}

#[test]
fn a_load_that_takes_too_long_is_given_up_and_others_load() {
    for engine in ["onnxruntime", "tract"] {
        let name = format!("load-{engine}");
        let node = Node::start(&folder(&name), "n0", &["--engine", engine, "--load-timeout", "0.4"]);
        let artifact = heavy("heavy").artifact();
        let of_heavy = digest(&artifact);
        assert!(node.upload(&of_heavy, artifact).status.is_success());
        let started = Instant::now();
        let reply = node.prepare("heavy", 1, &assignment(0, &of_heavy, &json!([])));
        assert_eq!(reply.status.as_u16(), 422);
        assert!(reply.error().contains("too long") || reply.error().contains("longer than"), "{}", reply.error());
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        let good = Parts::good("light").artifact();
        assert!(node.upload(&digest(&good), good.clone()).status.is_success());
        let reply = node.prepare("light", 1, &assignment(0, &digest(&good), &json!([])));
        assert!(reply.status.is_success(), "{}", reply.error());
        poll("the thread's return", || (abandoned(&node) == 0).then_some(()));
    }
}
