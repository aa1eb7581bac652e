//! Slices in a row compute what the whole network computes, on the real engine.

use defer_host::artifact::{Artifact, Digest};
use defer_host::buffer::Pool;
use defer_host::build::{self, BuildError, BuildOptions, Built, Phase, Progress};
use defer_host::engine::{self, Choice, Engine, Model, Named, Options, Session};
use defer_host::pipeline::Pipeline;
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto,
    attribute_proto::AttributeType, tensor_proto::DataLocation,
};
use defer_partition::onnx::tensor_of;
use defer_partition::testing::{Random, op, random_model};
use defer_partition::{Atoms, DType, Dim, InputInfo, Network, Partition, Tensor, TensorInfo, fold, slice};
use prost::Message;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const ONE_THREAD: Options = Options { threads: 1 };
/// Folding rounds each weight once more than the file's own order of operations does.
const TOLERANCE: f64 = 1e-5;

fn engine() -> Arc<dyn Engine> {
    engine::open(Choice::Auto, None).unwrap()
}

fn load(engine: &dyn Engine, model: &ModelProto) -> Box<dyn Session> {
    let bytes = model.encode_to_vec();
    engine.load(Model { bytes: &bytes, weights_folder: None }, ONE_THREAD).unwrap()
}

fn run(session: &mut dyn Session, inputs: &[Named]) -> Vec<Named> {
    session.run(inputs, &Pool::new(0)).unwrap()
}

/// Values in -1..1, integers from -3 to 3.
fn random_inputs(random: &mut Random, inputs: &[InputInfo]) -> Vec<Named> {
    let tensor = |input: &InputInfo| {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            _ => 1,
        };
        let shape: Vec<usize> = input.dims.iter().map(size).collect();
        let mut data = Vec::new();
        for _ in 0..shape.iter().product() {
            match input.dtype {
                DType::Fp32 => data.extend(random.unit().to_le_bytes()),
                DType::Int64 => data.extend((random.below(7) as i64 - 3).to_le_bytes()),
                DType::Bool => data.push(random.below(2) as u8),
                other => panic!("no random values of {other}"),
            }
        }
        (input.name.clone(), Tensor::new(input.dtype, shape, data).unwrap())
    };
    inputs.iter().map(tensor).collect()
}

/// Largest difference relative to the largest value; everything that is no float must be equal.
fn difference(got: &[Named], want: &[Named]) -> f64 {
    let mut worst = 0.0f64;
    for (name, want) in want {
        let (_, got) = got.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no output {name}"));
        assert_eq!((got.dtype, &got.shape), (want.dtype, &want.shape), "{name}");
        let (Some(a), Some(b)) = (got.to_f32(), want.to_f32()) else {
            assert_eq!(got.data, want.data, "{name}");
            continue;
        };
        let scale = b.iter().fold(1e-3f64, |max, v| max.max(f64::from(v.abs())));
        for (a, b) in a.into_iter().zip(b) {
            if a.to_bits() != b.to_bits() {
                worst = worst.max((f64::from(a) - f64::from(b)).abs() / scale);
            }
        }
    }
    worst
}

/// One stage, with the names of what it computes from and of what it hands on.
type Link = (Box<dyn Session>, BTreeSet<String>, BTreeSet<String>);

/// Hands tensors from stage to stage: each gets what entered the chain or left the stage before, and nothing else.
/// `check` sees what enters and what leaves each.
fn chain(
    stages: &mut [Link],
    inputs: &[Named],
    check: &dyn Fn(usize, &HashMap<String, Tensor>, &HashMap<String, Tensor>),
) -> Vec<Named> {
    let mut entering: HashMap<String, Tensor> = inputs.iter().cloned().collect();
    for (index, (session, reads, forwards)) in stages.iter_mut().enumerate() {
        let named = |name: &String| (name.clone(), entering[name].clone());
        let given: Vec<Named> = reads.iter().map(named).collect();
        let mut leaving: HashMap<String, Tensor> = forwards.iter().map(named).collect();
        leaving.extend(run(session.as_mut(), &given));
        check(index, &entering, &leaving);
        entering = leaving;
    }
    entering.into_iter().collect()
}

fn set(names: &[String]) -> BTreeSet<String> {
    names.iter().cloned().collect()
}

/// Cuts `network` and compares the chain with `want`.
fn check_partition(
    engine: &dyn Engine,
    network: &Network,
    partition: &Partition,
    inputs: &[Named],
    want: &[Named],
    what: &str,
) {
    let crossing: Vec<&str> = partition.stages.iter().flat_map(|stage| stage.leaving()).collect();
    let traced = run(load(engine, &network.model_with_outputs(&crossing)).as_mut(), inputs);
    let known: HashMap<&str, &Tensor> = traced.iter().chain(inputs).map(|(name, t)| (name.as_str(), t)).collect();
    let describe = |name: &str| {
        let tensor = known.get(name)?;
        let shape = tensor.shape.iter().map(|&dim| dim as i64).collect();
        Some(TensorInfo { name: name.to_owned(), dtype: tensor.dtype, shape })
    };
    let mut stages: Vec<_> = partition
        .stages
        .iter()
        .map(|stage| {
            let model = slice::slice(network, stage, &describe).unwrap().embedded();
            let session = load(engine, &model);
            assert_eq!(set(&session.inputs()), set(&stage.inputs), "{what}");
            assert_eq!(set(&session.outputs()), set(&stage.outputs), "{what}");
            (session, set(&stage.inputs), set(&stage.forwards))
        })
        .collect();
    let got = chain(&mut stages, inputs, &|_, _, _| ());
    assert_eq!(got.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), set(network.outputs()), "{what}");
    let worst = difference(&got, want);
    assert!(worst <= TOLERANCE, "{what}: {worst}");
}

fn random_cuts(random: &mut Random, groups: usize) -> Vec<usize> {
    let stages = 1 + random.below(groups.min(6));
    let mut cuts = BTreeSet::new();
    while cuts.len() + 1 < stages {
        cuts.insert(random.below(groups - 1));
    }
    cuts.into_iter().collect()
}

#[test]
fn random_networks_compute_the_same_however_they_are_cut() {
    let engine = engine();
    for seed in 0..150 {
        let model = random_model(seed);
        let mut random = Random::new(seed ^ 0x5eed);
        let plain = Network::new(model.clone()).unwrap();
        let inputs = random_inputs(&mut random, plain.inputs());
        let want = run(load(engine.as_ref(), &model).as_mut(), &inputs);

        let mut folded = plain.clone();
        fold::fold(&mut folded);
        build::fold_constants(&mut folded, engine.as_ref(), ONE_THREAD).unwrap();
        let groups = Atoms::new(&folded);
        for _ in 0..2 {
            let cuts = random_cuts(&mut random, groups.atoms.len());
            let partition = Partition::new(&folded, &groups, &cuts).unwrap();
            check_partition(
                engine.as_ref(),
                &folded,
                &partition,
                &inputs,
                &want,
                &format!("seed {seed}, cuts {cuts:?}"),
            );
        }
        // Every node a stage of its own, nothing folded.
        let single = Atoms::single_nodes(&plain);
        let cuts: Vec<usize> = (0..single.atoms.len() - 1).collect();
        let partition = Partition::new(&plain, &single, &cuts).unwrap();
        check_partition(engine.as_ref(), &plain, &partition, &inputs, &want, &format!("seed {seed}, every node"));
    }
}

/// A pipeline on disk, each artifact loaded as a node loads it, but for the sandbox.
struct Chain {
    pipeline: Pipeline,
    stages: Vec<Link>,
    /// Mapped as long as the engine reads weights from them.
    artifacts: Vec<Artifact>,
}

impl Chain {
    fn open(engine: &dyn Engine, folder: &Path) -> Self {
        let pipeline = Pipeline::read(folder).unwrap();
        let names = |infos: &[TensorInfo]| infos.iter().map(|info| info.name.clone()).collect::<BTreeSet<_>>();
        let mut chain = Self { pipeline, stages: Vec::new(), artifacts: Vec::new() };
        for stage in &chain.pipeline.stages {
            let path = folder.join(&stage.file);
            assert_eq!(Digest::of(std::fs::File::open(&path).unwrap()).unwrap(), stage.digest);
            let artifact = Artifact::open(&path).unwrap();
            let manifest = &artifact.manifest;
            assert_eq!((manifest.index, manifest.count), (stage.index, chain.pipeline.stages.len()));
            assert_eq!(
                (&manifest.inputs, &manifest.outputs, &manifest.forwards),
                (&stage.inputs, &stage.outputs, &stage.forwards)
            );
            let graph = artifact.model().unwrap();
            let session = engine.load(Model { bytes: &graph, weights_folder: Some(folder) }, ONE_THREAD).unwrap();
            chain.stages.push((session, names(&manifest.inputs), names(&manifest.forwards)));
            chain.artifacts.push(artifact);
        }
        chain
    }

    /// Runs the chain; every tensor must be what the manifests say.
    fn run(&mut self, inputs: &[Named]) -> Vec<Named> {
        let fits = |infos: Vec<&TensorInfo>, tensors: &HashMap<String, Tensor>| {
            for info in infos {
                let tensor = &tensors[&info.name];
                assert!(info.dtype == tensor.dtype && info.admits(&tensor.shape), "{info} {:?}", tensor.shape);
            }
        };
        let artifacts = &self.artifacts;
        chain(&mut self.stages, inputs, &|index, entering, leaving| {
            fits(artifacts[index].manifest.entering(), entering);
            fits(artifacts[index].manifest.leaving(), leaving);
        })
    }
}

fn built(
    model: &str,
    stages: Option<usize>,
    cuts: &[&str],
    out: &Path,
    progress: &dyn Progress,
) -> Result<Built, BuildError> {
    let cuts = cuts.iter().map(|&cut| cut.to_owned()).collect();
    let options =
        BuildOptions { model: model.to_owned(), stages, out: Some(out.to_owned()), cuts, ..Default::default() };
    build::build(&options, engine().as_ref(), progress)
}

fn write_model(folder: &Path, name: &str, model: &ModelProto) -> String {
    let path = folder.join(name);
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn files(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn built_pipelines_of_random_networks_compute_the_same() {
    let engine = engine();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for seed in 1000..1025 {
        let model = random_model(seed);
        let file = write_model(dir.path(), "net.onnx", &model);
        let network = Network::new(model).unwrap();
        let inputs = random_inputs(&mut Random::new(seed), network.inputs());
        let built = match built(&file, Some(1 + seed as usize % 4), &[], &out, &()) {
            Err(BuildError::Plan(_)) => continue, // too few groups
            other => other.unwrap(),
        };
        assert_eq!(built.pipeline.stages.len(), 1 + seed as usize % 4);
        let want = run(build::load_whole(Path::new(&file), engine.as_ref(), ONE_THREAD).unwrap().as_mut(), &inputs);
        let mut chain = Chain::open(engine.as_ref(), &out);
        let needed: BTreeSet<&String> = chain.stages.iter().flat_map(|(_, reads, _)| reads).collect();
        let given: Vec<Named> = inputs.iter().filter(|(name, _)| needed.contains(name)).cloned().collect();
        let worst = difference(&chain.run(&given), &want);
        assert!(worst <= TOLERANCE, "seed {seed}: {worst}");
        // Nothing of an earlier build, and nothing temporary, is left.
        let mut expected: BTreeSet<String> = built.pipeline.stages.iter().map(|stage| stage.file.clone()).collect();
        expected.insert("pipeline.json".to_owned());
        assert_eq!(files(&out), expected, "seed {seed}");
    }
}

/// The catalogue's model, if it can be had here.
fn fetched(name: &str) -> Option<PathBuf> {
    match defer_models::find(name).unwrap().fetch(&mut |line| println!("{line}")) {
        Ok(path) => Some(path),
        Err(error) => {
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

#[derive(Default)]
struct Heard {
    warnings: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
    phases: Mutex<Vec<Phase>>,
}

impl Progress for Heard {
    fn phase(&self, phase: Phase, _: usize) {
        self.phases.lock().unwrap().push(phase);
    }
    fn step(&self) {}
    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }
    fn warning(&self, line: &str) {
        self.warnings.lock().unwrap().push(line.to_owned());
    }
}

/// FP32 inputs and outputs, operator set 13, and one node of another domain allowed.
fn model(inputs: &[InputInfo], outputs: &[&str], nodes: Vec<NodeProto>) -> ModelProto {
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let output = |name: &&str| ValueInfoProto { name: Some((*name).into()), ..Default::default() };
    let graph = GraphProto {
        name: Some("net".into()),
        node: nodes,
        input: inputs.iter().map(InputInfo::value_info).collect(),
        output: outputs.iter().map(output).collect(),
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", 13), import("org.example", 3)],
        graph: Some(graph),
        ..Default::default()
    }
}

fn input(name: &str, dims: Vec<Dim>) -> InputInfo {
    InputInfo { name: name.into(), dtype: DType::Fp32, dims }
}

fn symbol(name: &str) -> Dim {
    Dim::Symbol(name.into())
}

fn with_int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    let r#type = Some(AttributeType::Int as i32);
    node.attribute.push(AttributeProto { name: Some(name.into()), r#type, i: Some(value), ..Default::default() });
    node
}

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

/// Two convolutions with all that can be fused into them, of any number of rows.
fn conv_model() -> ModelProto {
    let weights = |name: &str| {
        let mut random = Random::new(7);
        let values: Vec<f32> = (0..2 * 2 * 3 * 3).map(|_| random.unit()).collect();
        tensor_of(name, Tensor::from_f32(vec![2, 2, 3, 3], &values).unwrap())
    };
    let nodes = vec![
        op("Conv", &["x", "w1"], &["a"]),
        op("Relu", &["a"], &["b"]),
        op("Conv", &["b", "w2"], &["c"]),
        op("Add", &["c", "b2"], &["d"]),
        op("Relu", &["d"], &["y"]),
    ];
    let mut net = model(&[input("x", vec![Dim::Fixed(1), Dim::Fixed(2), symbol("h"), Dim::Fixed(9)])], &["y"], nodes);
    let bias = tensor_of("b2", Tensor::from_f32(vec![1, 2, 1, 1], &[0.5, -0.25]).unwrap());
    net.graph.as_mut().unwrap().initializer = vec![weights("w1"), weights("w2"), bias];
    net
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
    assert!(phases.is_sorted() && phases.len() == 6, "{phases:?}");
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
