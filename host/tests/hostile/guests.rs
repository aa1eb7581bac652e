//! Components that fail while they serve: the request fails with its cause, the stage goes on.

use crate::support::chain::{Chain, Node};
use crate::support::folder;
use crate::support::hostile::{Parts, digest, moody};
use crate::support::networks::{Staged, assert_same, ladder, random_inputs};
use defer_host::pipeline::{FORMAT, ModelRef, Pipeline, PlanRef, StageRef};
use prost::Message as _;

/// A pipeline of one stage, packed by hand.
fn packed(name: &str, parts: &Parts) -> Staged {
    let folder = folder(&format!("packed-{name}"));
    let artifact = parts.artifact();
    std::fs::write(folder.join("stage-0.wasm"), &artifact).unwrap();
    let file = folder.join("network.onnx");
    std::fs::write(&file, ladder(1).encode_to_vec()).unwrap();
    let (inputs, outputs) = (parts.manifest.inputs.clone(), parts.manifest.outputs.clone());
    let stage = StageRef {
        index: 0,
        file: "stage-0.wasm".into(),
        digest: digest(&artifact).parse().unwrap(),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        forwards: Vec::new(),
        weights_bytes: parts.slice.weights_len,
        predicted_ms: 1.0,
        decode_ms: None,
        encode_ms: None,
        replicas: None,
        nodes: None,
        codec: None,
        lossy: Vec::new(),
    };
    let pipeline = Pipeline {
        format: FORMAT,
        name: parts.manifest.pipeline.clone(),
        model: ModelRef { digest: parts.manifest.model_digest.clone(), file: file.display().to_string() },
        inputs,
        outputs,
        stages: vec![stage],
        plan: PlanRef { bottleneck_ms: 1.0, lower_bound_ms: 1.0, throughput_rps: None, latency_ms: None },
        accuracy: None,
    };
    pipeline.write(&folder).unwrap();
    Staged { file, folder, pipeline }
}

#[test]
fn a_guest_that_fails_fails_its_request_only() {
    for (what, mood, because) in [
        ("trap", "unreachable", "the component trapped"),
        ("loop", "(loop $for_ever (br $for_ever))", "ms itself, 1000 ms are allowed"),
        ("hunger", "(drop (memory.grow (i32.const 1000)))", "the component trapped"),
        ("stack", "(call $deep)", "the component trapped"),
        ("wild", "(drop (i32.load (i32.const -8)))", "the component trapped"),
        ("nothing", "(return (i32.const 512))", "the component returned no tensor"),
        // Gives back what it was given: the input, under the input's name.
        (
            "echo",
            "(i32.store (i32.const 260) (local.get $ptr)) (i32.store (i32.const 264) (local.get $len)) \
                  (return (i32.const 256))",
            "none of its outputs",
        ),
        // Handles that it does not have.
        (
            "forged",
            "(i32.store (i32.const 260) (i32.const 600)) (i32.store (i32.const 264) (i32.const 1)) \
                    (i32.store (i32.const 608) (i32.const 77)) (return (i32.const 256))",
            "the component trapped",
        ),
        // An error in its own words.
        (
            "sulk",
            "(i32.store8 (i32.const 256) (i32.const 1)) (i32.store (i32.const 260) (i32.const 16)) \
                  (i32.store (i32.const 264) (i32.const 5)) (return (i32.const 256))",
            "slice",
        ),
    ] {
        let component =
            moody(mood).replace("(func (export \"run\")", "(func $deep (call $deep)) (func (export \"run\")");
        let staged = packed(what, &Parts::good(what).component(&component));
        let inputs = random_inputs(&staged.pipeline.inputs, 1, 2);
        let want = staged.whole(&inputs);
        // As machine code, and on the interpreter.
        for (how, flags, executor) in
            [("compiled", &[][..], "cranelift"), ("interpreted", &["--interpreter"], "pulley")]
        {
            let chain = Chain::start_with(&format!("moody-{what}-{how}"), &staged, flags, &[]);
            assert_eq!(chain.nodes[0].get("/v1/node").json()["sandbox"], executor);
            assert_same(&chain.infer(&inputs).expect("the first run goes well"), &want, what);
            let refusal = chain.infer(&inputs).expect_err("the second run does not");
            assert_eq!(refusal.status, 500, "{what}, {how}: {}", refusal.error);
            let place = format!("stage {what}/0 on node \"n0\": ");
            assert!(
                refusal.error.starts_with(&place) && refusal.error.contains(because),
                "{what}, {how}: {}",
                refusal.error
            );
            assert_same(&chain.infer(&inputs).expect("the stage goes on"), &want, what);
            let failed: u64 = chain
                .nodes
                .iter()
                .flat_map(Node::stages)
                .map(|s| s["counters"]["requests_failed"].as_u64().unwrap())
                .sum();
            assert_eq!(failed, 1, "{what}, {how}");
        }
    }
}
