//! Both engines compute the same: on every network of the catalogue, whole and in slices, and on random networks.

use super::support::*;
use defer_host::build;
use defer_host::engine::{self, Choice, Engine, Model};
use defer_partition::Network;
use defer_partition::testing::{Random, random_model};
use prost::Message as _;
use std::sync::Arc;

/// Engines add up in different orders; deep networks carry that on.
const BETWEEN_ENGINES: f64 = 2e-4;

pub fn both() -> [Arc<dyn Engine>; 2] {
    [Choice::OnnxRuntime, Choice::Tract].map(|choice| engine::open(choice, None).unwrap())
}

#[test]
fn the_catalogues_networks_compute_the_same_on_both_engines() {
    let [onnxruntime, tract] = both();
    for name in ["ocr-cls", "ocr-rec", "ocr-det", "resnet50", "mobilenetv2", "bert-mini"] {
        let Some(file) = super::catalogue::fetched(name) else { continue };
        let started = std::time::Instant::now();
        let samples = defer_models::find(name).unwrap().sample_inputs().unwrap();
        let (_, inputs) = &samples[0];
        let run_on = |engine: &dyn Engine| {
            let mut whole = build::load_whole(&file, engine, ONE_THREAD).unwrap();
            run(whole.as_mut(), inputs)
        };
        let want = run_on(onnxruntime.as_ref());
        let whole = difference(&run_on(tract.as_ref()), &want);
        println!("{name}: whole {whole:.1e}, {:?}", started.elapsed());
        let dir = tempfile::tempdir().unwrap();
        built(name, Some(3), &[], dir.path(), &()).unwrap();
        let sliced = difference(&Chain::open(tract.as_ref(), dir.path()).run(inputs), &want);
        println!("{name}: {whole:.1e} whole, {sliced:.1e} in slices, {:?}", started.elapsed());
        assert!(whole.max(sliced) <= BETWEEN_ENGINES, "{name}: {whole}, in slices {sliced}");
    }
}

/// The VGGs are too large for slices of them in every test run: of the two, one, whole.
#[test]
fn a_vgg_computes_the_same_on_both_engines() {
    let file = super::catalogue::fetched("vgg16").expect("it is generated");
    let samples = defer_models::find("vgg16").unwrap().sample_inputs().unwrap();
    let (_, inputs) = &samples[0];
    let [want, got] = both().map(|engine| {
        let mut whole = build::load_whole(&file, engine.as_ref(), ONE_THREAD).unwrap();
        run(whole.as_mut(), inputs)
    });
    let worst = difference(&got, &want);
    println!("vgg16: {worst:.1e} whole");
    assert!(worst <= BETWEEN_ENGINES, "{worst}");
}

#[test]
fn random_networks_compute_the_same_on_both_engines() {
    let [onnxruntime, tract] = both();
    let mut refused = Vec::new();
    for seed in 0..150 {
        let model = random_model(seed);
        let network = Network::new(model.clone()).unwrap();
        let inputs = random_inputs(&mut Random::new(seed), network.inputs());
        let want = run(load(onnxruntime.as_ref(), &model).as_mut(), &inputs);
        let bytes = model.encode_to_vec();
        match tract.load(Model { bytes: &bytes, weights_folder: None }, ONE_THREAD) {
            Ok(mut session) => {
                let worst = difference(&run(session.as_mut(), &inputs), &want);
                assert!(worst <= TOLERANCE, "seed {seed}: {worst}");
            }
            // tract's own limit: it gives every `If` of a graph the same name.
            Err(error) => {
                println!("seed {seed}: {error}");
                refused.push(seed);
                let branches = network.nodes().iter().filter(|node| node.proto.op_type() == "If").count();
                assert!(branches > 1 && error.to_string().ends_with("Duplicate node name: If"), "seed {seed}: {error}");
            }
        }
    }
    assert!(refused.len() < 40, "{refused:?}");
}
