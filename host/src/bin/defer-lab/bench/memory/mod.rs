//! `defer-lab bench memory`: what the nodes of a chain hold in memory, and how fast they load a stage that they have on
//! disk. Real node processes and a dispatcher, on loopback.

pub mod process;

use super::report;
use crate::cluster::{self, NodeOptions, Process};
use crate::folder::Folder;
use crate::table::{Side, table};
use anyhow::{Result, ensure};
use clap::Args;
use defer_host::build::{self, Bars, BuildOptions};
use defer_host::client::{self, InferArgs, UsageError};
use defer_host::engine::{self, Choice, Named};
use process::Memory;
use serde::Serialize;
use std::path::Path;
use tokio::runtime::Handle;

/// Networks, and how much of their weights the nodes may hold beside the mapped artifacts: `None` where nobody said.
const MODELS: [(&str, f64); 2] = [("vgg16", 0.5), ("resnet50", 1.2)];
/// What a node takes without any stage: not counted as the network's, in bytes.
const BASE: u64 = 60_000_000;
/// A node may have up to twice its weights and this much resident, in bytes.
const PEAK: u64 = 100_000_000;
/// A stage on disk loads within this time, in ms.
const LOAD_MS: f64 = 500.0;
/// Requests under way at once: more than nodes, so that all compute.
const CONCURRENCY: u16 = 6;

/// Memory of the nodes of a chain, with onnxruntime, and the time to load a stage that is on disk.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench memory
  defer-lab bench memory --model resnet50 --nodes 8 --json")]
pub struct MemoryArgs {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// A network of the catalogue; may be repeated [default: vgg16 and resnet50]
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Nodes, and as many stages
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Requests before memory is looked at
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
}

/// One node, or all nodes of a chain together. MB are 10^6 bytes.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    /// `0` and up, by stage, or `all`.
    node: String,
    engine: String,
    weights_mb: f64,
    /// Memory of the process's own (RssAnon), before any request.
    anonymous_loaded_mb: f64,
    /// The same, after `requests`.
    anonymous_mb: f64,
    /// Of all nodes: what is left of `anonymous_mb` when 60 MB per node are taken off, over the weights …
    anonymous_share: Option<f64>,
    /// … and how much that may be.
    anonymous_share_goal: Option<f64>,
    /// The most that was resident at any time, mapped files included (VmHWM), with upload and all requests; of all
    /// nodes, the largest.
    peak_resident_mb: f64,
    /// Twice the weights and 100 MB.
    peak_resident_goal_mb: Option<f64>,
    /// Time to load the stage when it was uploaded; of all nodes, the longest.
    load_ms: f64,
    /// Time to load it from disk, verified earlier, after the process was killed and started again.
    reload_ms: f64,
    reload_goal_ms: f64,
    /// The most that was resident until then.
    reload_peak_resident_mb: f64,
    /// Whether all goals that this row has are met.
    met: bool,
    requests: u64,
}

pub fn run(args: &MemoryArgs) -> Result<()> {
    let named: Vec<(&str, Option<f64>)> = match args.models.is_empty() {
        true => MODELS.iter().map(|(name, goal)| (*name, Some(*goal))).collect(),
        false => args.models.iter().map(|name| (name.as_str(), goal(name))).collect(),
    };
    let mut rows = Vec::new();
    for (model, goal) in named {
        rows.extend(measure(model, goal, args)?);
    }
    report(args.json, "memory", &rows, as_table)
}

fn goal(model: &str) -> Option<f64> {
    MODELS.iter().find(|(name, _)| *name == model).map(|(_, goal)| *goal)
}

fn measure(model: &str, goal: Option<f64>, args: &MemoryArgs) -> Result<Vec<Row>> {
    let unknown = || UsageError(format!("no network \"{model}\" in the catalogue; `cargo xtask models` lists it"));
    let entry = defer_models::find(model).ok_or_else(unknown)?;
    entry.fetch(&mut |line| eprintln!("{line}"))?;
    let inputs: Vec<Vec<Named>> = entry.sample_inputs()?.into_iter().map(|(_, inputs)| inputs).collect();
    let folder = Folder::new("bench")?;
    let pipeline = folder.path().join(model);
    cut(model, usize::from(args.nodes), &pipeline)?;

    let binary = cluster::binary()?;
    let options: Vec<NodeOptions> = (0..args.nodes).map(|index| node(folder.path(), index)).collect();
    let mut nodes = options.iter().map(|options| cluster::start_node(&binary, options)).collect::<Result<Vec<_>>>()?;
    let none: [&str; 0] = [];
    let dispatcher = cluster::start_dispatcher(&binary, &pipeline, &nodes.iter().collect::<Vec<_>>(), &none)?;
    let loaded = nodes.iter().map(|node| Memory::of(node.pid())).collect::<Result<Vec<_>>>()?;
    let stages = nodes.iter().map(|node| process::stage(node.address("rest"))).collect::<Result<Vec<_>>>()?;
    let requests = send(model, &inputs, dispatcher.address("inference"), args.requests)?;
    eprintln!("{model}: {} nodes answered {requests} requests", args.nodes);
    let used = nodes.iter().map(|node| Memory::of(node.pid())).collect::<Result<Vec<_>>>()?;

    // Killed, not stopped, so that nobody takes the stages off the nodes.
    drop(dispatcher);
    nodes.iter_mut().for_each(Process::kill);
    let mut rows = Vec::with_capacity(nodes.len() + 1);
    for (index, options) in options.iter().enumerate() {
        let node = cluster::start_node(&binary, options)?;
        let again = process::stage(node.address("rest"))?;
        let reloaded = Memory::of(node.pid())?;
        let stage = &stages[index];
        ensure!(stage.index == index && again.index == index, "node {index} has stage {}", again.index);
        let weights = stage.weights_bytes;
        let (peak, limit) = (used[index].peak.max(reloaded.peak), 2 * weights + PEAK);
        rows.push(Row {
            model: model.to_owned(),
            node: index.to_string(),
            engine: stage.engine.clone(),
            weights_mb: mb(weights),
            anonymous_loaded_mb: mb(loaded[index].anonymous),
            anonymous_mb: mb(used[index].anonymous),
            anonymous_share: None,
            anonymous_share_goal: None,
            peak_resident_mb: mb(used[index].peak),
            peak_resident_goal_mb: Some(mb(limit)),
            load_ms: stage.loaded_ms,
            reload_ms: again.loaded_ms,
            reload_goal_ms: LOAD_MS,
            reload_peak_resident_mb: mb(reloaded.peak),
            met: peak <= limit && again.loaded_ms < LOAD_MS,
            requests,
        });
    }
    rows.push(all(&rows, goal));
    Ok(rows)
}

/// What the rows of the nodes come to.
fn all(rows: &[Row], goal: Option<f64>) -> Row {
    let sum = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>();
    let largest = |of: fn(&Row) -> f64| rows.iter().map(of).fold(0.0, f64::max);
    let share = (sum(|row| row.anonymous_mb) - mb(BASE) * rows.len() as f64) / sum(|row| row.weights_mb);
    let first = &rows[0];
    Row {
        model: first.model.clone(),
        node: "all".to_owned(),
        engine: first.engine.clone(),
        weights_mb: sum(|row| row.weights_mb),
        anonymous_loaded_mb: sum(|row| row.anonymous_loaded_mb),
        anonymous_mb: sum(|row| row.anonymous_mb),
        anonymous_share: Some(share),
        anonymous_share_goal: goal,
        peak_resident_mb: largest(|row| row.peak_resident_mb),
        peak_resident_goal_mb: None,
        load_ms: largest(|row| row.load_ms),
        reload_ms: largest(|row| row.reload_ms),
        reload_goal_ms: LOAD_MS,
        reload_peak_resident_mb: largest(|row| row.reload_peak_resident_mb),
        met: rows.iter().all(|row| row.met) && goal.is_none_or(|goal| share <= goal),
        requests: first.requests,
    }
}

/// Cuts `model` into `count` stages.
fn cut(model: &str, count: usize, out: &Path) -> Result<()> {
    let bars = Bars::default();
    let engine = engine::open(Choice::OnnxRuntime, None)?;
    let options = BuildOptions {
        model: model.to_owned(),
        stages: Some(count),
        out: Some(out.to_owned()),
        ..BuildOptions::default()
    };
    build::build(&options, engine.as_ref(), &bars)?;
    bars.clear();
    Ok(())
}

fn node(folder: &Path, index: u16) -> NodeOptions {
    let name = format!("node-{index}");
    let extra_args = ["--threads", "1", "--engine", "onnxruntime"].map(Into::into).to_vec();
    NodeOptions { state_dir: folder.join(&name), name, extra_args }
}

/// Sends at least `count` requests; gives how many.
fn send(model: &str, inputs: &[Vec<Named>], url: &str, count: u64) -> Result<u64> {
    let repeat = count.div_ceil(inputs.len() as u64);
    let args = InferArgs {
        url: url.to_owned(),
        model: model.to_owned(),
        inputs: Vec::new(),
        output: None,
        repeat,
        concurrency: CONCURRENCY,
        timeout: 300,
        retries: 8,
        token_file: None,
        json: false,
    };
    let load = Handle::current().block_on(client::send(&args, inputs))?;
    if let Some((kind, failed)) = load.failures.first_key_value() {
        anyhow::bail!("{} requests failed, the first ones by {kind}: {}", load.failed(), failed.example);
    }
    Ok(repeat * inputs.len() as u64)
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn as_table(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let header = [
        ("network", Side::Left),
        right("node"),
        right("weights MB"),
        right("anonymous MB"),
        right("after load"),
        right("share"),
        right("goal"),
        right("peak MB"),
        right("goal"),
        right("load ms"),
        right("reload ms"),
        right("goal"),
        right("met"),
    ];
    let optional = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let cells = |row: &Row| {
        [
            row.model.clone(),
            row.node.clone(),
            format!("{:.1}", row.weights_mb),
            format!("{:.1}", row.anonymous_mb),
            format!("{:.1}", row.anonymous_loaded_mb),
            optional(row.anonymous_share),
            optional(row.anonymous_share_goal),
            format!("{:.1}", row.peak_resident_mb),
            row.peak_resident_goal_mb.map_or_else(String::new, |mb| format!("{mb:.1}")),
            format!("{:.0}", row.load_ms),
            format!("{:.0}", row.reload_ms),
            format!("{:.0}", row.reload_goal_ms),
            if row.met { "yes" } else { "no" }.to_owned(),
        ]
    };
    table(header, &rows.iter().map(cells).collect::<Vec<_>>())
}
