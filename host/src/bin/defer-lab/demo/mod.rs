//! `defer-lab demo`: a network, cut into stages, run by a chain of node processes, and compared with itself uncut.

mod report;
mod whole;

use crate::chain::{Chain, Emulated};
use crate::folder::Folder;
use crate::step::Step;
use crate::subject::{self, Subject};
use crate::{cluster, stages, stats};
use anyhow::{Result, bail};
use clap::Args;
use defer_host::client::{self, InferArgs, Load};
use defer_partition::dims::parse_dim;
use report::Report;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// More requests under way than nodes, so that each has one to compute and one to go on with.
const AHEAD: u16 = 2;
/// What a dispatcher takes at once by default is well over this.
const UNDER_WAY: u16 = 32;

/// Cuts a network into stages, runs them over nodes on this machine and compares with the uncut network.
///
/// Exit code 1 when the chain's results differ from the uncut network's. Ctrl-C leaves no process behind.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab demo
  defer-lab demo --model resnet50 --nodes 8
  defer-lab demo --model net.onnx --nodes 3 --dim width=320")]
pub struct DemoArgs {
    /// A model of the catalogue, or the path of an .onnx file
    #[arg(long, default_value = subject::DEFAULT)]
    model: String,
    /// Nodes, and as many stages
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    nodes: u16,
    /// How often each input is sent, and run through the uncut network, for the timings
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Size of an open dimension of an .onnx file's inputs; may be repeated
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = parse_dim)]
    dims: Vec<(String, usize)>,
    /// Runs every other node with this program, which emulates another architecture (`cargo xtask demo --mixed`)
    #[arg(long, value_name = "FILE")]
    emulated: Option<PathBuf>,
    /// The onnxruntime library of that architecture; without it, tract computes there
    #[arg(long, value_name = "FILE", requires = "emulated")]
    emulated_ort_lib: Option<PathBuf>,
}

/// Runs the demo: progress on stderr, the report on stdout.
pub async fn run(args: DemoArgs) -> Result<()> {
    let binary = cluster::binary()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = usize::from(args.nodes);

    let subject = subject::find(args.model.clone(), args.dims.clone()).await?;
    let folder = Folder::new("demo")?;
    eprintln!("everything that follows is in {}, which is removed at the end", folder.path().display());
    let pipeline =
        stages::build(&binary, &subject, (count, "auto"), &args.dims, None, &folder.path().join("stages")).await?;
    let emulated = args.emulated.clone().map(|program| Emulated { program, ort_lib: args.emulated_ort_lib.clone() });
    if emulated.is_some() {
        for stage in &pipeline.stages {
            println!("{} {}", stage.digest, stage.file);
        }
        println!("nodes 1, 3, … run these files in emulation of another architecture");
    }
    let threads = (cores / count).max(1);
    let chain = Chain::start_mixed(&binary, emulated.as_ref(), folder.path(), count, threads).await;
    // Declared after the folder: stopped before its files go.
    let mut chain = chain?;
    chain.deploy(&binary, &folder.path().join("stages"), &[]).await?;

    let load = send(&args, &subject, &mut chain).await?;
    let stages = stats::collect(&chain.node_urls(), &pipeline.name).await?;
    let step = Step::spinner("stopping the processes");
    tokio::task::spawn_blocking(move || drop(chain)).await?;
    step.done("dispatcher and nodes stopped");

    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let (file, requests) = (subject.file.clone(), subject.inputs());
    let (repeat, total) = (args.repeat, u64::from(args.repeat) * requests.len() as u64);
    let step = Step::bar("running the uncut network", total);
    let bar = step.handle();
    let whole = tokio::task::spawn_blocking(move || whole::run(&file, &requests, repeat, cores, &bar, &stop)).await??;
    step.done(&format!("the uncut network computed {total} requests"));

    let report = Report::new(&subject, &pipeline, &stages, load, &whole, UNDER_WAY.min(args.nodes + AHEAD), cores)?;
    print!("{report}");
    report.verdict()
}

/// Sends the inputs through the chain's inference port.
async fn send(args: &DemoArgs, subject: &Subject, chain: &mut Chain) -> Result<Load> {
    let inputs = subject.inputs();
    let requests = inputs.len() as u64 * u64::from(args.repeat);
    let infer = InferArgs {
        url: chain.inference_url().to_owned(),
        model: subject.name.clone(),
        inputs: Vec::new(),
        output: None,
        repeat: u64::from(args.repeat),
        concurrency: UNDER_WAY.min(args.nodes + AHEAD),
        timeout: 300,
        retries: 8,
        token_file: None,
        json: false,
    };
    // Its bar comes from the client itself.
    let step = Step::quiet();
    let load = tokio::select! {
        load = client::send(&infer, &inputs) => load?,
        // Requests would wait for it until their time is over.
        () = chain.end_of_any() => bail!("the chain broke{}", chain.last_words()),
    };
    if let Some((kind, failed)) = load.failures.first_key_value() {
        let (count, example) = (load.failed(), &failed.example);
        bail!("{count} of {requests} requests failed, the first ones by {kind}: {example}{}", chain.last_words());
    }
    step.done(&format!("the chain answered {requests} requests"));
    Ok(load)
}
