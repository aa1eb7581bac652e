//! `defer-lab`: shows and measures `defer-host` on this machine, with real processes and the real engine. Not shipped.

mod accuracy;
mod bench;
mod chain;
mod cluster;
mod compare;
mod demo;
mod folder;
mod http;
mod soak;
mod stages;
mod stats;
mod step;
mod subject;
mod table;

use anyhow::Result;
use clap::{Parser, Subcommand};
use defer_host::client::UsageError;
use defer_host::telemetry;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long work that cannot be broken off may still take after an interruption.
const LEAVE: Duration = Duration::from_secs(3);

/// Shows and measures defer-host on this machine.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  defer-lab demo                        pictures of text, read by a chain of four nodes
  defer-lab demo --model resnet50 --nodes 8
  defer-lab accuracy                    whether lossy codecs keep to their budget
  defer-lab soak --seed 7               faults and changes under load, every request accounted for
  defer-lab bench sandbox --json        what the sandbox costs per call
  defer-lab bench engine --model vgg16  engines against ONNX Runtime in Python

Exit codes: 0 success, 2 wrong usage or configuration, 1 any other failure."
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Demo(demo::DemoArgs),
    Accuracy(accuracy::AccuracyArgs),
    Soak(soak::SoakArgs),
    /// Runs one benchmark: a table, or one JSON document
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    telemetry::init_logs();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let task = async {
            match cli.task {
                Task::Demo(args) => demo::run(args).await,
                Task::Accuracy(args) => accuracy::run(args).await,
                Task::Soak(args) => soak::run(args).await,
                Task::Bench(bench::Bench::Chain(args)) => bench::chain::run(args).await,
                Task::Bench(bench::Bench::Predict(args)) => bench::chain::predict::run(args).await,
                Task::Bench(which) => tokio::task::spawn_blocking(move || bench::run(&which)).await?,
            }
        };
        // What is dropped on a signal stops the processes that it has started.
        tokio::select! {
            result = task => result,
            result = interruption() => result,
        }
    });
    runtime.shutdown_timeout(LEAVE);
    Ok(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    })
}

fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    UsageError(error.to_string()).into()
}

/// Ends, with an error, when somebody wants this program to stop.
async fn interruption() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
    };
    anyhow::bail!("interrupted ({name}); everything that was started has been stopped")
}
