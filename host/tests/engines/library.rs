//! The engine's library is loaded with the first stage, and one that does not load is one error there.

use crate::support::chain::Node;
use crate::support::folder;
use crate::support::hand::{GENERATION, assignment};
use crate::support::http::Reply;
use crate::support::networks::{Staged, ladder, stage};
use defer_host::engine::onnxruntime::OnnxRuntime;
use reqwest::StatusCode;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Resident bytes of a node without stages, at most.
const IDLE: u64 = 25_000_000;

fn prepare(node: &Node, staged: &Staged) -> Reply {
    let digest = staged.pipeline.stages[0].digest.to_string();
    assert!(node.upload(&digest, staged.artifact(0)).status.is_success());
    node.prepare(staged.name(), GENERATION, &assignment(0, &digest, &json!([])))
}

/// The engine that the node says it computes with.
fn chosen(node: &Node) -> String {
    let engines = node.describe()["engines"].clone();
    assert_eq!(engines[0]["chosen"], true, "{engines}");
    engines[0]["name"].as_str().expect("a name").to_owned()
}

/// A library that looks well from outside, and has nothing to load inside: no segments.
fn hollow(folder: &Path) -> PathBuf {
    let real = OnnxRuntime::find(None).expect("`cargo xtask setup` has installed the engine");
    let mut bytes = std::fs::read(real.path()).unwrap();
    // e_phnum of a 64-bit header.
    bytes[56..58].fill(0);
    let path = folder.join("libonnxruntime.so");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_node_without_stages_has_not_loaded_the_library() {
    let node = Node::start(&folder("unloaded"), "n0", &["--engine", "onnxruntime"]);
    let loaded =
        || std::fs::read_to_string(format!("/proc/{}/maps", node.process.pid())).unwrap().contains("onnxruntime");
    let version = node.describe()["engines"][0]["version"].clone();
    assert!(version.as_str().is_some_and(|version| version.starts_with("1.")), "{version}");
    assert_eq!((chosen(&node).as_str(), loaded()), ("onnxruntime", false));
    let resident = node.describe()["memory"]["resident_bytes"].as_u64().unwrap();
    assert!((1..IDLE).contains(&resident), "{resident} bytes");
    let reply = prepare(&node, &stage("unloaded", &ladder(2), 1, &[]));
    assert!(reply.status.is_success(), "{}", reply.error());
    assert!(loaded());
    assert!(node.describe()["runtime_memory_bytes"].as_u64() > Some(resident));
}

#[test]
fn a_library_that_does_not_load_is_one_error_at_the_first_stage() {
    let folder = folder("hollow");
    let library = hollow(&folder);
    let path = library.to_str().unwrap();
    let staged = stage("hollow", &ladder(2), 1, &[]);
    // Named: it is the engine that was wanted.
    let node = Node::start(&folder, "named", &["--ort-lib", path]);
    for _ in 0..2 {
        let reply = prepare(&node, &staged);
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        let error = reply.error();
        assert!(error.contains("this node cannot compute stage 0") && error.contains(path), "{error}");
    }
    assert!(node.stages().is_empty() && node.get("/healthz").status.is_success());
    // Found: there is another engine.
    let node = Node::start_in(&folder, "found", &[], &[("ORT_DYLIB_PATH", path)]);
    assert_eq!(chosen(&node), "onnxruntime");
    let reply = prepare(&node, &staged);
    assert!(reply.status.is_success(), "{}", reply.error());
    assert_eq!((chosen(&node).as_str(), &node.stages()[0]["engine"]), ("tract", &json!("tract")));
}
