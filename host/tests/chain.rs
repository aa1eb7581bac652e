//! A chain of processes answers what the whole network computes, whatever is cut where.

mod support;

use defer_host::engine::Named;
use defer_models::{Answer, Processor, samples};
use serde_json::json;
use std::path::Path;
use std::thread;
use support::chain::{Chain, Node};
use support::networks::{Staged, assert_same, cut, ladder, stage, tour};
use support::{folder, http};

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
            for stage in &staged.pipeline.stages[1..4] {
                let forwards: Vec<&str> = stage.forwards.iter().map(|info| info.name.as_str()).collect();
                assert!(forwards.contains(&"sum") && forwards.contains(&"early"), "stage {}: {forwards:?}", stage.index);
            }
        }
        for codec in ["raw", "lz4"] {
            let chain = Chain::start_with(&format!("{name}-{codec}"), &staged, &[], &["--codec", codec]);
            check(&chain, &staged, 0..4);
            for slot in chain.nodes.iter().flat_map(Node::stages) {
                assert_eq!(slot["codec"], codec);
            }
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
            let chain = &chain;
            scope.spawn(move || {
                for _ in 0..4 {
                    let got = chain.infer(request).expect("an answer");
                    assert_same(&got, want, "one of many");
                }
            });
        }
    });
    let counters = chain.admin()["counters"].clone();
    assert_eq!((&counters["accepted"], &counters["answered"]), (&json!(128), &json!(128)), "{counters}");
}

#[test]
fn a_cut_goes_where_it_is_told() {
    let staged = stage("told", &ladder(5), 0, &["t1", "t4"]);
    let leaving: Vec<&str> = staged.pipeline.stages.iter().map(|stage| stage.outputs[0].name.as_str()).collect();
    assert_eq!(leaving, ["t1", "t4", "y"]);
    check(&Chain::start("told", &staged), &staged, 0..2);
}

/// The trained network, if it can be had.
fn trained() -> Option<Staged> {
    let entry = defer_models::find("ocr-rec").expect("it is in the catalogue");
    match entry.fetch(&mut |line| eprintln!("{line}")) {
        Ok(_) => Some(cut("ocr-rec", &folder("ocr-rec"), 4, &[]).expect("it can be cut")),
        Err(error) => {
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
    let inputs = support::networks::random_inputs(&staged.pipeline.inputs, 5, 0);
    let mut shape = inputs[0].1.shape.clone();
    (shape[0], shape[2], shape[3]) = (1, 48, 416);
    let values: Vec<f32> = (0..shape.iter().product()).map(|at: usize| (at as f32 * 0.37).sin()).collect();
    let odd = vec![("x".to_owned(), defer_partition::Tensor::from_f32(shape, &values).unwrap())];
    assert_same(&chain.infer(&odd).unwrap(), &staged.whole(&odd), "width 416");
}

#[test]
fn resnet50_in_four_stages_answers_as_the_whole() {
    let staged = cut("resnet50", &folder("resnet50"), 0, &["add_3_relu", "add_7_relu", "add_13_relu"]).unwrap();
    let entry = defer_models::find("resnet50").unwrap();
    let chain = Chain::start("resnet50", &staged);
    for (name, inputs) in entry.sample_inputs().unwrap() {
        assert_same(&chain.infer(&inputs).unwrap(), &staged.whole(&inputs), &name);
    }
    assert!(Path::new(&staged.file).is_file());
    let metadata = http::Request::get(format!("{}/v2/models/resnet50", chain.url())).send().json();
    assert_eq!(metadata["inputs"], json!([{"name": "input", "datatype": "FP32", "shape": [1, 3, 224, 224]}]));
}
