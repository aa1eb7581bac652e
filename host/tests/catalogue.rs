//! The networks of the catalogue in chains of 2, 4 and 8 nodes, the heaviest in one of them: each answers as the whole
//! network does.
//!
//! Eight nodes run throughout; the pipelines of all networks come to them one after the other. The cuts fall at even
//! distances, whatever crosses there, without the measurements of `build-stages`, which other tests make.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod support;

use defer_host::artifact::{self, Digest, FORMAT, Manifest};
use defer_host::buffer::Pool;
use defer_host::build::{GUEST, fold_constants};
use defer_host::engine::{Model, Named, Options};
use defer_host::pipeline::{self, ModelRef, Pipeline, PlanRef, StageRef};
use defer_models::{Entry, catalogue};
use defer_partition::cut::crossings;
use defer_partition::{Atoms, Network, Partition, Tensor, TensorInfo, fold, onnx, slice};
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;
use support::chain::{Node, spawn_dispatcher};
use support::networks::{Staged, assert_same, engine};
use support::{PATIENCE, folder, http};

/// The lengths of the chains that a network is served by. Those of half a gigabyte would take most of the time.
fn chains(name: &str) -> &'static [usize] {
    match name {
        "vgg16" => &[4],
        "vgg19" => &[2],
        _ => &[2, 4, 8],
    }
}

/// The network's file, if it can be had; where CI runs, it must be.
fn fetched(entry: &Entry) -> Option<PathBuf> {
    match entry.fetch(&mut |line| println!("{line}")) {
        Ok(file) => Some(file),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{} cannot be had: {error}", entry.name);
            println!("SKIPPED: {} cannot be had: {error}", entry.name);
            None
        }
    }
}

/// A network as `build-stages` prepares it, and all that may cross a cut as one real run had it.
struct Prepared {
    name: &'static str,
    file: PathBuf,
    network: Network,
    atoms: Atoms,
    seen: HashMap<String, Tensor>,
}

impl Prepared {
    fn new(entry: &Entry, file: PathBuf, inputs: &[Named]) -> Self {
        let engine = engine();
        let mut network = Network::new(onnx::read(&file).unwrap()).unwrap();
        fold::fold(&mut network);
        fold_constants(&mut network, engine.as_ref(), Options::new(1)).unwrap();
        let atoms = Atoms::new(&network);
        let bytes = network.model_with_outputs(&crossings(&network, &atoms).concat()).encode_to_vec();
        let mut whole = engine.load(Model { bytes: &bytes, weights_folder: None }, Options::new(1)).unwrap();
        let seen = whole.run(inputs, &Pool::new(0)).unwrap().into_iter().chain(inputs.iter().cloned()).collect();
        Self { name: entry.name, file, network, atoms, seen }
    }

    /// What a manifest says of a tensor: any size of its dimensions is taken.
    fn info(&self, name: &str) -> TensorInfo {
        let tensor = &self.seen[name];
        TensorInfo { name: name.to_owned(), dtype: tensor.dtype, shape: vec![-1; tensor.shape.len()] }
    }

    /// Cuts it into `count` stages of as many fusion groups each as possible, and writes them into `folder`.
    fn cut(&self, count: usize, folder: &Path) -> Staged {
        let groups = self.atoms.atoms.len();
        let boundaries: Vec<usize> = (1..count).map(|at| at * groups / count - 1).collect();
        let partition = Partition::new(&self.network, &self.atoms, &boundaries).unwrap();
        let infos = |names: &[String]| names.iter().map(|name| self.info(name)).collect::<Vec<_>>();
        // Network inputs are declared as in the file.
        let is_input = |name: &str| self.network.inputs().iter().any(|input| input.name == name);
        let describe = |name: &str| (!is_input(name)).then(|| self.info(name));
        let stages = partition.stages.iter().map(|stage| {
            let slice = slice::slice(&self.network, stage, &describe).unwrap();
            let manifest = Manifest {
                format: FORMAT,
                pipeline: self.name.to_owned(),
                index: stage.index,
                count,
                inputs: infos(&stage.inputs),
                outputs: infos(&stage.outputs),
                forwards: infos(&stage.forwards),
                model_digest: "0".repeat(64),
                warm_up: stage.inputs.iter().map(|name| self.seen[name].shape.clone()).collect(),
                graph_bytes: 0,
                weights_bytes: 0,
                activation_peak_bytes: None,
            };
            let file = format!("stage-{}.wasm", stage.index);
            let mut bytes = Vec::new();
            artifact::write(&mut bytes, GUEST, manifest.clone(), &slice).unwrap();
            std::fs::write(folder.join(&file), &bytes).unwrap();
            StageRef {
                index: stage.index,
                file,
                digest: Digest::of(&bytes[..]).unwrap(),
                inputs: manifest.inputs,
                outputs: manifest.outputs,
                forwards: manifest.forwards,
                weights_bytes: slice.weights_len,
                predicted_ms: 0.0,
                decode_ms: None,
                encode_ms: None,
                replicas: None,
                nodes: None,
                codec: None,
                lossy: Vec::new(),
            }
        });
        let pipeline = Pipeline {
            format: pipeline::FORMAT,
            name: self.name.to_owned(),
            model: ModelRef { digest: "0".repeat(64), file: self.file.display().to_string() },
            inputs: self.network.inputs().iter().map(|input| input.info()).collect(),
            outputs: infos(self.network.outputs()),
            stages: stages.collect(),
            plan: PlanRef { bottleneck_ms: 0.0, lower_bound_ms: 0.0, throughput_rps: None, latency_ms: None },
            accuracy: None,
        };
        pipeline.write(folder).unwrap();
        Staged { file: self.file.clone(), folder: folder.to_owned(), pipeline }
    }
}

/// A network that was cut, and its samples with what the whole makes of them.
struct Case {
    staged: Staged,
    samples: Vec<(String, Vec<Named>, Vec<Named>)>,
}

/// Cuts all networks, and computes what the answers should be.
fn cases(each: impl Fn(Case)) {
    for entry in catalogue() {
        let Some(file) = fetched(entry) else { continue };
        let samples = entry.sample_inputs().unwrap();
        let prepared = Prepared::new(entry, file, &samples[0].1);
        let mut wanted = None;
        for &count in chains(entry.name) {
            let staged = prepared.cut(count, &folder(&format!("catalogue-{}-{count}", entry.name)));
            let samples = wanted.get_or_insert_with(|| {
                let inputs: Vec<&[Named]> = samples.iter().map(|(_, inputs)| inputs.as_slice()).collect();
                let samples = samples.iter().cloned().zip(staged.whole_all(&inputs));
                samples.map(|((name, inputs), want)| (name, inputs, want)).collect::<Vec<_>>()
            });
            each(Case { samples: samples.clone(), staged });
        }
    }
}

#[test]
fn every_network_answers_in_2_4_and_8_nodes_as_the_whole() {
    let folder = folder("catalogue-nodes");
    let nodes: Vec<Node> = (0..8).map(|index| Node::start(&folder, &format!("n{index}"), &[])).collect();
    let started = Instant::now();
    let mut served: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    // The next network is cut while this one is asked.
    let (sender, cut) = sync_channel(1);
    thread::scope(|scope| {
        scope.spawn(move || cases(|case| sender.send(case).unwrap()));
        for (turn, Case { staged, samples }) in cut.into_iter().enumerate() {
            let (name, count) = (staged.name().to_owned(), staged.pipeline.stages.len());
            // Not always the same nodes, nor in the same order.
            let chosen: Vec<&Node> = (0..count).map(|at| &nodes[(turn + at) % nodes.len()]).collect();
            let mut dispatcher = spawn_dispatcher(&staged, &chosen, &[]);
            dispatcher.wait_listening(&["inference"], PATIENCE).unwrap();
            for (sample, inputs, want) in &samples {
                let what = format!("{name} in {count} nodes, {sample}");
                let got = http::infer(dispatcher.address("inference"), &name, inputs);
                assert_same(&got.unwrap_or_else(|refusal| panic!("{what}: {refusal:?}")), want, &what);
            }
            if name == "bert-mini" && count > 2 {
                let handed_on = |info: &TensorInfo| info.name == "attention_mask";
                let before_the_last_layer = &staged.pipeline.stages[..count - 2];
                assert!(before_the_last_layer.iter().all(|stage| stage.forwards.iter().any(handed_on)), "{count}");
            }
            assert!(dispatcher.terminate().is_some_and(|status| status.success()), "{name} in {count}");
            println!("{name} in {count}: {} s", started.elapsed().as_secs());
            served.entry(name).or_default().push(count);
        }
    });
    assert!(served.iter().all(|(name, counts)| counts == chains(name)), "{served:?}");
    // The generated ones need no download, and are served in any case.
    let generated = ["resnet50", "mobilenetv2", "bert-mini", "vgg16", "vgg19"];
    assert!(generated.iter().all(|name| served.contains_key(*name)), "{served:?}");
    for node in &nodes {
        assert!(node.stages().is_empty(), "{} kept a stage", node.name);
    }
}
