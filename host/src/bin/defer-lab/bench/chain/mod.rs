//! `defer-lab bench chain`: a chain of nodes with a share of a CPU and a link each, against one such node alone.
//!
//! The program runs twice: a supervisor outside, which makes the test bed and takes it down whatever happens, and the
//! benchmark itself inside the bed's hub.

mod awake;
mod bed;
mod chains;
mod group;
mod measure;
mod pace;
mod peers;
mod plot;
pub mod predict;
mod report;
mod rivals;
mod systems;

use crate::folder::Folder;
use crate::{cluster, subject, usage};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use defer_host::accuracy::Budget;
use defer_host::relay::{Codec, CodecChoice};
use rustix::process::Signal;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use systems::Bench;

/// An engine that nodes can be told to compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    Onnxruntime,
    Tract,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Onnxruntime => "onnxruntime",
            Self::Tract => "tract",
        }
    }
}

/// What the hops of a chain are told of codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codecs {
    Fixed(Codec),
    /// Nodes choose among lossless ones.
    Auto,
    /// Nodes choose, also among the lossy ones that the pipeline allows.
    AutoLossy,
}

const AUTO_LOSSY: &str = "auto+lossy";

impl Codecs {
    /// The flags of `dispatch`.
    fn flags(self) -> Vec<String> {
        let codec = |codec: CodecChoice| vec!["--codec".to_owned(), codec.to_string()];
        match self {
            Self::Fixed(fixed) => codec(CodecChoice::Fixed(fixed)),
            Self::Auto => [codec(CodecChoice::Auto), vec!["--lossless".to_owned()]].concat(),
            Self::AutoLossy => codec(CodecChoice::Auto),
        }
    }
}

impl fmt::Display for Codecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(codec) => codec.fmt(f),
            Self::Auto => CodecChoice::Auto.fmt(f),
            Self::AutoLossy => f.write_str(AUTO_LOSSY),
        }
    }
}

impl FromStr for Codecs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            AUTO_LOSSY => Ok(Self::AutoLossy),
            other => match other.parse::<CodecChoice>().map_err(|error| format!("{error}; also {AUTO_LOSSY}"))? {
                CodecChoice::Fixed(codec) => Ok(Self::Fixed(codec)),
                CodecChoice::Auto => Ok(Self::Auto),
            },
        }
    }
}

/// What a pipeline is cut for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Plan {
    /// For equal nodes, whatever joins them
    Uniform,
    /// For equal nodes and the rate of their links
    Link,
}

/// Tells the program inside which bed it is in.
const BED: &str = "DEFER_BED";
/// How long the program inside may take to end once it was told to.
const LEAVE: Duration = Duration::from_secs(5);

/// A chain of nodes, each with a share of one CPU and a link of its own, against one such node alone.
///
/// Network namespaces stand for machines, joined by one bridge; control groups hold their CPU and memory; token buckets their
/// links. Needs root. Everything is taken down at the end, and after Ctrl-C.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  defer-lab bench chain
  defer-lab bench chain --nodes 1,2,4,6,8 --link-mbit 1000 --engine onnxruntime --svg plots
  defer-lab bench chain --model vgg16 --nodes 4 --memory-mb 512 --cpu 0.4
  defer-lab bench chain --peers --json

Each row's vs_single is its throughput over that of the same engine alone on one such node, measured in the same run.")]
pub struct ChainArgs {
    /// A model of the catalogue, or the path of an .onnx file
    #[arg(long, default_value = "resnet50")]
    model: String,
    /// Nodes, and as many stages; several numbers for a row each
    #[arg(long, default_value = "8", value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: Vec<u8>,
    /// What a node has of one CPU
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    cpu: f64,
    /// Rates of the nodes' links, in Mbit/s
    #[arg(long, default_value = "1000,100,25", value_name = "R,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    link_mbit: Vec<u32>,
    /// Rate of the dispatcher's link; without, it is not held back
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    dispatcher_mbit: Option<u32>,
    /// Memory of a node in MiB, page cache included. Cuts are then planned for it, and for the link, as with --plan link
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(32..))]
    memory_mb: Option<u64>,
    /// Codecs of all hops: as `dispatch --codec` takes them, auto being lossless here; auto+lossy also uses lossy ones within
    /// the budget of --allow-lossy
    #[arg(long, default_value = "raw,auto,auto+lossy", value_name = "C,…", value_delimiter = ',')]
    codec: Vec<Codecs>,
    /// What lossy codecs may do to the answers, as build-stages takes it
    #[arg(long, default_value = "max-relative-error=0.01", value_name = "BUDGET")]
    allow_lossy: Budget,
    /// Whether cuts are the same for all rates, and each node finds out its codec by itself; or move with the link, whose rate
    /// the planner is then told: it says what codec each hop uses with auto, and may leave nodes out
    #[arg(long, default_value = "uniform", value_name = "HOW")]
    plan: Plan,
    /// Inference engines
    #[arg(long, default_value = "onnxruntime,tract", value_name = "E,…", value_delimiter = ',')]
    engine: Vec<Engine>,
    /// Counted time of each measurement, in seconds
    #[arg(long, default_value_t = 12.0, value_name = "S")]
    seconds: f64,
    /// Requests kept under way; by default twice as many as nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: Option<u16>,
    /// Also the DEFER method, as a TensorFlow program (installs TensorFlow into a virtual environment: 2 GB)
    #[arg(long)]
    peers: bool,
    /// Writes plots into this folder
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

impl ChainArgs {
    fn in_flight(&self, nodes: u8) -> u16 {
        self.in_flight.unwrap_or(u16::from(nodes) * 2)
    }

    fn check(&self) -> Result<()> {
        if !(group::SMALLEST_SHARE..=64.0).contains(&self.cpu) {
            let least = group::SMALLEST_SHARE;
            return Err(usage(format!("--cpu {} is no share of CPUs from {least} to 64; give one like 0.2", self.cpu)));
        }
        if self.peers && peers::keras_model(&self.model).is_none() {
            return Err(usage(format!("Keras has no network \"{}\"; leave out --peers", self.model)));
        }
        if !(self.seconds > 0.0 && self.seconds.is_finite()) {
            return Err(usage(format!("--seconds {} is no duration; give one like 12", self.seconds)));
        }
        Ok(())
    }
}

/// Runs the benchmark: outside the bed as its supervisor, inside as itself.
pub async fn run(args: ChainArgs) -> Result<()> {
    args.check()?;
    match std::env::var(BED) {
        Ok(bed) => inside(args, bed).await,
        Err(_) => supervise(std::slice::from_ref(&args.model)).await,
    }
}

/// Takes the bed down when dropped, whatever ended the benchmark.
struct Supervisor {
    bed: String,
    child: Option<std::process::Child>,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let pid = child.id().to_string();
            bed::signal(&pid, Signal::TERM);
            let end = std::time::Instant::now() + LEAVE;
            while matches!(child.try_wait(), Ok(None)) && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        bed::remove(&self.bed);
    }
}

/// Runs this program again inside a bed, where it will measure `models`.
async fn supervise(models: &[String]) -> Result<()> {
    // Whatever is fetched or installed comes now: the bed has no way out.
    for model in models {
        drop(subject::find(model.clone(), Vec::new()).await?);
    }
    bed::remove_stale();
    let bed = bed::name(std::process::id());
    let mut supervisor = Supervisor { bed: bed.clone(), child: None };
    bed::create(&bed)?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = bed::enter_hub(&bed, &program);
    command.args(std::env::args_os().skip(1)).env(BED, &bed).stdin(Stdio::null());
    let child = supervisor.child.insert(command.spawn().context("cannot run nsenter (package util-linux)")?);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    supervisor.child = None;
    drop(supervisor);
    match status.code() {
        Some(0) => Ok(()),
        Some(2) => Err(usage("see above")),
        _ => bail!("the benchmark failed ({status}), see above"),
    }
}

async fn inside(args: ChainArgs, bed: String) -> Result<()> {
    let folder = Folder::new("bed")?;
    let subject = subject::find(args.model.clone(), Vec::new()).await?;
    let bed = bed::Bed::open(bed)?;
    let bench = Bench::new(&args, subject, bed, folder, cluster::binary()?);
    let (rows, result) = bench.run().await;
    if let Some(dir) = &args.svg {
        plot::write(dir, &args.model, &rows)?;
    }
    super::report(args.json, "chain", &rows, report::table_of)?;
    result
}

/// The smallest of `sorted` that at least `share` percent of all do not exceed, in ms; 0 where there are none.
pub(super) fn percentile(sorted: &[Duration], share: usize) -> f64 {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
