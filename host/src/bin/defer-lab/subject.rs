//! What the demo and the benchmarks run: a network and inputs for it.

use crate::step::Step;
use crate::usage;
use anyhow::{Context as _, Result};
use defer_host::build::random_inputs;
use defer_host::engine::Named;
use defer_models::{Entry, Model, Origin, Processor, Source, Task, resolve, samples};
use defer_partition::{Network, dims, onnx};
use std::path::{Path, PathBuf};

/// The trained network.
pub const DEFAULT: &str = "ocr-rec";
/// What is always to be had: it is generated.
const FALLBACK: &str = "resnet50";
/// Inputs that are made up for an `.onnx` file.
const MADE_UP: u64 = 3;

pub struct Subject {
    /// Name of the pipeline.
    pub name: String,
    /// What `build-stages --model` takes.
    pub argument: String,
    /// The uncut network.
    pub file: PathBuf,
    pub entry: Option<&'static Entry>,
    /// What reads its answers, if it is of the catalogue.
    pub processor: Option<Processor>,
    pub requests: Vec<Request>,
}

/// One set of inputs.
pub struct Request {
    pub label: String,
    /// What is printed in the picture.
    pub printed: Option<&'static str>,
    pub inputs: Vec<Named>,
}

impl Subject {
    /// Whether its answers are what is printed in pictures.
    pub fn reads_text(&self) -> bool {
        self.entry.is_some_and(|entry| entry.task == Task::TextRecognition)
    }

    pub fn inputs(&self) -> Vec<Vec<Named>> {
        self.requests.iter().map(|request| request.inputs.clone()).collect()
    }
}

/// Finds the network that `model` names, fetching it if need be, and inputs for it.
pub async fn find(model: String, dims: Vec<(String, usize)>) -> Result<Subject> {
    let named = resolve(&model).map_err(usage)?;
    let step = Step::spinner(&format!("getting {}", named.name));
    // pip, digests, the arithmetic of pictures: nothing for an async thread.
    let (step, subject) = tokio::task::spawn_blocking(move || {
        let subject = get(&model, named, &dims, &step);
        (step, subject)
    })
    .await?;
    let subject = subject?;
    step.done(&format!("model {}: {}", subject.name, subject.file.display()));
    Ok(subject)
}

fn get(argument: &str, model: Model, dims: &[(String, usize)], step: &Step) -> Result<Subject> {
    match model.source.clone() {
        Source::File(path) => from_file(argument, model.name, path, dims),
        Source::Catalogue(_) if !dims.is_empty() => {
            Err(usage(format!("{} comes with its inputs; --dim is for .onnx files", model.name)))
        }
        Source::Catalogue(entry) => match (entry.fetch(&mut |line| step.note(line)), entry.origin) {
            (Ok(file), _) => from_catalogue(entry, file),
            (Err(error), Origin::Generated(_)) => Err(error.into()),
            (Err(error), Origin::Wheel { .. }) => {
                step.note(&format!(
                    "the trained network {} cannot be had: {error}\n\
                     going on with {FALLBACK}, which is generated here and untrained: its answers mean nothing",
                    entry.name
                ));
                let entry = defer_models::find(FALLBACK).context("the catalogue lacks its generated network")?;
                from_catalogue(entry, entry.fetch(&mut |line| step.note(line))?)
            }
        },
    }
}

fn from_catalogue(entry: &'static Entry, file: PathBuf) -> Result<Subject> {
    let processor = Processor::for_file(entry, &file)?;
    let printed = |label: &str| samples().iter().find(|sample| sample.name == label).map(|sample| sample.text);
    let inputs = entry.sample_inputs()?.into_iter();
    Ok(Subject {
        name: entry.name.to_owned(),
        argument: entry.name.to_owned(),
        file,
        entry: Some(entry),
        processor: Some(processor),
        requests: inputs.map(|(label, inputs)| Request { printed: printed(&label), label, inputs }).collect(),
    })
}

fn from_file(argument: &str, name: String, file: PathBuf, dims: &[(String, usize)]) -> Result<Subject> {
    let requests = made_up(&file, dims)?;
    Ok(Subject { name, argument: argument.to_owned(), file, entry: None, processor: None, requests })
}

/// Pseudo-random inputs, the same at every run.
fn made_up(file: &Path, dims: &[(String, usize)]) -> Result<Vec<Request>> {
    let about = || format!("cannot use {}", file.display());
    let network = Network::new(onnx::read(file).with_context(about)?).with_context(about)?;
    let shapes = dims::resolve_dims(network.inputs(), &dims.iter().cloned().collect()).map_err(usage)?;
    (1..=MADE_UP)
        .map(|seed| {
            let inputs = random_inputs(network.inputs(), &shapes, seed);
            let inputs =
                inputs.ok_or_else(|| usage("the inputs are larger than memory; give smaller sizes with --dim"))?;
            Ok(Request { label: format!("random {seed}"), printed: None, inputs })
        })
        .collect()
}
