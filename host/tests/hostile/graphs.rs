//! Graphs that are well-formed and ruinous: which of their requests is ruinous, its inputs say. On both engines.

use crate::support::chain::Chain;
use crate::support::hand;
use crate::support::hostile::Parts;
use crate::support::networks::{ladder, long, model, random_inputs, stage, value};
use crate::support::trial::OnTrial;
use crate::support::watch::Watch;
use defer_host::engine::Named;
use defer_host::relay::frame::{FailureKind, Kind};
use defer_partition::onnx::proto::{AttributeProto, GraphProto, NodeProto, attribute_proto::AttributeType};
use defer_partition::onnx::tensor_of;
use defer_partition::testing::op;
use defer_partition::{DType, Tensor, TensorInfo};
use reqwest::StatusCode;

/// A network of `x` FP32 [4] and `k` INT64 `sizes` to `y`.
fn network(name: &str, nodes: Vec<NodeProto>, sizes: &[i64], y: (DType, &[i64])) -> Parts {
    let info = |name: &str, dtype: DType, shape: &[i64]| TensorInfo { name: name.into(), dtype, shape: shape.to_vec() };
    let mut endless = ints(&[1 << 62]);
    endless.shape.clear();
    let constants = vec![
        tensor_of("one", ints(&[1])),
        tensor_of("endless", endless),
        tensor_of("huge", ints(&[1 << 21, 1 << 19, 4])),
    ];
    let inputs = vec![info("x", DType::Fp32, &[4]), info("k", DType::Int64, sizes)];
    let outputs = vec![info("y", y.0, y.1)];
    let declared = |infos: &[TensorInfo]| infos.iter().map(|info| value(&info.name, info.dtype, &info.shape)).collect();
    Parts::of(name, model(nodes, declared(&inputs), declared(&outputs), constants), inputs, outputs)
}

fn ints(values: &[i64]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(DType::Int64, vec![values.len()], data).unwrap()
}

/// `y` is `x` after `count` rounds of tanh.
fn rounds(name: &str, count: &str) -> Parts {
    let body = GraphProto {
        name: Some("body".into()),
        node: vec![op("Identity", &["go"], &["on"]), op("Tanh", &["from"], &["to"])],
        input: vec![value("round", DType::Int64, &[]), value("go", DType::Bool, &[]), value("from", DType::Fp32, &[4])],
        output: vec![value("on", DType::Bool, &[]), value("to", DType::Fp32, &[4])],
        ..Default::default()
    };
    let mut node = op("Loop", &[count, "", "x"], &["y"]);
    node.attribute = vec![AttributeProto {
        name: Some("body".into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(body),
        ..Default::default()
    }];
    network(name, vec![node], &[], (DType::Fp32, &[4]))
}

fn request(sizes: &[i64], is_scalar: IsScalar) -> Vec<Named> {
    let x = Tensor::from_f32(vec![4], &[0.5, -0.5, 1.0, 2.0]).unwrap();
    let mut k = ints(sizes);
    if is_scalar == IsScalar::Yes {
        k.shape.clear();
    }
    vec![("x".to_owned(), x), ("k".to_owned(), k)]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsScalar {
    Yes,
    No,
}

/// This engine cannot load such a graph, and says so.
const NOT_LOADED: &str = "tract cannot load the graph";

struct Case {
    name: &'static str,
    parts: Parts,
    is_scalar: IsScalar,
    good: &'static [i64],
    ruinous: &'static [i64],
    /// What each engine says.
    onnxruntime: &'static str,
    tract: &'static str,
}

fn cases() -> Vec<Case> {
    let gather = vec![op("Gather", &["x", "k"], &["y"])];
    let divide = vec![op("Add", &["k", "one"], &["more"]), op("Div", &["one", "more"], &["y"])];
    let expand = vec![op("ReduceMax", &["x"], &["most"]), op("Expand", &["most", "k"], &["y"])];
    vec![
        Case {
            name: "gather",
            parts: network("gather", gather, &[1], (DType::Fp32, &[1])),
            is_scalar: IsScalar::No,
            good: &[3],
            ruinous: &[1 << 40],
            onnxruntime: "out of data bounds",
            tract: "it panicked: index out of bounds",
        },
        Case {
            name: "divide",
            parts: network("divide", divide, &[1], (DType::Int64, &[1])),
            is_scalar: IsScalar::No,
            good: &[3],
            ruinous: &[-1],
            onnxruntime: "integer division by zero",
            tract: "panicked",
        },
        Case {
            name: "expand",
            parts: network("expand", expand, &[2], (DType::Fp32, &[-1, -1])),
            is_scalar: IsScalar::No,
            good: &[2, 3],
            ruinous: &[1 << 21, 1 << 21],
            onnxruntime: "Failed to allocate memory for requested buffer of size 17592186044416",
            tract: NOT_LOADED,
        },
        Case {
            name: "rounds",
            parts: rounds("rounds", "k"),
            is_scalar: IsScalar::Yes,
            good: &[3],
            ruinous: &[1 << 62],
            onnxruntime: "(serve --engine-timeout)",
            tract: NOT_LOADED,
        },
    ]
}

#[test]
fn a_ruinous_request_fails_alone_on_either_engine() {
    for engine in ["onnxruntime", "tract"] {
        let name = format!("ruin-{engine}");
        let good = stage(&name, &ladder(2), 1, &[]);
        let chain = Chain::start_with(&name, &good, &["--engine", engine, "--engine-timeout", "2"], &[]);
        let node = &chain.nodes[0];
        let watch = Watch::over(&chain, &good);
        for Case { name, parts, is_scalar, good, ruinous, onnxruntime, tract } in cases() {
            let what = format!("{name} on {engine}");
            let because = if engine == "tract" { tract } else { onnxruntime };
            if because == NOT_LOADED {
                let error = OnTrial::start(node, name, &parts).err().unwrap_or_else(|| panic!("{what} was taken"));
                assert!(error.contains(because), "{what}: {error}");
                continue;
            }
            let mut stage = OnTrial::start(node, name, &parts).unwrap_or_else(|error| panic!("{what}: {error}"));
            let answer = |stage: &mut OnTrial, when: &str| {
                let result = stage.ask(&request(good, is_scalar));
                assert_eq!(result.kind, Kind::Data, "{what}, {when}: {}", String::from_utf8_lossy(&result.head));
                result.tensors().remove(0).1
            };
            let before = answer(&mut stage, "before");
            let failure = stage.ask(&request(ruinous, is_scalar)).failure();
            let cause = failure.cause.join(": ");
            assert!(cause.contains(because), "{what}: {cause}");
            assert_eq!(failure.kind, FailureKind::Stage, "{what}: {cause}");
            watch.goes_on(&what);
            assert_eq!(answer(&mut stage, "after"), before, "{what}");
            assert_eq!(node.remove(name, hand::GENERATION).status, StatusCode::NO_CONTENT);
        }
        watch.end(&chain);
    }
}

#[test]
fn a_graph_that_is_ruinous_whatever_its_inputs_is_not_taken() {
    for engine in ["onnxruntime", "tract"] {
        let name = format!("ruin-at-once-{engine}");
        let good = stage(&name, &ladder(2), 1, &[]);
        let limits = ["--engine", engine, "--engine-timeout", "2", "--load-timeout", "4"];
        let chain = Chain::start_with(&name, &good, &limits, &[]);
        let watch = Watch::over(&chain, &good);
        let expanded = |name: &str| {
            let nodes = vec![
                op("Expand", &["x", "huge"], &["large"]),
                op("Tanh", &["large"], &["tanh"]),
                op("ReduceMax", &["tanh"], &["y"]),
            ];
            network(name, nodes, &[1], (DType::Fp32, &[1, 1, 1]))
        };
        for (name, parts) in [("expanded", expanded("expanded")), ("endless", rounds("endless", "endless"))] {
            let error =
                OnTrial::start(&chain.nodes[0], name, &parts).err().unwrap_or_else(|| panic!("{name} was taken"));
            let because = match (engine, name) {
                ("onnxruntime", "expanded") => "Failed to allocate memory",
                ("onnxruntime", _) => "loading took longer than 4 s (serve --load-timeout)",
                (_, "expanded") => "it panicked: failed to allocate",
                _ => NOT_LOADED,
            };
            assert!(error.contains(because), "{name} on {engine}: {error}");
            watch.goes_on(name);
        }
        watch.end(&chain);
    }
}

/// tract cannot be stopped: its thread is given up, and the stage goes on with another.
#[test]
fn a_request_that_outlasts_the_engines_time_fails_alone_on_an_engine_that_cannot_be_stopped() {
    let good = stage("beside-long", &ladder(2), 1, &[]);
    let chain = Chain::start_with("beside-long", &good, &["--engine", "tract", "--engine-timeout", "1"], &[]);
    let node = &chain.nodes[0];
    let watch = Watch::over(&chain, &good);
    let rows = TensorInfo { name: "x".into(), dtype: DType::Fp32, shape: vec![-1, 512] };
    let y = TensorInfo { name: "y".into(), ..rows.clone() };
    let parts = Parts::of("outlasts", long(100), vec![rows.clone()], vec![y]);
    let mut stage = OnTrial::start(node, "outlasts", &parts).unwrap_or_else(|error| panic!("{error}"));
    let few = random_inputs(std::slice::from_ref(&rows), 1, 2);
    let before = stage.ask(&few).tensors();
    // A hundred gigaflops for every 2,000 rows.
    let many = random_inputs(&[rows], 2, 10_000);
    let failure = stage.ask(&many).failure();
    let cause = failure.cause.join(": ");
    assert!(cause.contains("the engine computed for longer than 1 s (serve --engine-timeout)"), "{cause}");
    watch.goes_on("a call that was given up");
    let abandoned = node.get("/v1/node").json()["abandoned_threads"].as_u64();
    assert_eq!(abandoned, Some(1), "the engine still computes");
    assert_eq!(stage.ask(&few).tensors(), before, "the stage goes on");
    watch.end(&chain);
}
