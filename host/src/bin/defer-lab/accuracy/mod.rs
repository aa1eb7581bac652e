//! `defer-lab accuracy`: whether pipelines with lossy codecs keep to their budgets, through real nodes, on inputs that they
//! were not calibrated with.

mod report;
mod trial;

use crate::bench;
use crate::chain::Chain;
use crate::folder::Folder;
use crate::step::Step;
use crate::subject::{self, Subject};
use crate::{cluster, stages, stats, usage};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use defer_host::accuracy::{Budget, Deviation};
use defer_host::build::load_whole;
use defer_host::client::{self, InferArgs};
use defer_host::engine::{self, Choice, Named, Options};
use defer_host::pipeline::{AccuracyRef, Pipeline};
use defer_host::relay::CodecChoice;
use report::Row;
use std::path::{Path, PathBuf};
use trial::{Right, Trial, right, trials, unit};

/// How often each input is sent, so that nodes that choose have something to choose by.
const REPEAT: u64 = 3;
/// Requests under way.
const UNDER_WAY: u16 = 6;

/// Checks that pipelines with lossy codecs keep to their budgets.
///
/// Cuts networks with lossy codecs allowed (or takes a pipeline that was cut so), runs each by real nodes on this machine with
/// lossless codecs, with the most lossy codec allowed on every hop, and with what nodes choose, on inputs that were not
/// calibrated with, and compares with the uncut network. Exit code 1 where a budget does not hold.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab accuracy
  defer-lab accuracy --model ocr-rec --allow-lossy top1-agreement=0.999 --nodes 8
  defer-lab accuracy --pipeline dist/ocr-rec --json")]
pub struct AccuracyArgs {
    /// Networks of the catalogue, or .onnx files; by default the trained ones
    #[arg(long, value_name = "MODEL", default_values = ["ocr-rec", "ocr-det", "ocr-cls"])]
    model: Vec<String>,
    /// A pipeline that was cut with --allow-lossy, instead of cutting some
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "allow_lossy", "nodes"])]
    pipeline: Option<PathBuf>,
    /// What lossy codecs may do to the answers, as build-stages takes it
    #[arg(long, value_name = "BUDGET", default_value = "max-relative-error=0.01")]
    allow_lossy: Budget,
    /// Nodes, and as many stages
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

/// A pipeline that is to be checked.
struct Case {
    subject: Subject,
    folder: PathBuf,
    pipeline: Pipeline,
    accuracy: AccuracyRef,
}

/// Runs the check: progress on stderr, the report on stdout.
pub async fn run(args: AccuracyArgs) -> Result<()> {
    let binary = cluster::binary()?;
    let folder = Folder::new("accuracy")?;
    let mut rows = Vec::new();
    if let Some(pipeline) = &args.pipeline {
        check(&binary, folder.path(), &taken(pipeline).await?, &mut rows).await?;
    } else {
        for model in &args.model {
            let subject = subject::find(model.clone(), Vec::new()).await?;
            let work = folder.path().join(&subject.name);
            let stages = work.join("stages");
            let count = usize::from(args.nodes);
            stages::build(&binary, &subject, (count, "auto"), &[], Some(args.allow_lossy), &stages).await?;
            check(&binary, &work, &case(subject, stages)?, &mut rows).await?;
        }
    }
    bench::report(args.json, "accuracy", &rows, report::table_of)?;
    let broken: Vec<String> =
        rows.iter().filter(|row| !row.holds).map(|row| format!("{} ({})", row.model, row.mode)).collect();
    match broken.is_empty() {
        true => Ok(()),
        false => bail!("the budget does not hold for {}", broken.join(", ")),
    }
}

/// A pipeline that somebody has cut, and its network.
async fn taken(folder: &Path) -> Result<Case> {
    let pipeline = Pipeline::read(folder).map_err(usage)?;
    let known = defer_models::find(&pipeline.name).filter(|entry| entry.sha256 == pipeline.model.digest);
    let model = known.map_or_else(|| pipeline.model.file.clone(), |entry| entry.name.to_owned());
    case(subject::find(model, Vec::new()).await?, folder.to_owned())
}

fn case(subject: Subject, folder: PathBuf) -> Result<Case> {
    let pipeline = Pipeline::read(&folder)?;
    let Some(accuracy) = pipeline.accuracy else {
        let (name, folder) = (&pipeline.name, folder.display());
        return Err(usage(format!(
            "pipeline \"{name}\" in {folder} has no budget: cut it with build-stages --allow-lossy"
        )));
    };
    Ok(Case { subject, folder, pipeline, accuracy })
}

/// Runs one pipeline in all modes.
async fn check(binary: &Path, work: &Path, case: &Case, rows: &mut Vec<Row>) -> Result<()> {
    let trials = trials(&case.subject)?;
    let whole = whole(&case.subject, &trials).await?;
    let forced = work.join("most-lossy");
    force(case, &forced)?;
    let count = case.pipeline.stages.len();
    let mut chain = Chain::start(binary, &work.join("nodes"), count, 1).await?;
    for (mode, folder, flags) in
        [("lossless", &case.folder, &["--lossless"][..]), ("most-lossy", &forced, &[]), ("auto", &case.folder, &[])]
    {
        chain.deploy(binary, folder, flags).await?;
        let step = Step::quiet();
        let row = ask(case, mode, &trials, &whole, &mut chain)
            .await
            .with_context(|| format!("{}, {mode}", case.pipeline.name))?;
        step.done(&format!("{}, {mode}: {} inputs", case.pipeline.name, trials.len()));
        rows.push(row);
    }
    tokio::task::spawn_blocking(move || drop(chain)).await?;
    Ok(())
}

/// Writes the same pipeline with the most lossy codec that each hop is allowed, so that nodes have no choice.
fn force(case: &Case, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut pipeline = case.pipeline.clone();
    for stage in &mut pipeline.stages {
        stage.codec = Some(stage.lossy.first().map_or(CodecChoice::Auto, |codec| CodecChoice::Fixed(*codec)));
        let artifact = case.folder.canonicalize()?.join(&stage.file);
        std::os::unix::fs::symlink(artifact, folder.join(&stage.file))?;
    }
    pipeline.write(folder).with_context(|| format!("cannot write into {}", folder.display()))
}

/// The uncut network's answers.
async fn whole(subject: &Subject, trials: &[Trial]) -> Result<Vec<Vec<Named>>> {
    let step = Step::spinner("running the uncut network");
    let file = subject.file.clone();
    let requests: Vec<Vec<Named>> = trials.iter().map(|trial| trial.inputs.clone()).collect();
    let answers = tokio::task::spawn_blocking(move || {
        let engine = engine::open(Choice::Auto, None)?;
        let mut session = load_whole(&file, engine.as_ref(), Options::new(1))?;
        let pool = defer_host::buffer::Pool::new(0);
        requests.iter().map(|request| Ok(session.run(request, &pool)?)).collect::<Result<Vec<_>>>()
    });
    let answers = answers.await??;
    step.done(&format!("the uncut network computed {} inputs", answers.len()));
    Ok(answers)
}

/// Sends all inputs through the chain, and judges what comes back.
async fn ask(
    case: &Case,
    mode: &'static str,
    trials: &[Trial],
    whole: &[Vec<Named>],
    chain: &mut Chain,
) -> Result<Row> {
    let Case { subject, pipeline, accuracy, .. } = case;
    let infer = InferArgs {
        url: chain.inference_url().to_owned(),
        model: pipeline.name.clone(),
        inputs: Vec::new(),
        output: None,
        repeat: REPEAT,
        concurrency: UNDER_WAY,
        timeout: 300,
        retries: 8,
        token_file: None,
        json: false,
    };
    let inputs: Vec<Vec<Named>> = trials.iter().map(|trial| trial.inputs.clone()).collect();
    let load = tokio::select! {
        load = client::send(&infer, &inputs) => load?,
        () = chain.end_of_any() => bail!("the chain broke{}", chain.last_words()),
    };
    let (mut deviation, mut counted, mut uncut) = (Deviation::default(), Right::default(), Right::default());
    for ((trial, whole), answer) in trials.iter().zip(whole).zip(load.answers) {
        let answer = answer.map_err(anyhow::Error::msg).with_context(|| trial.label.clone())?;
        deviation.add(&Deviation::of(whole, &answer, 1.0)?);
        counted.add(right(subject, trial, &answer, whole)?.unwrap_or_default());
        uncut.add(right(subject, trial, whole, whole)?.unwrap_or_default());
    }
    let stages = stats::collect(&chain.node_urls(), &pipeline.name).await?;
    let bytes = |stage: &stats::Stage| stage.counters.bytes_out as f64 / stage.counters.frames_received.max(1) as f64;
    let (last, others) = stages.split_last().context("a pipeline without stages")?;
    let trained = subject.entry.is_some_and(|entry| entry.trained);
    Ok(Row {
        model: pipeline.name.clone(),
        trained,
        stages: stages.len(),
        mode,
        budget: accuracy.budget,
        holds: accuracy.budget.admits(&deviation),
        inputs: trials.len(),
        max_relative_error: Some(deviation.max_relative_error).filter(|error| error.is_finite()),
        top1_agreement: deviation.top1_agreement(),
        positions: deviation.positions,
        right_unit: subject.entry.filter(|_| trained).and_then(|entry| unit(entry.task)),
        right: counted.right,
        right_of: counted.of,
        right_uncut: uncut.right,
        bytes_per_inference: others.iter().map(|stats| bytes(&stats.stage)).sum(),
        answer_bytes_per_inference: bytes(&last.stage),
        codecs: stages.iter().map(|stats| stats.stage.codec().to_owned()).collect(),
    })
}
