//! What a build promises: what it names, warns of, refuses, and leaves alone.

use super::models::*;
use super::support::*;
use defer_host::build::{self, BuildOptions, Phase};
use defer_host::pipeline::Pipeline;
use defer_partition::onnx::proto::{StringStringEntryProto, tensor_proto::DataLocation};
use defer_partition::onnx::tensor_of;
use defer_partition::testing::op;
use defer_partition::{DType, Dim, Tensor};
use std::path::Path;

#[test]
fn an_operator_that_the_engine_lacks_is_named_with_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let x = || [input("x", vec![Dim::Fixed(2)])];
    let custom = |name: &str, domain: &str| {
        let mut node = op("Frobnicate", &["b"], &["c"]);
        (node.name, node.domain) = (Some(name.to_owned()), Some(domain.to_owned()));
        node
    };
    let around = |node| vec![op("Relu", &["x"], &["a"]), op("Neg", &["a"], &["b"]), node, op("Tanh", &["c"], &["y"])];
    for (domain, shown) in [("org.example", "(domain org.example, opset 3)"), ("", "(domain ai.onnx, opset 13)")] {
        let file = write_model(dir.path(), "odd.onnx", &model(&x(), &["y"], around(custom("bar", domain))));
        let error = built(&file, Some(2), &[], &dir.path().join("out"), &()).unwrap_err();
        let text = error.to_string();
        assert!(!error.is_usage(), "{text}");
        let want = format!("engine onnxruntime has no operator Frobnicate {shown}, needed by node \"bar\"");
        assert!(text.starts_with(&want), "{text}");
        assert!(files(&dir.path().join("out")).is_empty());
    }
}

#[test]
fn a_cut_inside_a_fusion_group_warns_and_computes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let net = conv_model();
    let file = write_model(dir.path(), "conv.onnx", &net);
    let out = dir.path().join("out");

    let build = |cuts: &[&str], heard: &Heard| {
        let cuts = cuts.iter().map(|&cut| cut.to_owned()).collect();
        let dims = vec![("h".to_owned(), 12)];
        let options = BuildOptions { model: file.clone(), out: Some(out.clone()), cuts, dims, ..Default::default() };
        build::build(&options, engine().as_ref(), heard)
    };
    let heard = Heard::default();
    let built = build(&["a", "c"], &heard).unwrap();
    let warnings = heard.warnings.lock().unwrap();
    assert!(warnings.iter().any(|w| w.contains("\"a\" splits the fusion group")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("\"c\" was folded")), "{warnings:?}");
    let mut phases = heard.phases.lock().unwrap().clone();
    phases.dedup();
    // Plans are loaded and timed as often as it takes.
    let loaded = phases.iter().position(|phase| *phase == Phase::Loading).expect("something is loaded");
    let (before, rest) = phases.split_at(loaded);
    assert_eq!(before, [Phase::Reading, Phase::Folding, Phase::Shapes]);
    let (last, measured) = rest.split_last().expect("something is written");
    assert_eq!(*last, Phase::Writing);
    assert!(measured.chunks(2).all(|pair| pair == [Phase::Loading, Phase::Timing]), "{phases:?}");
    assert_eq!(built.pipeline.stages[0].outputs[0].shape, [1, 2, -1, 7]);
    assert_eq!(built.groups.iter().sum::<usize>(), 4);
    let plan = built.pipeline.plan;
    assert!(plan.lower_bound_ms <= plan.bottleneck_ms && plan.lower_bound_ms > 0.0);

    // Cut and profiled at 12 rows, run with others.
    let engine = engine();
    let mut whole = build::load_whole(Path::new(&file), engine.as_ref(), ONE_THREAD).unwrap();
    let mut chain = Chain::open(engine.as_ref(), &out);
    for rows in [12, 5, 40] {
        let values: Vec<f32> = (0..2 * rows * 9).map(|i| (i as f32 * 0.7).sin()).collect();
        let inputs = [("x".to_owned(), Tensor::from_f32(vec![1, 2, rows, 9], &values).unwrap())];
        assert!(difference(&chain.run(&inputs), &run(whole.as_mut(), &inputs)) <= TOLERANCE);
    }

    for (cuts, want) in [
        (&["nowhere"][..], "no tensor \"nowhere\""),
        (&["x"], "input of the network"),
        (&["y"], "nothing would come after"),
    ] {
        let error = build(cuts, &Heard::default()).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(want), "{error}");
    }
    // What failed did not touch what was there.
    assert_eq!(Pipeline::read(&out).unwrap(), built.pipeline);
}

#[test]
fn weights_may_be_kept_beside_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = conv_model();
    let mut beside = vec![0; 64];
    for tensor in &mut net.graph.as_mut().unwrap().initializer {
        let raw = tensor.raw_data.take().unwrap();
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", "conv.bin".into()),
            entry("offset", beside.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
        beside.extend(raw);
    }
    std::fs::write(dir.path().join("conv.bin"), beside).unwrap();
    let file = write_model(dir.path(), "conv.onnx", &net);
    let out = dir.path().join("out");
    let dims = vec![("h".to_owned(), 12)];
    let options =
        BuildOptions { model: file.clone(), stages: Some(2), out: Some(out.clone()), dims, ..Default::default() };
    let engine = engine();
    build::build(&options, engine.as_ref(), &()).unwrap();
    let values: Vec<f32> = (0..2 * 7 * 9).map(|i| (i as f32 * 0.3).cos()).collect();
    let inputs = [("x".to_owned(), Tensor::from_f32(vec![1, 2, 7, 9], &values).unwrap())];
    let mut whole = build::load_whole(Path::new(&file), engine.as_ref(), ONE_THREAD).unwrap();
    let want = run(whole.as_mut(), &inputs);
    assert!(difference(&Chain::open(engine.as_ref(), &out).run(&inputs), &want) <= TOLERANCE);
}

#[test]
fn a_dimension_that_cannot_vary_leaves_only_the_rank_known() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let nodes = vec![op("Relu", &["x"], &["a"]), op("Reshape", &["a", "s"], &["b"]), op("Tanh", &["b"], &["y"])];
    let mut net = model(&[input("x", vec![symbol("n"), Dim::Fixed(6)])], &["y"], nodes);
    let shape = [1i64, 2, 3].iter().flat_map(|dim| dim.to_le_bytes()).collect();
    net.graph.as_mut().unwrap().initializer = vec![tensor_of("s", Tensor::new(DType::Int64, vec![3], shape).unwrap())];
    let file = write_model(dir.path(), "one.onnx", &net);
    let heard = Heard::default();
    let built = built(&file, None, &["b"], &out, &heard).unwrap();
    let notes = heard.notes.lock().unwrap();
    assert!(notes.iter().any(|note| note.contains("no other size of dimension \"n\"")), "{notes:?}");
    assert_eq!(built.pipeline.stages[0].outputs[0].shape, [-1, -1, -1]);
    assert_eq!(built.pipeline.inputs[0].shape, [-1, 6]);
}

#[test]
fn what_cannot_be_asked_for_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let open = model(&[input("x", vec![symbol("n"), symbol("w")])], &["y"], vec![op("Relu", &["x"], &["y"])]);
    let file = write_model(dir.path(), "open.onnx", &open);
    let odd = write_model(dir.path(), "odd name.onnx", &open);
    for (error, want) in [
        (built(&file, Some(1), &[], &out, &()), "--dim w=SIZE"),
        (built(&file, Some(2), &[], &out, &()), "ask for at most 1"),
        (built(&file, Some(0), &[], &out, &()), "at least 1"),
        (built(&file, None, &[], &out, &()), "--stages N"),
        (built(&odd, Some(1), &[], &out, &()), "rename the file"),
        (built("no-such-model", Some(1), &[], &out, &()), "no model \"no-such-model\""),
    ] {
        let error = error.unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(want), "{error}");
    }
    assert!(!out.exists());
    std::fs::write(&file, "not a model").unwrap();
    let error = built(&file, Some(1), &[], &out, &()).unwrap_err();
    assert!(!error.is_usage() && error.to_string().contains("open.onnx"), "{error}");
}

#[test]
fn sequences_stay_inside_a_stage() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let nodes = vec![
        op("Relu", &["x"], &["a"]),
        op("Neg", &["x"], &["b"]),
        op("SequenceConstruct", &["a", "b"], &["s"]),
        op("Tanh", &["a"], &["t"]),
        with_int(op("ConcatFromSequence", &["s"], &["c"]), "axis", 0),
        op("Sigmoid", &["c"], &["d"]),
        op("Exp", &["d"], &["y"]),
        op("Exp", &["t"], &["z"]),
    ];
    let file = write_model(dir.path(), "seq.onnx", &model(&[input("x", vec![Dim::Fixed(4)])], &["y", "z"], nodes));
    let inputs = [("x".to_owned(), Tensor::from_f32(vec![4], &[0.5, -1.0, 2.0, 0.0]).unwrap())];
    let engine = engine();
    let want = run(build::load_whole(Path::new(&file), engine.as_ref(), ONE_THREAD).unwrap().as_mut(), &inputs);
    for stages in 1..=3 {
        built(&file, Some(stages), &[], &out, &()).unwrap();
        assert_eq!(difference(&Chain::open(engine.as_ref(), &out).run(&inputs), &want), 0.0);
    }
    let error = built(&file, None, &["s"], &out, &()).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("\"s\" would cross"), "{error}");
    let error = built(&file, Some(8), &[], &out, &()).unwrap_err();
    assert!(error.is_usage(), "{error}");
}

#[test]
fn shapes_that_follow_values_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let nodes =
        vec![op("Relu", &["x"], &["a"]), op("NonZero", &["a"], &["n"]), with_int(op("Cast", &["n"], &["y"]), "to", 1)];
    let file = write_model(dir.path(), "nz.onnx", &model(&[input("x", vec![Dim::Fixed(4)])], &["y"], nodes));
    let built = built(&file, None, &["n"], &out, &()).unwrap();
    assert_eq!(built.pipeline.outputs[0].shape, [-1, -1]);
    let engine = engine();
    let mut chain = Chain::open(engine.as_ref(), &out);
    // Also none at all: an empty tensor crosses.
    for (values, count) in [([1.0, 2.0, 3.0, 4.0], 4), ([-1.0; 4], 0)] {
        let outputs = chain.run(&[("x".to_owned(), Tensor::from_f32(vec![4], &values).unwrap())]);
        assert_eq!(outputs[0].1.shape, [1, count]);
    }
}
