//! Peers that begin something and do not go on with it, on every port, beside a good chain.

use crate::support::chain::Chain;
use crate::support::hand::{self, assignment};
use crate::support::hostile::{Parts, digest};
use crate::support::http::binary_body;
use crate::support::networks::{Staged, assert_same, ladder, random_inputs, stage};
use crate::support::poll;
use crate::support::raw::{Hello, Raw, data, parts};
use crate::support::watch::Watch;
use crate::support::wire::Wire;
use defer_host::relay::codec::Codec;
use defer_host::relay::frame::{FIXED, Kind, Tag, write_head};
use serde_json::json;
use std::io::Read as _;
use std::thread;
use std::time::{Duration, Instant};

/// What `--stall-timeout 1` allows.
const STALL: Duration = Duration::from_secs(1);
/// Slow enough that 4 KiB would take minutes.
const DRIP: Duration = Duration::from_millis(50);

fn impatient(name: &str, staged: &Staged) -> Chain {
    let flags = ["--stall-timeout", "1"];
    Chain::start_with(name, staged, &flags, &flags)
}

/// How long `act` took.
fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    (act(), started.elapsed())
}

/// Neither at once nor for ever.
fn assert_in_time(took: Duration, what: &str) {
    assert!(took > STALL / 2 && took < STALL * 15, "{what}: cut off after {took:?}");
}

#[test]
fn a_request_that_stands_still_is_cut_off_and_a_slow_one_is_not() {
    let staged = stage("loris", &ladder(4), 2, &[]);
    let chain = impatient("loris", &staged);
    let watch = Watch::over(&chain, &staged);
    let (node, admin, inference) = (chain.nodes[0].url(), chain.dispatcher.address("admin"), chain.url());
    thread::scope(|scope| {
        // Nothing at all; a head that stops; a head that drips. There is nobody to answer: they are hung up on.
        for port in [node, admin, inference] {
            for beginning in ["", "GET /healthz HTTP/1.1\r\nHos"] {
                scope.spawn(move || {
                    let what = format!("\"{beginning}\" at {port}");
                    let mut wire = Wire::open(port);
                    wire.send(beginning);
                    let (answer, took) = timed(|| wire.answer());
                    assert!(answer.is_none(), "{what}: {answer:?}");
                    assert_in_time(took, &what);
                });
            }
            scope.spawn(move || {
                let mut wire = Wire::open(port);
                wire.send("GET /healthz HTTP/1.1\r\nX-Drip: ");
                let (answer, took) = timed(|| {
                    wire.drip(b"x", DRIP, 1000);
                    wire.answer()
                });
                assert!(answer.is_none(), "a dripping head at {port}: {answer:?}");
                assert_in_time(took, port);
            });
        }
        // Bodies that stop, and bodies that drip: the client is told.
        let artifact = format!("/v1/artifacts/{}", "a".repeat(64));
        let generation = "/v1/pipelines/p/generations/1";
        let infer = "/v2/models/loris/infer";
        for (port, method, path) in
            [(node, "PUT", artifact.as_str()), (node, "PUT", generation), (inference, "POST", infer)]
        {
            let path = path.to_owned();
            for dripping in [false, true] {
                let path = path.clone();
                scope.spawn(move || {
                    let what = format!("a body at {path}, dripping: {dripping}");
                    let mut wire = Wire::open(port);
                    wire.head(method, &path, "Content-Type: application/json\r\nContent-Length: 100000\r\n");
                    wire.send("{\"inputs\":");
                    let (answer, took) = timed(|| {
                        if dripping {
                            wire.drip(b" ", DRIP, 1000);
                        }
                        wire.answer().unwrap_or_else(|| panic!("{what}: no answer"))
                    });
                    assert_eq!(answer.status, 408, "{what}: {answer:?}");
                    let told = ["the peer stood still", "nothing more of the body came"];
                    assert!(told.iter().any(|text| answer.error.contains(text)), "{what}: {answer:?}");
                    assert_in_time(took, &what);
                });
            }
        }
        // A slow line: an artifact that takes several times as long as a peer may stand still.
        scope.spawn(move || {
            let artifact = Parts::good("slow-line").artifact();
            let mut wire = Wire::open(node);
            let path = format!("/v1/artifacts/{}", digest(&artifact));
            wire.head("PUT", &path, &format!("Content-Length: {}\r\n", artifact.len()));
            let pieces = artifact.len().div_ceil(8);
            for piece in artifact.chunks(pieces) {
                wire.send(piece);
                thread::sleep(STALL * 2 / 5);
            }
            let answer = wire.answer().expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        });
    });
    poll("the end of what uploads that stood still have left", || {
        let mut left = std::fs::read_dir(chain.nodes[0].state_dir.join("artifacts")).unwrap().flatten();
        let is_part = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "part");
        (!left.any(is_part)).then_some(())
    });
    watch.end(&chain);
}

#[test]
fn an_answer_that_nobody_takes_is_not_kept_for_ever() {
    let staged = stage("untaken", &ladder(1), 1, &[]);
    let chain = impatient("untaken", &staged);
    let watch = Watch::over(&chain, &staged);
    // Larger than what the kernel keeps for both ends.
    let inputs = staged.inputs(1, 120_000);
    let (header, body) = binary_body(&inputs, &json!({}));
    let mut wire = Wire::open(chain.url());
    let lengths = format!("Content-Length: {}\r\nInference-Header-Content-Length: {header}\r\n", body.len());
    wire.head("POST", "/v2/models/untaken/infer", &lengths);
    wire.send(&body);
    let answered = || chain.admin()["counters"]["answered"].as_u64().unwrap();
    let before = answered();
    poll("the answer", || (answered() > before + 3).then_some(()));
    thread::sleep(STALL * 3);
    let mut taken = Vec::new();
    let result = wire.stream.read_to_end(&mut taken);
    assert!(taken.len() < body.len(), "all {} bytes came, {result:?}", taken.len());
    watch.end(&chain);
}

#[test]
fn a_relay_peer_that_stands_still_is_told_and_cut_off() {
    let staged = stage("loris-relay", &ladder(4), 2, &[]);
    let chain = impatient("loris-relay", &staged);
    let watch = Watch::over(&chain, &staged);
    let relay = chain.nodes[0].relay();
    let hello = Hello::new("feed", staged.name(), chain.tag(), 0);
    let said = write_head(Kind::Hello, &Tag::default(), &[b' '; 2000], 0);
    // For a stage of its own, so that frames may go on without harm.
    let own = Parts::good("slow-frames").artifact();
    let digest = digest(&own);
    assert!(chain.nodes[0].upload(&digest, own).status.is_success());
    let reply = chain.nodes[0].prepare("slow-frames", hand::GENERATION, &assignment(0, &digest, &json!([])));
    assert!(reply.status.is_success(), "{}", reply.error());
    let tag = (hand::GENERATION, hand::INCARNATION);
    let inputs = random_inputs(&Parts::good("x").manifest.inputs, 1, 200);
    let frame = data(&hello.tag(1 << 40), &parts(&staged.inputs(1, 200), Codec::Raw));
    thread::scope(|scope| {
        for length in [0, 1, FIXED - 1, FIXED + 1000] {
            let said = &said;
            scope.spawn(move || {
                let mut raw = Raw::connect(relay);
                raw.send(&said[..length]);
                let (cause, took) = timed(|| raw.until_closed());
                assert!(cause.contains("no answer to the hello within 1 s"), "{length} bytes: {cause}");
                assert_in_time(took, &format!("{length} bytes of a hello"));
            });
        }
        scope.spawn(|| {
            let mut raw = Raw::connect(relay);
            let (cause, took) = timed(|| {
                raw.drip(&said, DRIP);
                raw.until_closed()
            });
            assert!(cause.contains("no answer to the hello within 1 s"), "a dripping hello: {cause}");
            assert_in_time(took, "a dripping hello");
        });
        // A frame of a good feeder that stops in its fixed part, its head, its body; and one that drips.
        for (length, dripping) in [(40, false), (FIXED + 10, false), (frame.len() / 2, false), (frame.len() / 2, true)]
        {
            let (frame, hello) = (&frame, &hello);
            scope.spawn(move || {
                let (mut raw, _) = Raw::open(relay, hello);
                // Silent between two frames it may be for as long as it likes.
                thread::sleep(STALL * 2);
                raw.send(&frame[..length]);
                let (cause, took) = timed(|| {
                    if dripping {
                        raw.drip(&frame[length..], DRIP);
                    }
                    raw.until_closed()
                });
                let what = format!("{length} of {} bytes", frame.len());
                assert!(cause.contains("the peer stood still"), "{what}: {cause}");
                assert_in_time(took, &what);
            });
        }
        // A slow line: a frame that takes several times as long as a peer may stand still.
        scope.spawn(|| {
            let (mut collect, _) = Raw::open(relay, &Hello::new("collect", "slow-frames", tag, 0));
            let hello = Hello::new("feed", "slow-frames", tag, 0);
            collect.send(&write_head(Kind::Credit, &hello.tag(0), &1u32.to_le_bytes(), 0));
            let (mut feed, _) = Raw::open(relay, &hello);
            for piece in data(&hello.tag(1), &parts(&inputs, Codec::Raw)).chunks(8 << 10) {
                feed.send(piece);
                thread::sleep(STALL * 2 / 5);
            }
            let (_, tensor) = collect.result().tensors().remove(0);
            let whole = stage("slow-frames", &ladder(1), 1, &[]).whole(&inputs);
            assert_same(&[("y".to_owned(), tensor)], &whole, "over a slow line");
        });
    });
    watch.end(&chain);
}
