//! More connections than a port has places: whoever has something to ask is served all the same.

use crate::support::chain::{Chain, Node};
use crate::support::hand::{self, assignment};
use crate::support::hostile::{Parts, digest};
use crate::support::networks::{ladder, stage};
use crate::support::raw::{Hello, Raw};
use crate::support::watch::Watch;
use crate::support::wire::Wire;
use crate::support::{folder, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::net::TcpStream;
use std::time::Duration;

const CROWD: usize = 10_000;
/// What this process has open besides: pipes and sockets of tests that run beside this one.
const OTHERS: usize = 2_000;
/// Places of a port, where nothing else is said.
const PLACES: usize = 1024;

/// As many connections as this process may open, up to [`CROWD`].
fn crowd() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let most = maximum.map_or(CROWD, |most| usize::try_from(most).unwrap().saturating_sub(OTHERS).min(CROWD));
    if most < CROWD {
        eprintln!("ONLY {most} OF {CROWD} CONNECTIONS: this process may open no more files (ulimit -Hn)");
    }
    most
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    let staged = stage("crowd", &ladder(4), 2, &[]);
    let chain = Chain::start("crowd", &staged);
    let watch = Watch::over(&chain, &staged);
    let crowd = crowd();
    let relay = format!("http://{}", chain.nodes[0].relay());
    for (port, pid) in [
        (chain.nodes[0].url(), chain.nodes[0].process.pid()),
        (&relay, chain.nodes[0].process.pid()),
        (chain.url(), chain.dispatcher.pid()),
    ] {
        let address = port.trim_start_matches("http://");
        let idle: Vec<TcpStream> = (0..crowd)
            .map(|number| TcpStream::connect(address).unwrap_or_else(|error| panic!("{number} at {port}: {error}")))
            .collect();
        // A new client, and one that was there before.
        if port != relay {
            let mut wire = Wire::open(port);
            wire.head("GET", if port == chain.url() { "/v2/health/live" } else { "/healthz" }, "");
            assert_eq!(wire.answer().expect("an answer").status, 200, "{port}");
        } else {
            let hello = Hello::new("feed", staged.name(), chain.tag(), 0);
            let (_, credit) = Raw::open(chain.nodes[0].relay(), &hello);
            assert!(credit > 0);
        }
        watch.goes_on(&format!("{crowd} connections at {port}"));
        let files = open_files(pid);
        assert!(files < PLACES + 300, "{files} files are open in the process behind {port}");
        drop(idle);
        watch.goes_on(&format!("their end at {port}"));
    }
    watch.end(&chain);
}

#[test]
fn where_all_are_served_a_further_one_is_told() {
    let staged = stage("full-house", &ladder(2), 1, &[]);
    let chain = Chain::start_with("full-house", &staged, &["--max-connections", "4"], &["--max-connections", "3"]);
    let watch = Watch::over(&chain, &staged);
    // A node of its own: a dispatcher asks its nodes for their pulse all the time, and would compete for places.
    let lone = Node::start(&folder("full-house-lone"), "lone", &["--max-connections", "4"]);
    // Connections that were served a moment ago are kept longer than ones that never asked: let them get old.
    std::thread::sleep(Duration::from_millis(1500));
    // Uploads that are under way keep their places, and so do the peers of stages.
    let uploads: Vec<Wire> = (0..4)
        .map(|number| {
            let mut wire = Wire::open(lone.url());
            wire.head("PUT", &format!("/v1/artifacts/{number:064}"), "Content-Length: 10\r\n");
            wire.send("12345");
            wire
        })
        .collect();
    let parts = || {
        let files = std::fs::read_dir(lone.state_dir.join("artifacts")).unwrap().flatten();
        files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "part")).count()
    };
    poll("four uploads", || (parts() == 4).then_some(()));
    let mut late = Wire::open(lone.url());
    late.head("GET", "/healthz", "");
    let answer = late.answer().expect("a refusal");
    assert_eq!(answer.status, 503);
    assert!(answer.error.contains("all 4 connections of this port are in use (--max-connections)"), "{answer:?}");
    watch.goes_on("a full REST port");
    drop(uploads);
    poll("places", || {
        let mut wire = Wire::open(lone.url());
        wire.head("GET", "/healthz", "");
        wire.answer().filter(|answer| answer.status == 200)
    });

    let node = &chain.nodes[0];
    // The dispatcher has one place at the relay; it also collects, over a connection that the stage has taken over.
    let artifact = Parts::good("guests-of-honour").artifact();
    let digest = digest(&artifact);
    assert!(node.upload(&digest, artifact).status.is_success());
    let reply = node.prepare("guests-of-honour", hand::GENERATION, &assignment(0, &digest, &json!([])));
    assert!(reply.status.is_success(), "{}", reply.error());
    let hello = Hello::new("feed", "guests-of-honour", (hand::GENERATION, hand::INCARNATION), 0);
    let introduced: Vec<Raw> = (0..3).map(|_| Raw::open(node.relay(), &hello).0).collect();
    let mut late = Raw::connect(node.relay());
    let cause = late.until_closed();
    assert!(cause.contains("all 4 connections of this port are in use (--max-connections)"), "{cause}");
    watch.goes_on("a full relay port");
    drop(introduced);
    poll("a place at the relay", || {
        let mut raw = Raw::connect(node.relay());
        raw.handshake(&hello).filter(|word| word.kind == defer_host::relay::frame::Kind::Credit)
    });

    // At the inference port: bodies that are under way.
    let bodies: Vec<Wire> = (0..2)
        .map(|_| {
            let mut wire = Wire::open(chain.url());
            wire.head("POST", "/v2/models/full-house/infer", "Content-Length: 10\r\n");
            wire.send("{");
            wire
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    // The watch has the third place, and keeps it while it asks again and again.
    watch.goes_on("a full inference port");
    drop(bodies);
    watch.end(&chain);
}
