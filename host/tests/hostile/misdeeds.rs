//! Guests written in Rust that misbehave, on a node that runs a good chain meanwhile.

use crate::support::chain::Chain;
use crate::support::guests;
use crate::support::hand;
use crate::support::hostile::Parts;
use crate::support::networks::{assert_same, ladder, random_inputs, stage};
use crate::support::trial::OnTrial;
use crate::support::watch::Watch;
use defer_host::relay::frame::{FailureKind, Kind};
use reqwest::StatusCode;

/// What a node may grow by while its guests make tensors.
const GROWTH: u64 = 64 << 20;

fn guest(name: &str) -> Parts {
    Parts { guest: guests::hostile(name), ..Parts::good(name) }
}

#[test]
fn a_guest_that_misbehaves_fails_its_request_and_nobody_elses() {
    let good = stage("beside-misdeeds", &ladder(2), 1, &[]);
    let chain = Chain::start("beside-misdeeds", &good);
    let node = &chain.nodes[0];
    let watch = Watch::over(&chain, &good);
    let inputs = random_inputs(&Parts::good("x").manifest.inputs, 1, 2);
    let plain = stage("misdeeds", &ladder(1), 1, &[]);
    let want = plain.whole(&inputs);
    let peak = || node.get("/v1/node").json()["memory"]["peak_bytes"].as_u64().unwrap();
    let before = peak();
    for (name, because) in [
        ("traps", "the component trapped: wasm trap: wasm `unreachable`"),
        ("loops", "ms itself, 1000 ms are allowed"),
        ("recurses", "the component trapped"),
        ("allocates", "the component trapped"),
        ("makes_tensors", "the component trapped"),
        ("makes_tensors_in_passing", "ms itself, 1000 ms are allowed"),
        ("computes", "computed"),
        ("loads_a_graph", "load a graph of its own"),
        ("returns_less", "the component returned no tensor \"y\""),
        ("returns_more", "a tensor \"more\", which is none of its outputs"),
        ("returns_one_name_twice", "the component returned tensor \"y\" twice"),
        ("returns_another_dtype", "the component returned \"y\": a tensor of wasi-nn type"),
        ("returns_another_shape", "the component returned FP32[3] instead of"),
        ("returns_too_little_data", "the component returned \"y\": 4 bytes for a tensor"),
        ("returns_one_handle_twice", "the component trapped: unknown handle index"),
        ("drops", "the component trapped"),
        ("feeds_twice", "the component trapped: unknown handle index"),
        ("answers_at_length", "the component trapped"),
    ] {
        let mut stage = OnTrial::start(node, name, &guest(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let first = stage.ask(&inputs);
        assert_eq!(first.kind, Kind::Data, "{name}: {}", String::from_utf8_lossy(&first.head));
        let failure = stage.ask(&inputs).failure();
        let cause = failure.cause.join(": ");
        assert!(cause.contains(because), "{name}: {cause}");
        assert_eq!((failure.kind, failure.stage, failure.node.as_str()), (FailureKind::Stage, 0, "n0"), "{name}");
        watch.goes_on(name);
        // The stage has a new instance, or goes on with the one that merely failed.
        let third = stage.ask(&inputs);
        assert_eq!(third.kind, Kind::Data, "{name}: {}", String::from_utf8_lossy(&third.head));
        let (_, tensor) = third.tensors().remove(0);
        assert_same(&[("y".to_owned(), tensor)], &want, name);
        assert_eq!(node.remove(name, hand::GENERATION).status, StatusCode::NO_CONTENT);
    }
    let grown = peak() - before;
    assert!(grown < GROWTH, "the node grew by {} MiB", grown >> 20);
    watch.end(&chain);
}

#[test]
fn a_guest_that_misbehaves_at_once_is_not_taken() {
    let good = stage("beside-refusals", &ladder(2), 1, &[]);
    let chain = Chain::start("beside-refusals", &good);
    let watch = Watch::over(&chain, &good);
    for (name, because) in [
        ("loops_at_once", "the component did not start: it computed for"),
        ("imports_files", "the component imports wasi:filesystem/"),
        ("imports_sockets", "the component imports wasi:sockets/"),
    ] {
        let error =
            OnTrial::start(&chain.nodes[0], name, &guest(name)).err().unwrap_or_else(|| panic!("{name} was taken"));
        assert!(error.contains(because), "{name}: {error}");
        watch.goes_on(name);
        assert_eq!(chain.nodes[0].stages().len(), 1, "{name} left nothing");
    }
    watch.end(&chain);
}
