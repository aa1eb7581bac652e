//! Whole pipelines that replace the one that runs.

use crate::stages::settled;
use crate::support::chain::{Chain, Node, memory_limit};
use crate::support::http::{Reply, Request};
use crate::support::networks::{Staged, heavy, outer, stage};
use crate::support::{folder, poll, run, stderr};
use crate::traffic::Versions;
use defer_partition::onnx::proto::{ModelProto, TensorProto};
use defer_partition::testing::op;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

fn admin(chain: &Chain) -> &str {
    chain.dispatcher.address("admin")
}

/// Runs `defer-host deploy` and gives its JSON.
fn deploy(chain: &Chain, args: &[&str]) -> Value {
    let output = run(&[&["deploy", "--json", "--admin", admin(chain)], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn folder_of(staged: &Staged) -> &str {
    staged.folder.to_str().unwrap()
}

fn post(chain: &Chain, name: &str, what: &str, body: Vec<u8>) -> Reply {
    Request::new(Method::POST, format!("{}/v1/pipelines/{name}/{what}", admin(chain))).body(body).send()
}

fn nodes(name: &str, count: usize, serve: &[&str]) -> Vec<Node> {
    let folder = folder(&format!("deploys-{name}"));
    (0..count).map(|index| Node::start(&folder, &format!("n{index}"), serve)).collect()
}

#[test]
fn other_weights_cuts_and_numbers_of_stages_take_over_under_traffic() {
    let versions = Versions::cut(
        "replaced",
        &[
            (&[1, 2, 3], &["t1", "t2"]),
            (&[11, 12, 13], &["t1", "t2"]),
            (&[21, 22, 23], &["t2"]),
            (&[31, 32, 33, 34], &["t1", "t2", "t3"]),
            (&[41, 42], &[]),
        ],
    );
    let chain = Chain::over(nodes("replaced", 4, &[]), &versions.0[0], &[]);
    let traffic = versions.traffic(&chain.door, 4);
    for (step, version) in versions.0.iter().enumerate().skip(1) {
        let said = deploy(&chain, &["--pipeline", folder_of(version)]);
        assert_eq!(said["state"], "active");
        assert_eq!((&said["generation"], &said["previous_generation"]), (&json!(step + 1), &json!(step)));
        let old = traffic.answers()[step - 1];
        traffic.goes_on("a deployment");
        assert!(traffic.answers()[step - 1] - old <= 4, "only what was under way is the old one's");
        assert_eq!(settled(&chain.nodes), step as u64 + 1);
        let running: usize = chain.nodes.iter().map(|node| node.stages().len()).sum();
        assert_eq!(running, version.pipeline.stages.len());
    }
    let seen = traffic.end();
    assert_eq!((seen.refused, seen.turns), (0, 4 * 4), "{seen:?}");
}

#[test]
fn a_canary_gets_its_share_and_is_promoted_or_aborted() {
    let versions = Versions::of("canary", &[[1, 2, 3], [11, 12, 13]]);
    let chain = Chain::start("canary", &versions.0[0]);
    let traffic = versions.traffic(&chain.door, 4);
    let share_of_trial = || {
        let before = traffic.answers();
        poll("two hundred answers", || {
            (traffic.answers().iter().sum::<usize>() >= before.iter().sum::<usize>() + 200).then_some(())
        });
        let after = traffic.answers();
        let (old, new) = (after[0] - before[0], after[1] - before[1]);
        new as f64 / (old + new) as f64
    };
    let said = deploy(&chain, &["--pipeline", folder_of(&versions.0[1]), "--canary", "20%"]);
    assert_eq!((&said["state"], &said["generation"]), (&json!("canary"), &json!(2)));
    let share = share_of_trial();
    assert!((0.1..0.3).contains(&share), "{share}");
    let generations = chain.admin()["generations"].clone();
    let states: Vec<_> = generations.as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["active", "canary"]);
    assert!(generations[1]["counters"]["answered"].as_u64().unwrap() > 0, "{generations}");
    // One change at a time.
    let output = run(&["deploy", "--admin", admin(&chain), "--pipeline", folder_of(&versions.0[1])]);
    assert!(stderr(&output).contains("generation 2 is on trial; promote or abort it first"), "{}", stderr(&output));
    let reply = crate::stages::swap(&chain.nodes[1], "canary", 1, versions.0[1].artifact(1));
    assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.error());

    assert_eq!(deploy(&chain, &["--abort", "canary"])["generation"], 1);
    assert_eq!(settled(&chain.nodes), 1);
    assert_eq!(share_of_trial(), 0.0);
    assert_eq!(post(&chain, "canary", "promote", Vec::new()).status, StatusCode::CONFLICT, "nothing is on trial");

    deploy(&chain, &["--pipeline", folder_of(&versions.0[1]), "--canary", "0.3"]);
    let said = deploy(&chain, &["--promote", "canary"]);
    assert_eq!((&said["state"], &said["previous_generation"]), (&json!("active"), &json!(1)));
    settled(&chain.nodes);
    assert_eq!(share_of_trial(), 1.0);
    let seen = traffic.end();
    assert_eq!(seen.refused, 0, "{seen:?}");
}

#[test]
fn a_pipeline_that_cannot_take_over_changes_nothing() {
    let versions = Versions::cut("unchanged", &[(&[1, 2, 3], &["t1"]), (&[11, 12, 13], &["t1", "t2"])]);
    let staged = &versions.0[0];
    let name = staged.name();
    let chain = Chain::start("unchanged", staged);
    let traffic = versions.traffic(&chain.door, 3);
    let file = |staged: &Staged| serde_json::to_value(&staged.pipeline).unwrap();
    let renamed = |mut file: Value| {
        file["name"] = json!("other");
        file
    };
    let other = stage("unchanged-other", &outer("y"), 1, &[]);
    let other = Value::Object(
        file(&other).as_object().unwrap().clone().into_iter().chain([("name".into(), json!(name))]).collect(),
    );
    let cases = [
        ("no JSON", name, b"{".to_vec(), 400, "is malformed"),
        ("another format", name, json!({"format": 9}).to_string().into_bytes(), 400, "has format 9"),
        ("another name", name, renamed(file(staged)).to_string().into_bytes(), 400, "the body of \"other\""),
        (
            "another pipeline",
            "other",
            renamed(file(staged)).to_string().into_bytes(),
            404,
            "serves pipeline \"unchanged\"",
        ),
        ("other inputs", name, other.to_string().into_bytes(), 422, "its inputs are others"),
        ("what was not uploaded", name, file(&versions.0[1]).to_string().into_bytes(), 422, "upload it first"),
    ];
    for (what, pipeline, body, status, because) in cases {
        let reply = post(&chain, pipeline, "deploy", body);
        assert_eq!(reply.status.as_u16(), status, "{what}: {}", String::from_utf8_lossy(&reply.body));
        assert!(reply.error().contains(because), "{what}: {}", reply.error());
    }
    for query in ["canary=2", "canary=0", "canary=x", "canary=0.5&stop_first=true"] {
        let reply = post(&chain, name, &format!("deploy?{query}"), file(staged).to_string().into_bytes());
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{query}: {}", String::from_utf8_lossy(&reply.body));
    }
    // Its artifacts are sent, then there are more stages than nodes.
    let output = run(&["deploy", "--admin", admin(&chain), "--pipeline", folder_of(&versions.0[1])]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("it has 3 stages, and 2 nodes answer"), "{}", stderr(&output));
    let output = run(&["deploy", "--admin", "http://127.0.0.1:1", "--pipeline", folder_of(&versions.0[1])]);
    assert!(stderr(&output).contains("cannot reach the dispatcher at"), "{}", stderr(&output));
    for wrong in
        [&["--pipeline", "/nowhere"][..], &[], &["--promote", "x", "--abort", "x"], &["--abort", "x", "--canary", "5%"]]
    {
        let output = run(&[&["deploy", "--admin", admin(&chain)], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
    }
    assert_eq!(settled(&chain.nodes), 1);
    let seen = traffic.end();
    assert_eq!((seen.refused, seen.answers[1]), (0, 0), "{seen:?}");
}

#[test]
fn where_there_is_no_room_for_both_the_old_one_is_stopped_first() {
    // 16 MiB of weights, on a node that has room for 24.
    let limit = memory_limit("tight", &[], 24);
    let first = stage("tight", &heavy(16, 1), 1, &[]);
    let chain = Chain::over(nodes("tight", 1, &["--memory-limit", &limit]), &first, &[]);
    let folder = folder("tight-second");
    let model = folder.join("tight.onnx");
    std::fs::write(&model, prost::Message::encode_to_vec(&heavy(16, 2))).unwrap();
    let second = crate::support::networks::cut(model.to_str().unwrap(), &folder.join("stages"), 1, &[]).unwrap();
    let inputs = second.inputs(1, 2);
    let output = run(&["deploy", "--admin", admin(&chain), "--pipeline", folder_of(&second)]);
    let said = stderr(&output);
    assert!(
        said.contains("stage 0 on node \"n0\"")
            && said.contains("needs 16777216 bytes of weights")
            && said.contains("is the limit (serve --memory-limit)"),
        "{said}"
    );
    crate::support::networks::assert_same(&chain.infer(&inputs).unwrap(), &first.whole(&inputs), "the old one");
    deploy(&chain, &["--pipeline", folder_of(&second), "--stop-first"]);
    crate::support::networks::assert_same(&chain.infer(&inputs).unwrap(), &second.whole(&inputs), "the new one");
}

/// Like [`heavy`] of 16 MiB, and twice as much.
fn twice_heavy() -> ModelProto {
    let (mut both, other) = (heavy(16, 2), heavy(16, 3));
    let (graph, other) = (both.graph.as_mut().unwrap(), other.graph.unwrap());
    graph.initializer.extend(other.initializer.into_iter().map(|w| TensorProto { name: Some("v".into()), ..w }));
    graph.node =
        vec![op("MatMul", &["x", "w"], &["a"]), op("MatMul", &["x", "v"], &["b"]), op("Add", &["a", "b"], &["y"])];
    both
}

#[test]
fn an_old_pipeline_that_could_not_be_had_back_at_once_comes_back_later() {
    let limit = memory_limit("neither", &[], 24);
    let first = stage("neither", &heavy(16, 1), 1, &[]);
    let chain = Chain::over(nodes("neither", 1, &["--memory-limit", &limit, "--store-limit", "40"]), &first, &[]);
    let folder = folder("neither-second");
    let model = folder.join("neither.onnx");
    std::fs::write(&model, prost::Message::encode_to_vec(&twice_heavy())).unwrap();
    let second = crate::support::networks::cut(model.to_str().unwrap(), &folder.join("stages"), 1, &[]).unwrap();
    // The old stage's file is away, and its node has no room for both.
    let file = first.folder.join(&first.pipeline.stages[0].file);
    let aside = folder.join("aside.wasm");
    std::fs::rename(&file, &aside).unwrap();
    let output = run(&["deploy", "--admin", admin(&chain), "--pipeline", folder_of(&second), "--stop-first"]);
    let said = stderr(&output);
    assert!(said.contains("neither can the old one") && said.contains("serve --memory-limit"), "{said}");
    let inputs = first.inputs(1, 2);
    let refusal = chain.infer(&inputs).unwrap_err();
    assert!(refusal.status == 503 && refusal.error.contains("neither the new pipeline"), "{}", refusal.error);
    std::fs::rename(&aside, &file).unwrap();
    let got = chain.infer_in_time(&inputs);
    crate::support::networks::assert_same(&got, &first.whole(&inputs), "the old one");
}
