//! Versions of one trained network that can be told apart by their answers, and what each answers.
//!
//! Behind each cut a factor is multiplied in, so that three numbers name a version: which factor stands behind each cut.
//! A pipeline always changes the first two together, so an answer in which they differ was made by two generations.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use defer_host::artifact::Digest;
use defer_host::buffer::Pool;
use defer_host::build::{self, BuildOptions};
use defer_host::engine::{self, Choice, Engine, Named, Options};
use defer_host::pipeline::Pipeline;
use defer_partition::onnx::proto::{ModelProto, NodeProto};
use defer_partition::onnx::{self, tensor_of};
use defer_partition::{DType, Dim, InputInfo, Tensor};
use prost::Message as _;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// The smallest trained network of the catalogue: requests take a millisecond, so that many flow.
pub const MODEL: &str = "ocr-cls";
/// Where it is cut: sums of two branches, of one tensor each.
const CUTS: [&str; 3] = ["elementwise_add_1", "elementwise_add_4", "elementwise_add_5"];
/// What may be multiplied in behind a cut.
const FACTORS: [f32; 3] = [1.0, 1.6, 0.6];
/// Pipelines; the last one has a stage fewer.
pub const PIPELINES: usize = 3;
/// Versions of the last stage.
pub const ENDS: usize = 2;
/// Inputs that are asked.
const REQUESTS: usize = 4;
/// Answers within this, over the largest value, are the same.
const SAME: f32 = 1e-4;
/// Answers of different versions differ by at least so much.
const APART: f32 = 1e-3;

/// Which factor stands behind each cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    pub first: usize,
    pub second: usize,
    pub end: usize,
}

impl Version {
    pub fn of(pipeline: usize, end: usize) -> Self {
        Self { first: pipeline, second: pipeline, end }
    }

    /// Whether stages of two generations made it.
    pub fn is_mixed(self) -> bool {
        self.first != self.second
    }

    fn all() -> impl Iterator<Item = Self> {
        (0..PIPELINES * PIPELINES * ENDS).map(|i| Self {
            first: i / (PIPELINES * ENDS),
            second: i / ENDS % PIPELINES,
            end: i % ENDS,
        })
    }

    fn factors(self) -> [f32; 3] {
        [FACTORS[self.first], FACTORS[self.second], FACTORS[self.end]]
    }
}

/// All versions, cut, with their answers.
pub struct Versions {
    pub requests: Vec<Vec<Named>>,
    /// By request: what each version answers.
    answers: Vec<Vec<(Version, Vec<f32>)>>,
    cut: HashMap<Version, (PathBuf, Pipeline)>,
    /// What a stage with this digest brings along: the pipeline where it has the first two factors, the end where it has
    /// the last.
    meaning: HashMap<String, (Option<usize>, Option<usize>)>,
}

impl Versions {
    /// Makes them under `folder`. Blocks for some seconds.
    pub fn make(folder: &Path, note: &mut dyn FnMut(&str)) -> Result<Self> {
        let entry = defer_models::find(MODEL).context("the catalogue lacks its smallest network")?;
        let original = onnx::read(&entry.fetch(note)?)?;
        let requests: Vec<Vec<Named>> =
            entry.sample_inputs()?.into_iter().map(|(_, inputs)| inputs).take(REQUESTS).collect();
        let (_, picture) = requests.first().and_then(|inputs| inputs.first()).context("the network has no samples")?;
        let engine = engine::open(Choice::Auto, None)?;
        let mut answers = vec![Vec::new(); requests.len()];
        let mut cut = HashMap::new();
        let mut meaning = HashMap::new();
        let make = &|version: Version| {
            let place = folder.join(format!("{}{}{}", version.first, version.second, version.end));
            make(version, &place, scaled(&original, version.factors(), &picture.shape)?, &requests, engine.as_ref())
        };
        // Side by side: most of the time goes into cutting.
        let made: Vec<Result<Made>> = thread::scope(|scope| {
            let all: Vec<_> = Version::all().map(|version| scope.spawn(move || make(version))).collect();
            all.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))).collect()
        });
        for (version, made) in Version::all().zip(made) {
            let Made { values, pipeline } = made?;
            answers.iter_mut().zip(values).for_each(|(all, values)| all.push((version, values)));
            let Some((out, pipeline)) = pipeline else { continue };
            for stage in &pipeline.stages {
                let pair = (stage.index > 0 && stage.index + 1 < pipeline.stages.len()).then_some(version.first);
                let end = (stage.index + 1 == pipeline.stages.len()).then_some(version.end);
                meaning.insert(stage.digest.to_string(), (pair, end));
            }
            cut.insert(version, (out, pipeline));
        }
        for (at, answers) in answers.iter().enumerate() {
            for (i, (a, one)) in answers.iter().enumerate() {
                for (b, other) in &answers[..i] {
                    let apart = difference(one, other);
                    ensure!(apart > APART, "answers of {a:?} and {b:?} to request {at} differ by {apart} only");
                }
            }
        }
        Ok(Self { requests, answers, cut, meaning })
    }

    /// The folder and the pipeline of `version`.
    pub fn pipeline(&self, version: Version) -> &(PathBuf, Pipeline) {
        &self.cut[&version]
    }

    /// Which version answers request `at` so.
    pub fn made(&self, at: usize, answer: &[f32]) -> Option<Version> {
        self.answers[at].iter().find(|(_, known)| difference(answer, known) < SAME).map(|(version, _)| *version)
    }

    /// The version that stages with these digests are.
    pub fn running(&self, digests: &[String]) -> Option<Version> {
        let meant: Vec<_> = digests.iter().map(|digest| self.meaning.get(digest)).collect::<Option<_>>()?;
        let pair = meant.iter().find_map(|(pair, _)| *pair)?;
        Some(Version::of(pair, meant.iter().find_map(|(_, end)| *end)?))
    }

    /// Bytes of the artifact of stage `index` of `version`.
    pub fn artifact(&self, version: Version, index: usize) -> Result<Vec<u8>> {
        let (folder, pipeline) = self.pipeline(version);
        Ok(fs::read(folder.join(&pipeline.stages[index].file))?)
    }

    /// `version` with a stage that is no stage, and that one's file.
    pub fn broken(&self, version: Version, folder: &Path) -> Result<(Pipeline, PathBuf)> {
        let mut pipeline = self.pipeline(version).1.clone();
        let mut bytes = self.artifact(version, 1)?;
        bytes.truncate(bytes.len() / 2);
        let digest = Digest::of(&bytes[..])?;
        let file = folder.join(digest.short());
        fs::write(&file, bytes)?;
        pipeline.stages[1].digest = digest;
        Ok((pipeline, file))
    }
}

/// A version: what it answers to each request, and what it was cut into where it is one that runs.
struct Made {
    values: Vec<Vec<f32>>,
    pipeline: Option<(PathBuf, Pipeline)>,
}

fn make(
    version: Version,
    place: &Path,
    model: ModelProto,
    requests: &[Vec<Named>],
    engine: &dyn Engine,
) -> Result<Made> {
    fs::create_dir_all(place)?;
    let file = place.join(format!("{MODEL}.onnx"));
    fs::write(&file, model.encode_to_vec())?;
    let mut whole = build::load_whole(&file, engine, Options::new(1))?;
    let mut values = Vec::new();
    for inputs in requests {
        let answer = whole.run(inputs, &Pool::new(0))?;
        values.push(answer.first().and_then(|(_, tensor)| tensor.to_f32()).context("no answer in FP32")?);
    }
    if version.is_mixed() {
        return Ok(Made { values, pipeline: None });
    }
    let short = version.first + 1 == PIPELINES;
    let cuts = if short { vec![CUTS[0], CUTS[2]] } else { CUTS.to_vec() };
    let out = place.join("stages");
    let options = BuildOptions {
        model: file.to_str().context("the folder for temporary files is not UTF-8")?.to_owned(),
        out: Some(out.clone()),
        cuts: cuts.into_iter().map(str::to_owned).collect(),
        ..BuildOptions::default()
    };
    let pipeline = build::build(&options, engine, &())?.pipeline;
    Ok(Made { values, pipeline: Some((out, pipeline)) })
}

/// The largest difference of two answers, over the larger one's largest value.
fn difference(one: &[f32], other: &[f32]) -> f32 {
    if one.len() != other.len() {
        return f32::INFINITY;
    }
    let largest = one.iter().chain(other).fold(1e-6f32, |largest, value| largest.max(value.abs()));
    one.iter().zip(other).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// The network with a factor behind each cut, for inputs of one shape; it ends before its softmax, which would press all
/// answers into 0 and 1.
fn scaled(original: &ModelProto, factors: [f32; 3], shape: &[usize]) -> Result<ModelProto> {
    let mut model = original.clone();
    let graph = model.graph.as_mut().context("the network has no graph")?;
    for (tensor, factor) in CUTS.into_iter().zip(factors) {
        let (scaled, name) = (format!("{tensor}.scaled"), format!("{tensor}.factor"));
        for node in &mut graph.node {
            node.input.iter_mut().filter(|input| *input == tensor).for_each(|input| input.clone_from(&scaled));
        }
        let at = graph.node.iter().position(|node| node.output.iter().any(|output| output == tensor));
        let Some(at) = at else { bail!("the network has no tensor \"{tensor}\"") };
        let product = NodeProto {
            op_type: Some("Mul".to_owned()),
            input: vec![tensor.to_owned(), name.clone()],
            output: vec![scaled],
            ..Default::default()
        };
        graph.node.insert(at + 1, product);
        let factor = Tensor::from_f32(vec![1], &[factor]).context("one value makes one element")?;
        graph.initializer.push(tensor_of(&name, factor));
    }
    let end = graph.node.iter().position(|node| node.op_type.as_deref() == Some("Softmax"));
    let softmax = graph.node.remove(end.context("the network has no softmax")?);
    let logits = softmax.input.first().cloned().context("a softmax has an input")?;
    for node in &mut graph.node {
        let pressed = node.input.iter_mut().filter(|input| softmax.output.contains(input));
        pressed.for_each(|input| input.clone_from(&logits));
    }
    let input = graph.input.first_mut().context("the network has an input")?;
    let name = input.name.clone().unwrap_or_default();
    let dims = shape.iter().map(|&size| Dim::Fixed(size)).collect();
    *input = InputInfo { name, dtype: DType::Fp32, dims }.value_info();
    Ok(model)
}
