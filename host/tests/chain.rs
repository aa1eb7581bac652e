//! A chain of processes answers what the whole network computes, whatever is cut where.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod support;

use defer_host::accuracy::difference;
use defer_host::build::BuildOptions;
use defer_host::engine::Named;
use defer_host::pipeline::{Calibration, Pipeline};
use defer_host::relay::CodecChoice;
use defer_models::{Answer, Processor, samples};
use serde_json::json;
use std::thread;
use support::chain::{Chain, Node, spawn_dispatcher};
use support::hand::{ByHand, assignment};
use support::networks::{Staged, assert_same, built, cut, ladder, stage, tour};
use support::{folder, http, run, stderr};

/// Some requests through a running chain, against the uncut file in this process.
fn check(chain: &Chain, staged: &Staged, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let inputs = staged.inputs(seed, 3);
        let got = chain.infer(&inputs).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", staged.name()));
        assert_same(&got, &staged.whole(&inputs), &format!("{} seed {seed}", staged.name()));
    }
}

#[test]
fn every_kind_of_tensor_crosses_every_kind_of_cut() {
    let cases: [(&str, usize, &[&str]); 5] = [
        ("tour-whole", 1, &[]),
        ("tour-planned", 3, &[]),
        // A BOOL and an INT64 cross, and "early" is there from the first stage on.
        ("tour-early", 0, &["early", "mask", "total"]),
        // "sum" is read in the last stage again, "late" only there: both are passed on by the stages between.
        ("tour-late", 0, &["sum", "t2", "t3", "chosen"]),
        ("tour-scalar", 0, &["nothing", "mean"]),
    ];
    for (name, stages, cuts) in cases {
        let staged = stage(name, &tour(), stages, cuts);
        assert_eq!(staged.pipeline.stages.len(), stages.max(cuts.len() + 1), "{name}");
        if name == "tour-late" {
            let forwards =
                |index: usize, name: &str| staged.pipeline.stages[index].forwards.iter().any(|info| info.name == name);
            assert!((1..4).all(|index| forwards(index, "sum")), "{:?}", staged.pipeline);
            assert!((2..4).all(|index| forwards(index, "early")), "{:?}", staged.pipeline);
            assert!((0..3).all(|index| forwards(index, "late")), "{:?}", staged.pipeline);
        }
        for codec in ["raw", "lz4", "sparse+shuffle-zstd"] {
            let chain = Chain::start_with(&format!("{name}-{codec}"), &staged, &[], &["--codec", codec]);
            check(&chain, &staged, 0..4);
            for slot in chain.nodes.iter().flat_map(Node::stages) {
                assert_eq!(slot["codec"], codec);
            }
        }
    }
}

#[test]
fn a_hop_of_constant_size_hides_the_length_of_what_is_passed_on_too() {
    // "early" is an output that the last stages pass on.
    let staged = stage("tour-hidden", &tour(), 0, &["sum", "t2", "t3", "chosen"]);
    let last = staged.pipeline.stages.len() - 1;
    let random = staged.inputs(1, 3);
    let mut zeros = random.clone();
    zeros.iter_mut().for_each(|(_, tensor)| tensor.data.fill(0));
    for (codec, same) in [("sparse+shuffle-zstd", false), ("constant-size:density=1", true)] {
        let codecs = |index| if index == last { codec } else { "sparse+shuffle-zstd" };
        let mut hand = ByHand::start_with(&format!("hidden-{same}"), &staged, &[], codecs);
        let mut lengths = Vec::new();
        for inputs in [&random, &zeros] {
            let result = hand.ask(inputs);
            assert_same(&hand.outputs(&result), &staged.whole(inputs), codec);
            lengths.push(result.body.len());
        }
        assert_eq!(lengths[0] == lengths[1], same, "{codec}: {lengths:?}");
    }
}

#[test]
fn a_chain_answers_the_same_on_either_engine_and_on_both() {
    let staged = stage("tour-engines", &tour(), 3, &[]);
    for engines in [["tract", "tract", "tract"], ["tract", "onnxruntime", "tract"]] {
        let name = engines.join("-");
        let folder = folder(&name);
        let start = |(index, engine): (usize, &&str)| Node::start(&folder, &format!("n{index}"), &["--engine", engine]);
        let nodes: Vec<Node> = engines.iter().enumerate().map(start).collect();
        for (node, engine) in nodes.iter().zip(engines) {
            let described = node.get("/v1/node").json();
            let listed = described["engines"].as_array().unwrap();
            let chosen: Vec<_> = listed.iter().filter(|listed| listed["chosen"] == true).collect();
            assert_eq!((chosen.len(), &chosen[0]["name"]), (1, &json!(engine)), "{listed:?}");
            assert!(listed.iter().any(|listed| listed["name"] == "tract"), "it is always there: {listed:?}");
        }
        let chain = Chain::over(nodes, &staged, &[]);
        check(&chain, &staged, 0..4);
        for (node, engine) in chain.nodes.iter().zip(engines) {
            assert_eq!(node.stages()[0]["engine"], engine);
        }
    }
}

#[test]
fn random_networks_in_stages_answer_as_the_whole() {
    let folder = folder("random-nodes");
    let mut nodes: Vec<Node> = (0..4).map(|index| Node::start(&folder, &format!("n{index}"), &[])).collect();
    let mut cut_into = [0; 5];
    for seed in 0..12 {
        let name = format!("random-{seed}");
        let model = defer_partition::testing::random_model(seed);
        let file = support::folder(&name).join(format!("{name}.onnx"));
        std::fs::write(&file, prost::Message::encode_to_vec(&model)).unwrap();
        let path = file.to_str().unwrap();
        // As many stages as the network has room for.
        let out = file.with_extension("stages");
        let staged = [4, 3, 2, 1].iter().find_map(|&stages| match cut(path, &out, stages, &[]) {
            Ok(staged) => Some(staged),
            Err(error) if stages > 1 && error.to_string().contains("stages") => None,
            Err(error) => panic!("{name} in {stages}: {error}"),
        });
        let staged = staged.expect("one stage always fits");
        cut_into[staged.pipeline.stages.len()] += 1;
        let chain = Chain::over(std::mem::take(&mut nodes), &staged, &[]);
        check(&chain, &staged, 0..3);
        let Chain { mut dispatcher, nodes: back, .. } = chain;
        assert!(dispatcher.terminate().is_some_and(|status| status.success()));
        nodes = back;
    }
    assert!(cut_into[4] > 0 && cut_into[3] + cut_into[4] >= 6, "hardly anything was cut: {cut_into:?}");
}

#[test]
fn concurrent_requests_get_their_own_answers() {
    let staged = stage("crowd", &ladder(6), 3, &[]);
    let chain = Chain::start("crowd", &staged);
    // Every request has other values and another size.
    let requests: Vec<Vec<Named>> = (0..32).map(|seed| staged.inputs(seed, 1 + seed as usize)).collect();
    let wanted = staged.whole_all(&requests.iter().map(Vec::as_slice).collect::<Vec<_>>());
    thread::scope(|scope| {
        for (request, want) in requests.iter().zip(&wanted) {
            let door = &chain.door;
            scope.spawn(move || {
                for _ in 0..4 {
                    let got = door.infer(request).expect("an answer");
                    assert_same(&got, want, "one of many");
                }
            });
        }
    });
    let counters = chain.admin()["counters"].clone();
    assert_eq!((&counters["accepted"], &counters["answered"]), (&json!(128), &json!(128)), "{counters}");
}

#[test]
fn two_pipelines_on_the_same_nodes_do_not_meet() {
    let (one, other) = (stage("one", &ladder(4), 2, &[]), stage("other", &tour(), 2, &[]));
    let chain = Chain::start("shared", &one);
    let nodes: Vec<&Node> = chain.nodes.iter().collect();
    let mut second = spawn_dispatcher(&other, &nodes, &[]);
    second.wait_listening(&["inference"], support::PATIENCE).unwrap();
    let url = second.address("inference").to_owned();
    thread::scope(|scope| {
        for seed in 0..4 {
            let (one, other, door, url) = (&one, &other, &chain.door, &url);
            scope.spawn(move || {
                let inputs = one.inputs(seed, 3);
                assert_same(&door.infer(&inputs).unwrap(), &one.whole(&inputs), "one");
            });
            scope.spawn(move || {
                let inputs = other.inputs(seed, 0);
                assert_same(&http::infer(url, "other", &inputs).unwrap(), &other.whole(&inputs), "other");
            });
        }
    });
    assert!(second.terminate().is_some_and(|status| status.success()));
    check(&chain, &one, 7..9);
    for node in &chain.nodes {
        assert_eq!(node.stages().len(), 1, "only the other pipeline's stages are gone from {}", node.name);
    }
}

#[test]
fn a_cut_goes_where_it_is_told() {
    let staged = stage("told", &ladder(5), 0, &["t1", "t4"]);
    let leaving: Vec<&str> = staged.pipeline.stages.iter().map(|stage| stage.outputs[0].name.as_str()).collect();
    assert_eq!(leaving, ["t1", "t4", "y"]);
    check(&Chain::start("told", &staged), &staged, 0..2);
}

/// The trained network, if it can be had; where CI runs, it must be.
fn trained() -> Option<Staged> {
    let entry = defer_models::find("ocr-rec").expect("it is in the catalogue");
    match entry.fetch(&mut |line| eprintln!("{line}")) {
        Ok(_) => Some(cut("ocr-rec", &folder("ocr-rec"), 4, &[]).expect("it can be cut")),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "the trained network cannot be had: {error}");
            eprintln!("SKIPPED: the trained network cannot be had: {error}");
            None
        }
    }
}

#[test]
fn the_trained_network_reads_in_four_stages_what_is_printed() {
    let Some(staged) = trained() else { return };
    let entry = defer_models::find("ocr-rec").unwrap();
    let processor = Processor::for_file(entry, &staged.file).unwrap();
    let chain = Chain::start("ocr-rec", &staged);
    let mut widths = Vec::new();
    for sample in samples() {
        let inputs = processor.input(&defer_models::read_picture(sample.png).unwrap()).unwrap();
        widths.push(inputs[0].1.shape[3]);
        let got = chain.infer(&inputs).unwrap();
        assert_same(&got, &staged.whole(&inputs), sample.name);
        let Answer::Text { text, .. } = processor.answer(&got).unwrap() else { panic!("no text") };
        assert_eq!(text, sample.text);
    }
    assert!(widths.windows(2).all(|pair| pair[0] != pair[1]), "the samples should differ in width: {widths:?}");
    // A width that no stage was profiled or warmed up with.
    let shape = vec![1, 3, 48, 416];
    let values: Vec<f32> = (0..shape.iter().product()).map(|at: usize| (at as f32 * 0.37).sin()).collect();
    let odd = vec![("x".to_owned(), defer_partition::Tensor::from_f32(shape, &values).unwrap())];
    assert_same(&chain.infer(&odd).unwrap(), &staged.whole(&odd), "width 416");
    // As a person asks: with files, and without.
    let folder = folder("ocr-rec-pictures");
    let mut args = vec!["infer".to_owned(), "--url".into(), chain.url().into(), "--model".into(), "ocr-rec".into()];
    args.push("--json".into());
    let without: Vec<String> = args.clone();
    for sample in samples() {
        let path = folder.join(format!("{}.png", sample.name));
        std::fs::write(&path, sample.png).unwrap();
        args.extend(["--input".to_owned(), path.display().to_string()]);
    }
    for args in [args, without] {
        let output = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let texts: Vec<&str> = report["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| answer["answer"]["text"].as_str().unwrap())
            .collect();
        assert_eq!(texts, samples().iter().map(|sample| sample.text).collect::<Vec<_>>());
    }
}

/// Three stages of a made-up network whose hops may use lossy codecs within `budget`.
fn within(name: &str, budget: &str) -> Staged {
    let folder = folder(name);
    let file = folder.join(format!("{name}.onnx"));
    std::fs::write(&file, prost::Message::encode_to_vec(&ladder(6))).unwrap();
    let options = BuildOptions {
        model: file.to_str().unwrap().to_owned(),
        out: Some(folder.join("stages")),
        cuts: vec!["t2".into(), "t4".into()],
        dims: vec![("n".into(), 64)],
        allow_lossy: Some(budget.parse().unwrap()),
        ..BuildOptions::default()
    };
    built(options).unwrap()
}

#[test]
fn a_pipeline_with_lossy_codecs_keeps_to_its_budget() {
    const LIMIT: f64 = 0.02;
    let mut staged = within("rounded", &format!("max-relative-error={LIMIT}"));
    let read = Pipeline::read(&staged.folder).unwrap();
    assert_eq!(read, staged.pipeline);
    let accuracy = read.accuracy.expect("it was asked for");
    let (measured, lossless) = (accuracy.measured.unwrap(), accuracy.lossless.unwrap());
    assert!(lossless < 1e-5 && lossless < measured && accuracy.margin * measured <= LIMIT, "{accuracy:?}");
    assert_eq!((accuracy.calibrated_with, accuracy.inputs), (Calibration::Random, 6));
    assert!(read.stages.iter().all(|stage| !stage.lossy.is_empty()), "{read:?}");

    // What a node may choose is up to its link; here each must use the worst that it may.
    for stage in &mut staged.pipeline.stages {
        stage.codec = Some(CodecChoice::Fixed(stage.lossy[0]));
    }
    staged.pipeline.write(&staged.folder).unwrap();
    let state = folder("rounded-nodes");
    let nodes: Vec<Node> = (0..3).map(|index| Node::start(&state, &format!("n{index}"), &[])).collect();
    let mut chain = Chain::over(nodes, &staged, &[]);
    let off = |chain: &Chain, seed| {
        let inputs = staged.inputs(seed, 64);
        difference(&staged.whole(&inputs), &chain.infer(&inputs).unwrap()).unwrap()
    };
    let worst = (0..6).map(|seed| off(&chain, seed)).fold(0.0, f64::max);
    assert!(worst > 100.0 * lossless && worst <= LIMIT, "{worst:.1e}");

    for (flags, allowed) in [(&["--lossless"][..], false), (&["--codec", "auto"], true)] {
        let Chain { mut dispatcher, nodes, .. } = chain;
        assert!(dispatcher.terminate().is_some_and(|status| status.success()));
        chain = Chain::over(nodes, &staged, flags);
        let worst = (0..6).map(|seed| off(&chain, seed)).fold(0.0, f64::max);
        assert!(worst <= if allowed { LIMIT } else { 2e-4 }, "{flags:?}: {worst:.1e}");
        for (node, stage) in chain.nodes.iter().zip(&staged.pipeline.stages) {
            let slot = &node.stages()[0];
            let lossy = if allowed { json!(stage.lossy) } else { json!([]) };
            assert_eq!((&slot["codec"], &slot["lossy"]), (&json!("auto"), &lossy), "{flags:?}");
        }
    }
}

#[test]
fn a_budget_that_nothing_meets_leaves_a_pipeline_lossless() {
    let staged = within("exact", "max-relative-error=1e-9");
    assert!(staged.pipeline.stages.iter().all(|stage| stage.lossy.is_empty()));
    let accuracy = staged.pipeline.accuracy.unwrap();
    assert_eq!(accuracy.measured, accuracy.lossless);
    let chain = Chain::start("exact", &staged);
    check(&chain, &staged, 0..2);
}

#[test]
fn a_node_is_allowed_lossy_codecs_only() {
    let staged = stage("allowed", &ladder(1), 1, &[]);
    let node = Node::start(&folder("allowed-node"), "n", &[]);
    let digest = staged.pipeline.stages[0].digest.to_string();
    node.upload(&digest, staged.artifact(0));
    for (lossy, because) in [
        (json!(["f16", "lz4"]), "lz4 is no lossy codec"),
        (json!(["constant-size:f16"]), "constant-size:f16 is no lossy codec"),
        (json!(vec!["f16"; 9]), "9 lossy codecs"),
        (json!(["zip"]), "unknown codec"),
    ] {
        let mut body = assignment(0, &digest, &json!([]));
        body["stages"][0]["lossy"] = lossy;
        let reply = node.prepare("allowed", 1, &body);
        assert!(reply.status.is_client_error() && reply.error().contains(because), "{}", reply.error());
    }
}

#[test]
fn resnet50_in_four_stages_answers_as_the_whole() {
    let staged = cut("resnet50", &folder("resnet50"), 0, &["add_3_relu", "add_7_relu", "add_13_relu"]).unwrap();
    let entry = defer_models::find("resnet50").unwrap();
    let chain = Chain::start("resnet50", &staged);
    for (name, inputs) in entry.sample_inputs().unwrap() {
        assert_same(&chain.infer(&inputs).unwrap(), &staged.whole(&inputs), &name);
    }
    // Two pictures in one request: a batch that no stage was warmed up with.
    let mut samples = entry.sample_inputs().unwrap().into_iter().map(|(_, inputs)| inputs);
    let (mut both, second) = (samples.next().unwrap(), samples.next().unwrap());
    both[0].1.shape[0] = 2;
    both[0].1.data.extend(&second[0].1.data);
    assert_same(&chain.infer(&both).unwrap(), &staged.whole(&both), "two pictures");
    let metadata = http::Request::get(format!("{}/v2/models/resnet50", chain.url())).send().json();
    assert_eq!(metadata["inputs"], json!([{"name": "input", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]));
}
