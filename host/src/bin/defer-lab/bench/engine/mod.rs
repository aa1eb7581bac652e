//! `defer-lab bench engine`: what an engine behind wasi-nn takes against ONNX Runtime in Python, and what the slices of a
//! network take together against the whole.

pub mod contest;
mod reference;
pub mod stages;

use super::report;
use crate::compare::difference;
use crate::folder::Folder;
use crate::table::{Side, table};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use contest::Times;
use defer_host::build::{self, Bars, BuildOptions};
use defer_host::client::UsageError;
use defer_host::engine::{self, Choice, Engine, Named};
use defer_models::Entry;
use reference::Reference;
use serde::Serialize;
use stages::Stages;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Compared with the reference.
const MODELS: [&str; 7] = ["resnet50", "vgg16", "mobilenetv2", "bert-mini", "ocr-rec", "ocr-det", "ocr-cls"];
/// Cut into slices, if nothing else is asked for, and into how many.
const SLICED: (&str, u16) = ("resnet50", 8);
/// Both compute the same, in another order: relative to a tensor's largest value.
const SAME: f64 = 1e-3;

/// Each engine behind wasi-nn against ONNX Runtime in Python, and the slices of a network against the whole.
///
/// One thread everywhere, the same inputs and options, everything that is compared taking turns in one run. Times are CPU
/// milliseconds: one in ten runs is shorter. A ratio over 1 means: slower than the reference.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench engine
  defer-lab bench engine --model mobilenetv2 --engine onnxruntime --rounds 200
  defer-lab bench engine --model vgg16 --stages 4
  defer-lab bench engine --model resnet50 --pipeline dist/resnet50 --pipeline dist/other-cuts")]
pub struct EngineArgs {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// A network of the catalogue; may be repeated [default: seven of them]
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// onnxruntime or tract; may be repeated [default: both]
    #[arg(long = "engine", value_name = "ENGINE")]
    engines: Vec<Choice>,
    /// Rounds; each runs everything that is compared twice
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Slices to cut each network into [default: resnet50 into 8, others not]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    stages: Option<u16>,
    /// Stages on disk, to be compared with the whole too; may be repeated
    #[arg(long = "pipeline", value_name = "DIR")]
    pipelines: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Row {
    /// Name in the catalogue; `NAME in N stages` for a row of slices.
    model: String,
    engine: String,
    /// CPU time of one inference, through component, wasi-nn and engine; of slices, of all together.
    host_ms: f64,
    /// What it is compared with: ONNX Runtime in Python, or the whole network on the same engine behind wasi-nn.
    reference: String,
    /// Its CPU time.
    reference_ms: f64,
    /// `host_ms / reference_ms`.
    ratio: f64,
    /// The least and the largest ratio in a quarter of the rounds.
    ratio_low: f64,
    ratio_high: f64,
    /// Largest difference between the two results, over the largest value of the tensor.
    difference: f64,
    /// Of slices: the slowest one's time, and what the build expected of it.
    bottleneck_ms: Option<f64>,
    predicted_bottleneck_ms: Option<f64>,
    /// Of slices: the sum that the build expected.
    predicted_ms: Option<f64>,
    /// Of slices: bytes of the tensors that pass from one to the next.
    crossing_bytes: Option<u64>,
    rounds: u32,
}

pub fn run(args: &EngineArgs) -> Result<()> {
    let rows = measure(args)?;
    report(args.json, "engine", &rows, as_table)
}

fn measure(args: &EngineArgs) -> Result<Vec<Row>> {
    let names: Vec<&str> = match args.models.is_empty() {
        true => MODELS.to_vec(),
        false => args.models.iter().map(String::as_str).collect(),
    };
    let chosen = if args.engines.is_empty() { vec![Choice::OnnxRuntime, Choice::Tract] } else { args.engines.clone() };
    let engines = chosen.into_iter().map(|choice| Ok(engine::open(choice, None)?)).collect::<Result<Vec<_>>>()?;
    let (mut rows, mut slices) = (Vec::new(), Vec::new());
    for name in names {
        let subject = Subject::find(name)?;
        for engine in &engines {
            let folder = Folder::new("bench")?;
            let mut whole = subject.stages(engine, 1, folder.path())?;
            rows.push(against_python(&subject, engine.as_ref(), &mut whole, args.rounds)?);
            let count = args.stages.or((name == SLICED.0).then_some(SLICED.1));
            let built = count.map(|count| subject.stages(engine, count, folder.path())).transpose()?;
            let named = args.pipelines.iter().map(|path| Stages::load(path, engine, &subject.inputs));
            let named = named.collect::<Result<Vec<_>>>()?;
            let named = named.into_iter().filter(|stages| stages.pipeline.name == name);
            for stages in built.into_iter().chain(named) {
                slices.push(against_whole(engine.as_ref(), stages, &mut whole, args.rounds)?);
            }
        }
    }
    rows.extend(slices);
    Ok(rows)
}

/// A network and what it is run with.
struct Subject {
    entry: &'static Entry,
    file: PathBuf,
    inputs: Vec<Named>,
}

impl Subject {
    fn find(name: &str) -> Result<Self> {
        let unknown = || UsageError(format!("no network \"{name}\" in the catalogue; `cargo xtask models` lists it"));
        let entry = defer_models::find(name).ok_or_else(unknown)?;
        let file = entry.fetch(&mut |line| eprintln!("{line}"))?;
        let (_, inputs) = entry.sample_inputs()?.into_iter().next().context("a network without a sample")?;
        Ok(Self { entry, file, inputs })
    }

    /// Cuts it into `count` stages under `folder`, with the times of `engine`, and loads them.
    fn stages(&self, engine: &Arc<dyn Engine>, count: u16, folder: &Path) -> Result<Stages> {
        let bars = Bars::default();
        let out = folder.join(format!("{}-{count}", self.entry.name));
        let options = BuildOptions {
            model: self.entry.name.to_owned(),
            stages: Some(usize::from(count)),
            out: Some(out.clone()),
            ..BuildOptions::default()
        };
        build::build(&options, engine.as_ref(), &bars)?;
        bars.clear();
        Stages::load(&out, engine, &self.inputs)
    }
}

fn against_python(subject: &Subject, engine: &dyn Engine, whole: &mut Stages, rounds: u32) -> Result<Row> {
    let mut python = Reference::start(&subject.file, &subject.inputs)?;
    let (results, _) = whole.answer()?;
    let difference = difference(&python.outputs, &results)?;
    let model = subject.entry.name;
    ensure!(difference <= SAME, "{model}: {} answers otherwise than the reference, by {difference:.1e}", engine.name());
    let [host, reference] = contest::hold([whole, &mut python], rounds)?;
    let row = row(model.to_owned(), engine, &host, &reference, difference, rounds);
    let row = Row { reference: format!("ONNX Runtime {} in Python", python.version), ..row };
    tell(&row);
    Ok(row)
}

fn against_whole(engine: &dyn Engine, mut stages: Stages, whole: &mut Stages, rounds: u32) -> Result<Row> {
    let ((of_whole, _), (of_stages, _)) = (whole.answer()?, stages.answer()?);
    let difference = difference(&of_whole, &of_stages)?;
    let model = format!("{} in {} stages", stages.pipeline.name, stages.pipeline.stages.len());
    if difference > SAME {
        bail!("{model}: {} answers otherwise than the whole network, by {difference:.1e}", engine.name());
    }
    let [host, reference] = contest::hold([&mut stages, whole], rounds)?;
    let predicted = stages.pipeline.stages.iter().map(|stage| stage.predicted_ms);
    let row = Row {
        bottleneck_ms: Some(host.steps_ms().into_iter().fold(0.0, f64::max)),
        predicted_bottleneck_ms: Some(stages.pipeline.plan.bottleneck_ms),
        predicted_ms: Some(predicted.sum()),
        crossing_bytes: Some(stages.crossing_bytes),
        ..row(model, engine, &host, &reference, difference, rounds)
    };
    tell(&row);
    Ok(row)
}

fn row(model: String, engine: &dyn Engine, host: &Times, reference: &Times, difference: f64, rounds: u32) -> Row {
    let (ratio_low, ratio_high) = host.spread(reference);
    Row {
        model,
        engine: engine.name().to_owned(),
        host_ms: host.ms(),
        reference: "the whole network".to_owned(),
        reference_ms: reference.ms(),
        ratio: host.ms() / reference.ms(),
        ratio_low,
        ratio_high,
        difference,
        bottleneck_ms: None,
        predicted_bottleneck_ms: None,
        predicted_ms: None,
        crossing_bytes: None,
        rounds,
    }
}

/// A line for whoever waits.
fn tell(row: &Row) {
    eprintln!("{}, {}: {:.3} × {}", row.model, row.engine, row.ratio, row.reference);
}

fn as_table(rows: &[Row]) -> String {
    let left = |title| (title, Side::Left);
    let right = |title| (title, Side::Right);
    let header = [
        left("network"),
        left("engine"),
        right("ms"),
        left("against"),
        right("ms"),
        right("ratio"),
        right("from"),
        right("to"),
        right("difference"),
        right("slowest ms"),
        right("predicted"),
        right("crossing MB"),
    ];
    let optional = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let cells = |row: &Row| {
        [
            row.model.clone(),
            row.engine.clone(),
            format!("{:.2}", row.host_ms),
            row.reference.clone(),
            format!("{:.2}", row.reference_ms),
            format!("{:.3}", row.ratio),
            format!("{:.3}", row.ratio_low),
            format!("{:.3}", row.ratio_high),
            format!("{:.1e}", row.difference),
            optional(row.bottleneck_ms),
            optional(row.predicted_bottleneck_ms),
            optional(row.crossing_bytes.map(|bytes| bytes as f64 / 1e6)),
        ]
    };
    table(header, &rows.iter().map(cells).collect::<Vec<_>>())
}
