use defer_host::artifact::Artifact;
use defer_host::buffer::Pool;
use defer_host::build::{self, BuildOptions};
use defer_host::engine::{self, Choice, Model, Options, Prepacking};
use defer_host::telemetry::Memory;
use std::path::Path;
use std::time::Instant;
#[test]
fn measure() {
    let name = std::env::var("M").unwrap();
    let stages: usize = std::env::var("N").unwrap_or("1".into()).parse().unwrap();
    let which = std::env::var("P").unwrap();
    let out = format!("/tmp/eng/{name}-{stages}");
    let engine = engine::open(Choice::OnnxRuntime, None).unwrap();
    if !Path::new(&out).join("pipeline.json").exists() {
        let options = BuildOptions {
            model: name.clone(),
            stages: Some(stages),
            out: Some(out.clone().into()),
            ..Default::default()
        };
        build::build(&options, engine.as_ref(), &()).unwrap();
        println!("built; run again");
        return;
    }
    for index in 0..stages {
        let before = Memory::now();
        let artifact = Artifact::open(&Path::new(&out).join(format!("stage-{index}.wasm"))).unwrap();
        let graph = artifact.model().unwrap();
        let started = Instant::now();
        let options =
            Options { prepacking: if which == "on" { Prepacking::On } else { Prepacking::Off }, ..Options::new(1) };
        let mut session =
            engine.load(Model { bytes: &graph, weights_folder: artifact.path().parent() }, options).unwrap();
        let load = started.elapsed();
        let inputs = engine::zeros(&artifact.manifest.inputs, &artifact.manifest.warm_up).unwrap();
        let pool = Pool::new(128 << 20);
        let mut times = vec![];
        for _ in 0..std::env::var("R").unwrap_or("20".into()).parse().unwrap() {
            let started = Instant::now();
            for (_, t) in session.run(&inputs, &pool).unwrap() {
                pool.give(t.data)
            }
            times.push(started.elapsed());
        }
        times.sort();
        let after = Memory::now();
        println!(
            "{name} {index}/{stages} prepack {which}: weights {:.1} MB load {load:.2?} best {:.2?} median {:.2?} anon +{:.1} MB, rss {:.1} peak {:.1} MB",
            artifact.manifest.weights_bytes as f64 / 1e6,
            times[0],
            times[times.len() / 2],
            (after.anonymous_bytes as f64 - before.anonymous_bytes as f64) / 1e6,
            after.resident_bytes as f64 / 1e6,
            after.peak_bytes as f64 / 1e6
        );
    }
}
