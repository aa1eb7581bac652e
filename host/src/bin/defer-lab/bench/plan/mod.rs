//! `defer-lab bench plan`: plans against what is possible and against other ways to plan, and how long planning takes.

mod field;
mod report;
mod rivals;
mod setting;
mod speed;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use defer_host::build::activations;
use defer_host::client::UsageError;
use defer_host::engine::{self, Choice};
use defer_partition::plan::Replicas;
use field::Size;
use serde::Serialize;
use setting::Model;
use std::num::NonZeroUsize;
use std::time::Duration;

const MEGA: u64 = 1_000_000;
/// Published for ResNet50 at 64 MB: nodes, and the mean of the bottleneck in seconds.
const PUBLISHED: [(usize, f64); 5] = [(5, 2.404), (10, 1.888), (15, 1.652), (20, 1.535), (50, 1.307)];
/// Published mean of the bottleneck over the bound: for ResNet50, and over all of the paper's models.
const PUBLISHED_RESNET50: f64 = 1.268;
const PUBLISHED_ALL: f64 = 1.092;
/// What we want it to be.
const GOAL: f64 = 1.05;

/// Plans against what is possible, against other ways to plan, and how long planning takes.
///
/// First the setting of arXiv 2210.12219: nodes that are alike, at random places in a square of 150 m, bandwidth log2(1 +
/// 283230 / d²) Mbit/s; compute, activations' memory and the dispatcher's link count as nothing. Each plan's bottleneck is
/// held against a bound that does not depend on the plan: the least possible largest transfer, where memory forces cuts,
/// over the fastest link. Trials in which one node holds the network count in no mean. Where two settings ask the same but
/// for a factor (8 bytes per weight in 128 MB, 4 in 64), the question is asked once, and counts once in the means over all.
/// Trials are shared out among the cores. With the defaults it takes a few minutes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench plan
  defer-lab bench plan --model resnet50 --trials 10
  defer-lab bench plan --json > plan.json")]
pub struct PlanArgs {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// Networks of the catalogue, or .onnx files
    #[arg(long, value_name = "MODEL", default_values_t = defer_models::catalogue().iter().map(|entry| entry.name.to_owned()))]
    model: Vec<String>,
    /// Random places per network, memory and number of nodes
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Nodes
    #[arg(long, value_name = "N1,N2,…", value_delimiter = ',', default_values_t = [5, 10, 15, 20, 50])]
    nodes: Vec<usize>,
    /// Megabytes (10^6 bytes) that a node may hold
    #[arg(long, value_name = "MB1,MB2,…", value_delimiter = ',', default_values_t = [64, 128, 256, 512])]
    memory: Vec<u64>,
    /// Seconds that one plan of the first setting may take where not all can be looked at
    #[arg(long, default_value_t = 0.5, value_name = "S")]
    budget_s: f64,
}

/// One method in one setting. Means are over the trials that were cut.
#[derive(Debug, Default, Serialize)]
struct Row {
    /// `placement` or `planning`.
    part: &'static str,
    model: String,
    /// What bytes were counted.
    size: &'static str,
    atoms: usize,
    nodes: usize,
    memory_mb: u64,
    method: &'static str,
    trials: u32,
    /// Trials that were possible, and in which memory forced at least one cut.
    cut_trials: u32,
    /// Those in which this method found a way.
    found: u32,
    /// Whether another row has the answers to the same question; such a row counts in no mean.
    repeated: bool,
    /// Bottleneck over the bound that does not depend on the plan.
    ratio_mean: Option<f64>,
    ratio_max: Option<f64>,
    /// What is proved to be the least possible for that mean.
    least_ratio_mean: Option<f64>,
    bottleneck_s: f64,
    stages: f64,
    /// Share of the plans that are proved the best.
    optimal_share: Option<f64>,
    /// By how much of it a bottleneck could at most be smaller.
    gap: Option<f64>,
    planning_ms: Option<f64>,
    published_ratio: Option<f64>,
    published_bottleneck_s: Option<f64>,
}

pub fn run(args: &PlanArgs) -> Result<()> {
    ensure!(args.nodes.iter().all(|nodes| (2..=rivals::NODES).contains(nodes)), UsageError("2 to 64 nodes".to_owned()));
    let budget = Duration::try_from_secs_f64(args.budget_s).map_err(|error| UsageError(error.to_string()))?;
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let engine = engine::open(Choice::Auto, None)?;
    let folder = std::env::temp_dir().join(format!("defer-bench-plan-{}", std::process::id()));
    let mut rows = Vec::new();
    let mut resnet50 = None;
    for model in &args.model {
        let sizes = activations(model, engine.as_ref(), &folder).with_context(|| format!("cannot look at {model}"));
        let _ = std::fs::remove_dir_all(&folder);
        let sizes = sizes?;
        let mut asked = Model::new(model, &sizes, args.trials, budget, workers);
        for size in [Size::Published, Size::PublishedWeights, Size::AsIs] {
            for &memory_mb in &args.memory {
                for &nodes in &args.nodes {
                    rows.extend(asked.compare(size, memory_mb, nodes)?);
                }
            }
        }
        resnet50 = resnet50.or_else(|| (model == "resnet50").then_some(sizes));
    }
    let patience = Duration::from_secs(10);
    if let Some(sizes) = &resnet50 {
        rows.push(speed::measure("resnet50", sizes, 8, Replicas::Off, patience)?);
        rows.push(speed::measure("resnet50", sizes, 8, Replicas::Auto, patience)?);
    }
    for replicas in [Replicas::Off, Replicas::Auto] {
        rows.push(speed::measure("generated", &speed::generated(1000), 50, replicas, patience)?);
    }
    super::report(args.json, "plan", &rows, |rows| {
        format!("{}\n{}\n{}", report::placements(rows), report::summary(rows), report::times(rows))
    })
}
