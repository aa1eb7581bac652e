//! `defer-lab bench alone`: one engine computes one network in a loop. `bench chain` runs it as a process of its own, with
//! a node's share of CPU and memory: what one device does without a chain or a relay. The network is loaded as a node loads
//! a stage, from one artifact that holds all of it: where memory is short, weights are then read from disk and dropped again,
//! instead of the process being killed.

use crate::bench::engine::contest::Contestant as _;
use crate::bench::engine::stages::Stages;
use crate::subject;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use defer_host::engine::{self, Choice};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Runs that are not counted.
const WARM_UP: usize = 2;

#[derive(Args, Debug)]
pub struct AloneArgs {
    /// A model of the catalogue, or the path of an .onnx file
    #[arg(long)]
    model: String,
    /// Folder with the model as a pipeline of one stage
    #[arg(long)]
    pipeline: PathBuf,
    #[arg(long, default_value = "auto")]
    engine: Choice,
    /// How long to go on
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// What it prints, as one line of JSON; scripts in other languages that stand for other systems print the same.
#[derive(Debug, Serialize, Deserialize)]
pub struct Alone {
    pub inferences: u64,
    pub seconds: f64,
    /// CPU time that the counted inferences took, in ms each.
    pub cpu_ms_per_inference: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub peak_memory_mb: f64,
    /// Page faults that had to read from a disk, per inference.
    pub major_faults_per_inference: f64,
}

pub fn run(args: &AloneArgs) -> Result<()> {
    ensure!(args.seconds > 0.0, "--seconds takes a positive number");
    let subject = tokio::runtime::Handle::current().block_on(subject::find(args.model.clone(), Vec::new()))?;
    let engine = engine::open(args.engine, None)?;
    let requests = subject.inputs();
    let mut whole = Stages::load(&args.pipeline, &engine, &[])?;
    let mut times = Vec::new();
    let mut one = |n: usize| -> Result<Duration> {
        whole.set_inputs(&requests[n % requests.len()]);
        let started = Instant::now();
        whole.run()?;
        Ok(started.elapsed())
    };
    (0..WARM_UP).try_for_each(|n| one(n).map(drop))?;
    let (before, started) = (Usage::now()?, Instant::now());
    while started.elapsed().as_secs_f64() < args.seconds {
        times.push(one(times.len())?);
    }
    let seconds = started.elapsed().as_secs_f64();
    let used = Usage::now()?;
    let count = times.len() as f64;
    times.sort_unstable();
    let alone = Alone {
        inferences: times.len() as u64,
        seconds,
        cpu_ms_per_inference: (used.cpu_ms - before.cpu_ms) / count,
        p50_ms: super::chain::percentile(&times, 50),
        p99_ms: super::chain::percentile(&times, 99),
        peak_memory_mb: peak_memory_mb("self"),
        major_faults_per_inference: (used.major_faults - before.major_faults) / count,
    };
    let line = serde_json::to_string(&alone)? + "\n";
    std::io::stdout().write_all(line.as_bytes()).context("cannot write the result")
}

/// What this process has used.
struct Usage {
    cpu_ms: f64,
    major_faults: f64,
}

impl Usage {
    fn now() -> Result<Self> {
        let (ticks, major_faults) = stat("self")?;
        Ok(Self { cpu_ms: ticks * 1e3 / rustix::param::clock_ticks_per_second() as f64, major_faults })
    }
}

/// CPU time in clock ticks, and major page faults, of `process`, from `/proc/<pid>/stat`.
pub fn stat(process: &str) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything.
    let rest = text.rsplit_once(") ").context("no process name in /proc/<pid>/stat")?.1;
    let field = |n: usize| -> Result<f64> {
        Ok(rest.split(' ').nth(n - 3).context("a field is missing in /proc/<pid>/stat")?.parse()?)
    };
    // Fields by their number in proc(5): 12 majflt, 14 utime, 15 stime.
    Ok((field(14)? + field(15)?, field(12)?))
}

/// The most memory that `process` has had resident.
pub fn peak_memory_mb(process: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    peak.unwrap_or_default() / 1024.0
}
