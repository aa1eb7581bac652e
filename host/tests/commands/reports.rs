//! What nodes and dispatchers tell of themselves.

use crate::support::chain::Chain;
use crate::support::http::Request;
use crate::support::networks::{ladder, long, stage};
use crate::support::{poll, signal};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The samples of Prometheus' text format, by name and labels.
fn samples(url: &str) -> BTreeMap<String, f64> {
    let reply = Request::get(format!("{url}/metrics")).send();
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(reply.body).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    };
    lines.map(sample).collect()
}

#[test]
fn figures_count_what_went_through() {
    let staged = stage("counted", &ladder(4), 2, &[]);
    let chain = Chain::start("counted", &staged);
    for seed in 0..5 {
        chain.infer(&staged.inputs(seed, 2)).unwrap();
    }
    for (index, node) in chain.nodes.iter().enumerate() {
        // The last answer may be read before its sender has counted it.
        poll("the last frame counted", || (node.stages()[0]["counters"]["frames_sent"] == 5).then_some(()));
        let slot = node.stages().remove(0);
        let counters = &slot["counters"];
        for (counter, want) in [("frames_received", 5), ("frames_sent", 5), ("requests_failed", 0)] {
            assert_eq!(counters[counter], want, "{counter} of {}", node.name);
        }
        // FP32 [2,64] in and out, five times, nothing compressed.
        assert_eq!((&counters["bytes_in"], &counters["bytes_out"]), (&2560.into(), &2560.into()));
        for series in ["decode", "compute", "sandbox", "encode"] {
            assert_eq!(counters[series]["count"], 5, "{series}");
        }
        assert_eq!((&slot["pipeline"], &slot["index"]), (&"counted".into(), &index.into()));
        assert_eq!((&slot["state"], &slot["engine"]), (&"active".into(), &"onnxruntime".into()));
        assert_eq!(slot["digest"], staged.pipeline.stages[index].digest.to_string());

        let samples = samples(node.url());
        let labels = format!("{{pipeline=\"counted\",stage=\"{index}\",generation=\"1\"}}");
        assert_eq!(samples[&format!("defer_stage_frames_received_total{labels}")], 5.0);
        assert!(samples["defer_resident_memory_bytes"] > 1e6);

        let described = node.get("/v1/node").json();
        // Too few to tell.
        assert!(described["drift"].is_null() && counters["drift"].is_null());
        assert!(!samples.contains_key("defer_drift"));
        assert_eq!((&described["name"], &described["protocol"]), (&node.name.as_str().into(), &1.into()));
        assert_eq!(described["relay"], node.relay());
        assert_eq!(described["engines"][0]["name"], "onnxruntime");
        assert_eq!(node.get("/readyz").status.as_u16(), 200);
    }
    let samples = samples(chain.dispatcher.address("admin"));
    assert_eq!((samples["defer_requests_answered_total"], samples["defer_requests_pending"]), (5.0, 0.0));
    let admin = chain.admin();
    assert_eq!((&admin["name"], &admin["up"]), (&"counted".into(), &true.into()));
    let placed = admin["generations"][0]["stages"].as_array().unwrap();
    for (stage, node) in placed.iter().zip(&chain.nodes) {
        assert_eq!((&stage["node"], &stage["relay"]), (&node.name.as_str().into(), &node.relay().into()));
    }
}

/// While `work` runs, process `pid` has a quarter of the time, in turns much shorter than a computation: what a processor that
/// gets too hot, or a quota, makes of it.
fn throttled<T>(pid: u32, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                signal(pid, Signal::STOP);
                thread::sleep(Duration::from_millis(6));
                signal(pid, Signal::CONT);
                thread::sleep(Duration::from_millis(2));
            }
        });
        // A failed assertion must not leave it at that.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_node_that_is_throttled_says_how_much_slower_it_has_become() {
    let staged = stage("throttled", &long(8), 1, &[]);
    let chain = Chain::start("throttled", &staged);
    let inputs = staged.inputs(1, 200);
    let drift = |requests| {
        for _ in 0..requests {
            chain.infer(&inputs).unwrap();
        }
        let node = &chain.nodes[0];
        let drift = poll("a drift", || node.describe()["drift"].as_f64());
        let samples = samples(node.url());
        (drift, samples["defer_drift"])
    };
    let (before, _) = drift(150);
    let (after, sampled) = throttled(chain.nodes[0].process.pid(), || drift(64));
    assert!(after > 1.5 * before, "{before} before, {after} after");
    assert!(sampled > 1.5 * before, "{before} before, {sampled} after");
}
