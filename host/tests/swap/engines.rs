//! Nodes that choose between their engines, and stages that only one engine computes.

use crate::lost::nodes;
use crate::stages::swap;
use crate::support::chain::{Chain, Node};
use crate::support::networks::{Staged, assert_same, model, stage, value};
use crate::support::{folder, run, stderr};
use crate::traffic::Versions;
use defer_partition::DType;
use defer_partition::testing::op;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The engine of each stage that the node runs.
fn engines(node: &Node) -> Vec<String> {
    node.stages().iter().map(|stage| stage["engine"].as_str().expect("a name").to_owned()).collect()
}

/// Where a node keeps which engines were fastest.
fn choices(node: &Node) -> PathBuf {
    node.state_dir.join("engines.json")
}

fn read(node: &Node) -> Value {
    serde_json::from_slice(&std::fs::read(choices(node)).expect("the node has noted its choices")).expect("JSON")
}

/// Has the node remember `engine` as the fastest for `digests`, as if it had measured that in the setting of `like`.
fn remember(node: &Node, like: &Value, digests: &[String], engine: &str) {
    let chosen: Vec<Value> = digests.iter().map(|digest| json!([digest, engine])).collect();
    let text = json!({"setting": like["setting"], "chosen": chosen}).to_string();
    std::fs::write(choices(node), text).expect("a file");
}

fn ask(chain: &Chain, staged: &Staged, what: &str) {
    let inputs = staged.inputs(1, 2);
    assert_same(&chain.infer_in_time(&inputs), &staged.whole(&inputs), what);
}

#[test]
fn an_engine_is_chosen_once_and_replicas_take_the_first_ones() {
    let versions = Versions::of("fastest", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    let flags = ["--replicas", "stage=1:2"];
    let mut chain = Chain::over(nodes("fastest", 4, &["--engine", "fastest"]), staged, &flags);
    ask(&chain, staged, "measured");
    let listed = chain.nodes[0].describe();
    let chosen = listed["engines"].as_array().expect("a list").iter().filter(|engine| engine["chosen"] == true);
    assert_eq!(chosen.count(), 2, "{listed}");
    let measured = read(&chain.nodes[1]);
    let digest = staged.pipeline.stages[1].digest.to_string();
    assert_eq!(measured["chosen"], json!([[digest, engines(&chain.nodes[1])[0]]]));
    assert_eq!(engines(&chain.nodes[1]), engines(&chain.nodes[2]));
    assert!(!choices(&chain.nodes[2]).exists(), "it was told, and measured nothing");

    let new = versions.0[1].pipeline.stages[1].digest.to_string();
    for [first, second] in [["tract", "onnxruntime"], ["onnxruntime", "tract"]] {
        // Gracefully, so that the nodes come back with nothing but what they remember.
        chain.dispatcher.terminate();
        let mut nodes = std::mem::take(&mut chain.nodes);
        for node in &mut nodes {
            node.process.kill();
        }
        remember(&nodes[1], &measured, &[digest.clone(), new.clone()], first);
        remember(&nodes[2], &measured, &[digest.clone(), new.clone()], second);
        nodes.iter_mut().for_each(Node::start_again);
        chain = Chain::over(nodes, staged, &flags);
        for node in &chain.nodes[1..3] {
            assert_eq!(engines(node), [first], "{}", node.name);
        }
        ask(&chain, staged, "remembered");
        // The node that is sent a new stage chooses, wherever it stands among the replicas.
        let reply = swap(&chain.nodes[2], staged.name(), 1, versions.0[1].artifact(1));
        assert!(reply.status.is_success(), "{}", reply.error());
        for node in &chain.nodes[1..3] {
            assert_eq!(node.stages().last().expect("a stage")["engine"], second, "{}", node.name);
        }
        ask(&chain, &versions.0[1], "swapped");
    }
}

#[test]
fn a_stage_goes_to_a_node_with_an_engine_that_computes_it() {
    // An operator that tract lacks.
    let squares = value("x", DType::Fp32, &[1, 2, 4, 4]);
    let network = model(vec![op("Det", &["x"], &["y"])], vec![squares], vec![value("y", DType::Fp32, &[1, 2])], vec![]);
    let staged = stage("determinant", &network, 1, &[]);
    let folder = folder("determinant-nodes");
    let tract = Node::start(&folder, "n0", &["--engine", "tract"]);
    let pipeline = staged.folder.to_str().expect("UTF-8");
    let refused = run(&["dispatch", "--pipeline", pipeline, "--node", tract.url(), "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    for said in ["stage 0", "node \"n0\"", "tract cannot load the graph"] {
        assert!(stderr(&refused).contains(said), "{said}: {}", stderr(&refused));
    }
    let spare = Node::start(&folder, "n1", &["--engine", "onnxruntime"]);
    let chain = Chain::over(vec![tract, spare], &staged, &[]);
    assert!(chain.nodes[0].stages().is_empty());
    assert_eq!(engines(&chain.nodes[1]), ["onnxruntime"]);
    ask(&chain, &staged, "on the other node");
    // Where one engine of two computes it, nothing is measured.
    let both = Node::start(&folder, "n2", &["--engine", "fastest"]);
    drop(chain);
    let chain = Chain::over(vec![both], &staged, &[]);
    assert_eq!(engines(&chain.nodes[0]), ["onnxruntime"]);
}
