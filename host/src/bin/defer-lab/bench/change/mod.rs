//! What a change of generation costs those who ask meanwhile: real processes on loopback, and answers counted by the
//! moment in which they came.

mod overload;
mod recover;
mod swap;

pub use overload::{OverloadArgs, run as overload};
pub use recover::{RecoverArgs, run as recover};
pub use swap::{SwapArgs, run as swap};

use crate::cluster::{self, NodeOptions, Process};
use crate::folder::Folder;
use anyhow::{Context as _, Result};
use clap::Args;
use defer_host::build::{self, Bars, BuildOptions};
use defer_host::client::{self, InferArgs, Load, UsageError};
use defer_host::engine::{self, Choice, Named};
use defer_host::pipeline::Pipeline;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// When the change comes, from the start of the load.
const AT: Duration = Duration::from_secs(4);
/// From when on the chain is full.
const FULL: Duration = Duration::from_secs(1);

/// What each of these benchmarks takes.
#[derive(Args, Debug)]
struct Common {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// A network of the catalogue; may be repeated
    #[arg(long = "model", value_name = "NAME", default_values = ["ocr-rec", "resnet50"])]
    models: Vec<String>,
}

/// A node beside those that the chain needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Help {
    None,
    /// The last one of the nodes is a spare.
    Spare,
    /// This stage runs on two nodes; the number of its first is its own.
    Replica(usize),
}

/// A network that was cut, and inputs for it.
struct Stages {
    model: String,
    inputs: Vec<Vec<Named>>,
    folder: Folder,
    pipeline: Pipeline,
}

impl Stages {
    /// Cuts `model` into `stages`.
    fn build(model: &str, stages: usize) -> Result<Self> {
        let unknown = || UsageError(format!("no network \"{model}\" in the catalogue; `cargo xtask models` lists it"));
        let entry = defer_models::find(model).ok_or_else(unknown)?;
        entry.fetch(&mut |line| eprintln!("{line}"))?;
        let inputs = entry.sample_inputs()?.into_iter().map(|(_, inputs)| inputs).collect();
        let folder = Folder::new("bench-stages")?;
        let bars = Bars::default();
        let engine = engine::open(Choice::Auto, None)?;
        let options = BuildOptions {
            model: model.to_owned(),
            stages: Some(stages),
            out: Some(folder.path().to_owned()),
            ..BuildOptions::default()
        };
        let pipeline = build::build(&options, engine.as_ref(), &bars)?.pipeline;
        bars.clear();
        Ok(Self { model: model.to_owned(), inputs, folder, pipeline })
    }

    fn artifact(&self, stage: usize) -> PathBuf {
        self.folder.path().join(&self.pipeline.stages[stage].file)
    }
}

/// A chain that answers, and further nodes.
struct Bed<'a> {
    stages: &'a Stages,
    folder: Folder,
    nodes: Vec<Process>,
    dispatcher: Process,
}

impl<'a> Bed<'a> {
    /// Starts a node for each of `stages`, `help` as well, and a dispatcher.
    fn start(stages: &'a Stages, help: Help) -> Result<Self> {
        let (binary, folder) = (cluster::binary()?, Folder::new("bench")?);
        let node = |index: usize| start_node(&binary, &folder, index);
        let more = if help == Help::None { 0 } else { 1 };
        let nodes = (0..stages.pipeline.stages.len() + more).map(node).collect::<Result<Vec<_>>>()?;
        let flags = match help {
            Help::Replica(stage) => vec!["--replicas".to_owned(), format!("stage={stage}:2")],
            Help::None | Help::Spare => Vec::new(),
        };
        let all: Vec<&Process> = nodes.iter().collect();
        let dispatcher = cluster::start_dispatcher(&binary, stages.folder.path(), &all, &flags)?;
        Ok(Self { stages, folder, nodes, dispatcher })
    }

    /// Starts a node again that has ended, with the state that it had.
    fn start_node(&self, index: usize) -> Result<Process> {
        start_node(&cluster::binary()?, &self.folder, index)
    }

    fn args(&self, in_flight: u16, requests: u64) -> InferArgs {
        InferArgs {
            url: self.dispatcher.address("inference").to_owned(),
            model: self.stages.model.clone(),
            inputs: Vec::new(),
            output: None,
            repeat: requests.div_ceil(self.stages.inputs.len() as u64),
            concurrency: in_flight,
            timeout: 60,
            retries: 100,
            token_file: None,
            json: false,
        }
    }

    /// Answers per second with `in_flight` requests under way.
    fn rate(&self, in_flight: u16) -> Result<f64> {
        let args = self.args(in_flight, 20 * u64::from(in_flight));
        let load = Handle::current().block_on(client::send(&args, &self.stages.inputs))?;
        Ok(load.answered_at.len() as f64 / load.elapsed.as_secs_f64())
    }

    /// Keeps `in_flight` requests under way for about `seconds`, at `rate` answers a second, beside what follows.
    fn load(&self, in_flight: u16, rate: f64, seconds: f64) -> Beside {
        let args = self.args(in_flight, (rate * seconds).ceil() as u64);
        let (handle, inputs) = (Handle::current(), self.stages.inputs.clone());
        let started = Instant::now();
        Beside { started, client: thread::spawn(move || handle.block_on(client::send(&args, &inputs))) }
    }
}

fn start_node(binary: &Path, folder: &Folder, index: usize) -> Result<Process> {
    let name = format!("node-{index}");
    let extra_args = ["--threads", "1"].map(Into::into).to_vec();
    cluster::start_node(binary, &NodeOptions { state_dir: folder.path().join(&name), name, extra_args })
}

/// Clients that ask beside a change.
struct Beside {
    started: Instant,
    client: JoinHandle<Result<Load>>,
}

impl Beside {
    /// Waits until `after` has passed since they began.
    fn wait_until(&self, after: Duration) {
        thread::sleep(after.saturating_sub(self.started.elapsed()));
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn end(self) -> Result<Answers> {
        let load = self.client.join().ok().context("the client panicked")??;
        let mut at = load.answered_at;
        at.sort_unstable();
        let failed = load.failures.values().map(|failed| failed.count).sum();
        Ok(Answers { at, failed, retries: load.retries })
    }
}

/// When answers came.
struct Answers {
    at: Vec<Duration>,
    failed: u64,
    retries: u64,
}

impl Answers {
    /// Answers per second, where each counts with the share of the time since the one before that lies between.
    fn per_second(&self, from: Duration, to: Duration) -> f64 {
        (self.until(to) - self.until(from)) / (to - from).as_secs_f64()
    }

    /// Answers until a moment: the next one counts in part, or with a dozen per second one more or less would be a difference.
    fn until(&self, moment: Duration) -> f64 {
        let count = self.at.partition_point(|at| *at <= moment);
        let before = count.checked_sub(1).map_or(Duration::ZERO, |last| self.at[last]);
        let share = self.at.get(count).map_or(0.0, |next| (moment - before).div_duration_f64(*next - before));
        count as f64 + share
    }

    fn longest_gap_ms(&self) -> f64 {
        let gaps = self.at.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default().as_secs_f64() * 1e3
    }
}
