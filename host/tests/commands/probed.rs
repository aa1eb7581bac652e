//! `cluster probe`: what it finds, and what it does where somebody does not answer.

use crate::support::chain::Node;
use crate::support::http::Request;
use crate::support::{folder, run, stderr};
use defer_partition::cluster::Cluster;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn a_probe_writes_what_nodes_and_links_can_do() {
    let folder = folder("probed");
    let secret = folder.join("token");
    std::fs::write(&secret, "a long random text").unwrap();
    let secret = secret.to_str().unwrap();
    let token = ["--token-file", secret];
    let limit = [&token[..], &["--memory-limit", "64"]].concat();
    let nodes = [Node::start(&folder, "left", &limit), Node::start(&folder, "right", &token)];
    let out = folder.join("cluster.toml");
    let flags =
        ["cluster", "probe", "--json", "--out", out.to_str().unwrap(), "--node", nodes[0].url(), nodes[1].url()];
    let output = run(&[&flags[..], &token].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let cluster = Cluster::read(&out).unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(serde_json::to_value(&cluster).unwrap(), shown);
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["left", "right"]);
    let describe = |node: &Node| {
        let request = Request::get(format!("{}/v1/node", node.url()));
        request.header("Authorization", "Bearer a long random text").send().json()
    };
    for (found, node) in cluster.nodes.iter().zip(&nodes) {
        assert_eq!(found.url.as_deref(), Some(node.url()));
        // Both are this machine, which other tests keep busy too.
        assert!((0.02..50.0).contains(&found.speed), "{found:?}");
        assert!(found.cores.is_some_and(|cores| cores > 0));
        let described = describe(node);
        assert!(described["speed"].as_f64().is_some_and(|speed| speed > 0.0), "{described}");
    }
    // The limit, less what the node takes itself.
    let left = cluster.nodes[0].memory_bytes;
    let runtime = describe(&nodes[0])["runtime_memory_bytes"].as_u64().unwrap();
    assert_eq!(left, (64 << 20) - runtime);
    let pairs: BTreeSet<(&str, &str)> =
        cluster.link.pairs.iter().map(|pair| (pair.a.as_str(), pair.b.as_str())).collect();
    assert_eq!(pairs, BTreeSet::from([("left", "right"), ("right", "left")]));
    for pair in &cluster.link.pairs {
        // A machine's connection to itself: faster than any cable, but for what else it does.
        assert!(pair.bandwidth_bps.is_some_and(|bps| (1e7..1e12).contains(&bps)), "{pair:?}");
        assert!(pair.latency_ms.is_some_and(|ms| (0.0..1000.0).contains(&ms)), "{pair:?}");
    }
    assert!(cluster.dispatcher.is_some_and(|link| link.bandwidth_bps > 1e7));
}

#[test]
fn who_does_not_answer_a_probe_is_named() {
    let folder = folder("unprobed");
    let secret = folder.join("token");
    std::fs::write(&secret, "another long random text").unwrap();
    let node = Node::start(&folder, "alone", &["--token-file", secret.to_str().unwrap()]);
    let out = folder.join("cluster.toml");
    let probe =
        |flags: &[&str]| run(&[&["cluster", "probe", "--out", out.to_str().unwrap(), "--node"], flags].concat());
    for (output, code, said) in [
        (probe(&["http://127.0.0.1:9"]), 1, "cannot reach the node at http://127.0.0.1:9"),
        (probe(&[node.url()]), 1, "a token is needed"),
        (probe(&["pi-1:7700"]), 2, "--node takes URLs"),
        (probe(&[node.url(), "--token-file", "/nowhere"]), 2, "/nowhere"),
    ] {
        let text = stderr(&output);
        assert_eq!((output.status.code(), text.contains(said)), (Some(code), true), "{said:?}: {text}");
    }
    assert!(!out.exists(), "nothing is written that was not measured");
    // A relay that is not there: the node that was to send to it says so.
    let reply = Request::new(Method::POST, format!("{}/v1/probe/link", node.url()))
        .header("Authorization", "Bearer another long random text")
        .json(&json!({"relay": "127.0.0.1:9"}))
        .send();
    assert_eq!(reply.status.as_u16(), 502, "{}", reply.json());
}
