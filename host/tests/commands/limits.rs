//! Bounds that a client meets: the queue's and its own time limit.

use crate::support::chain::Chain;
use crate::support::networks::{assert_same, long, slow, stage};
use crate::support::{PATIENCE, poll, run, stderr};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_full_queue_says_come_again() {
    let staged = stage("queue", &slow(12), 2, &[]);
    let chain = Chain::start_with("queue", &staged, &[], &["--queue", "1"]);
    let inputs = staged.inputs(1, 0);
    let want = staged.whole(&inputs);
    let (mut answered, mut refused) = (0, 0);
    let end = Instant::now() + PATIENCE;
    while answered == 0 || refused == 0 {
        assert!(Instant::now() < end, "{answered} answered, {refused} refused");
        let door = &chain.door;
        let results: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| door.infer(&inputs))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        for result in results {
            match result {
                Ok(outputs) => {
                    assert_same(&outputs, &want, "beside refused ones");
                    answered += 1;
                }
                Err(refusal) => {
                    assert_eq!(refusal.status, 503);
                    assert!(refusal.retry_after >= Some(1), "{refusal:?}");
                    assert!(refusal.error.contains("(dispatch --queue)"), "{}", refusal.error);
                    refused += 1;
                }
            }
        }
    }
    let counters = chain.admin()["counters"].clone();
    assert_eq!((&counters["answered"], &counters["refused"]), (&json!(answered), &json!(refused)), "{counters}");
    // The client of the house comes again by itself.
    let npy = crate::support::folder("queue-input").join("x.npy");
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (512, 512), }\n";
    let length = (header.len() as u16).to_le_bytes();
    std::fs::write(&npy, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &inputs[0].1.data].concat()).unwrap();
    let npy = npy.to_str().unwrap();
    let flags = ["--repeat", "4", "--concurrency", "2", "--retries", "50", "--json"];
    let output = run(&[&["infer", "--url", chain.url(), "--model", "queue", "--input", npy], &flags[..]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["succeeded"], &report["failed"]), (&json!(4), &json!(0)));
}

#[test]
fn a_clients_time_limit_is_kept() {
    let staged = stage("limit", &slow(40), 2, &[]);
    let chain = Chain::start_with("limit", &staged, &[], &["--request-timeout", "30"]);
    let inputs = staged.inputs(1, 0);
    // 1 ms is not enough for some gigaflops.
    for _ in 0..3 {
        let refusal = chain.door.try_infer(&inputs, &json!({"timeout": 1000})).unwrap().unwrap_err();
        assert_eq!(refusal.status, 504, "{refusal:?}");
    }
    // Given-up requests leave the chain, and others are answered.
    let got = chain.door.try_infer(&inputs, &json!({"timeout": 25_000_000})).unwrap().unwrap();
    assert_same(&got, &staged.whole(&inputs), "within the limit");
    poll("an empty ledger", || (chain.admin()["counters"]["pending"] == 0).then_some(()));
}

#[test]
fn an_answer_that_outlasts_the_dispatchers_patience_is_given_once() {
    let staged = stage("patience", &long(12), 2, &[]);
    // Rows that keep the chain busy for several times its patience of 1 s, however quick this machine is.
    let (mut rows, want) = (256, Duration::from_secs(4));
    let (inputs, want) = loop {
        let inputs = staged.inputs(1, rows);
        let started = Instant::now();
        let outputs = staged.whole(&inputs);
        let took = started.elapsed();
        if took >= want {
            break (inputs, outputs);
        }
        rows = (rows as f64 * (want.as_secs_f64() / took.as_secs_f64()).clamp(1.2, 8.0)) as usize;
    };
    let chain = Chain::start_with("patience", &staged, &[], &["--replay-after", "1", "--request-timeout", "80"]);
    let got = chain.infer(&inputs).expect("an answer");
    assert_same(&got, &want, "after replays");
    let received = chain.nodes[0].stages()[0]["counters"]["frames_received"].as_u64();
    assert!(received > Some(1), "it was never sent again: {rows} rows, {received:?} frames");
    // What comes of the other attempts answers nobody.
    let small = staged.inputs(2, 3);
    assert_same(&chain.infer(&small).expect("an answer"), &staged.whole(&small), "the next request");
    let counters = chain.admin()["counters"].clone();
    for (counter, want) in [("accepted", 2), ("answered", 2), ("failed", 0), ("pending", 0)] {
        assert_eq!(counters[counter], want, "{counter}: {counters}");
    }
}
