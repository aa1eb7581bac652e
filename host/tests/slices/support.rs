//! Loading, running and comparing.

use defer_host::artifact::{Artifact, Digest};
use defer_host::buffer::Pool;
use defer_host::build::{self, BuildError, BuildOptions, Built, Phase, Progress};
use defer_host::engine::{self, Choice, Engine, Model, Named, Options, Session};
use defer_host::pipeline::Pipeline;
use defer_partition::onnx::proto::ModelProto;
use defer_partition::testing::Random;
use defer_partition::{DType, Dim, InputInfo, Tensor, TensorInfo};
use prost::Message;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

pub const ONE_THREAD: Options = Options::new(1);

/// Folding rounds each weight once more than the file's own order of operations does.
pub const TOLERANCE: f64 = 1e-5;

pub fn engine() -> Arc<dyn Engine> {
    engine::open(Choice::Auto, None).unwrap()
}

pub fn load(engine: &dyn Engine, model: &ModelProto) -> Box<dyn Session> {
    let bytes = model.encode_to_vec();
    engine.load(Model { bytes: &bytes, weights_folder: None }, ONE_THREAD).unwrap()
}

pub fn run(session: &mut dyn Session, inputs: &[Named]) -> Vec<Named> {
    session.run(inputs, &Pool::new(0)).unwrap()
}

/// Values in -1..1, integers from -3 to 3.
pub fn random_inputs(random: &mut Random, inputs: &[InputInfo]) -> Vec<Named> {
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
pub fn difference(got: &[Named], want: &[Named]) -> f64 {
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
pub type Link = (Box<dyn Session>, BTreeSet<String>, BTreeSet<String>);

/// What is under way between two stages.
pub type Tensors = HashMap<String, Tensor>;

/// Hands tensors from stage to stage: each gets what entered the chain or left the stage before, and nothing else.
/// `check` sees what enters and what leaves each.
pub fn chain(stages: &mut [Link], inputs: &[Named], check: &dyn Fn(usize, &Tensors, &Tensors)) -> Vec<Named> {
    let mut entering: Tensors = inputs.iter().cloned().collect();
    for (index, (session, reads, forwards)) in stages.iter_mut().enumerate() {
        let named = |name: &String| (name.clone(), entering[name].clone());
        let given: Vec<Named> = reads.iter().map(named).collect();
        let mut leaving: Tensors = forwards.iter().map(named).collect();
        leaving.extend(run(session.as_mut(), &given));
        check(index, &entering, &leaving);
        entering = leaving;
    }
    entering.into_iter().collect()
}

pub fn set(names: &[String]) -> BTreeSet<String> {
    names.iter().cloned().collect()
}

/// A pipeline on disk, each artifact loaded as a node loads it, but for the sandbox.
pub struct Chain {
    pub pipeline: Pipeline,
    pub stages: Vec<Link>,
    /// Mapped as long as the engine reads weights from them.
    pub artifacts: Vec<Artifact>,
}

impl Chain {
    pub fn open(engine: &dyn Engine, folder: &Path) -> Self {
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
    pub fn run(&mut self, inputs: &[Named]) -> Vec<Named> {
        let fits = |infos: Vec<&TensorInfo>, tensors: &Tensors| {
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

pub fn built(
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

pub fn write_model(folder: &Path, name: &str, model: &ModelProto) -> String {
    let path = folder.join(name);
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path.to_str().unwrap().to_owned()
}

pub fn files(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[derive(Default)]
pub struct Heard {
    pub warnings: Mutex<Vec<String>>,
    pub notes: Mutex<Vec<String>>,
    pub phases: Mutex<Vec<Phase>>,
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
