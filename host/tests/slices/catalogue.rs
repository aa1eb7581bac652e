//! The networks of the catalogue, with their sample pictures.

use super::support::*;
use defer_host::build;
use defer_host::engine::Named;
use std::path::{Path, PathBuf};

/// The catalogue's model, if it can be had here; where CI runs, it must be.
pub fn fetched(name: &str) -> Option<PathBuf> {
    match defer_models::find(name).unwrap().fetch(&mut |line| println!("{line}")) {
        Ok(path) => Some(path),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{name} cannot be had: {error}");
            println!("skipped: {error}");
            None
        }
    }
}

fn check_samples(name: &str, model: &Path, counts: &[usize]) {
    let engine = engine();
    let samples = defer_models::find(name).unwrap().sample_inputs().unwrap();
    let mut whole = build::load_whole(model, engine.as_ref(), ONE_THREAD).unwrap();
    let wanted: Vec<Vec<Named>> = samples.iter().map(|(_, inputs)| run(whole.as_mut(), inputs)).collect();
    let dir = tempfile::tempdir().unwrap();
    for &count in counts {
        let built = built(name, Some(count), &[], dir.path(), &()).unwrap();
        print!("{}", built.table());
        let mut chain = Chain::open(engine.as_ref(), dir.path());
        for ((sample, inputs), want) in samples.iter().zip(&wanted) {
            let worst = difference(&chain.run(inputs), want);
            println!("{sample} {:?}: {worst:.1e}", inputs[0].1.shape);
            assert!(worst <= TOLERANCE, "{name} in {count} stages, {sample}: {worst}");
        }
    }
}

#[test]
fn text_recognition_takes_pictures_of_any_width_in_any_number_of_stages() {
    let Some(model) = fetched("ocr-rec") else { return };
    check_samples("ocr-rec", &model, &[2, 3, 5, 8]);
}

#[test]
fn resnet50_in_four_stages_computes_the_same() {
    let model = fetched("resnet50").expect("it is generated");
    check_samples("resnet50", &model, &[4]);
}

#[test]
fn the_other_trained_networks_compute_the_same_in_stages() {
    for (name, counts) in [("ocr-cls", &[2, 4, 8][..]), ("ocr-det", &[4])] {
        let Some(model) = fetched(name) else { return };
        check_samples(name, &model, counts);
    }
}

/// Depthwise convolutions; several integer inputs, two open dimensions, and a mask that every layer needs.
#[test]
fn the_small_generated_networks_compute_the_same_in_stages() {
    for name in ["mobilenetv2", "bert-mini"] {
        let model = fetched(name).expect("it is generated");
        check_samples(name, &model, &[2, 4, 8]);
    }
}
