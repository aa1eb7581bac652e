//! `defer-host`: parses, calls, reports. The work is in the library.

use clap::{Parser, Subcommand};
use defer_host::client::{self, UsageError};
use defer_host::{build, commands, telemetry};
use std::process::ExitCode;
use std::time::Duration;

/// Runs one neural network over many small computers.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  defer-host build-stages --model ocr-rec --stages 4     cut a network into stages
  defer-host serve                                       run a node
  defer-host dispatch --pipeline dist/ocr-rec --node http://127.0.0.1:7700 …
  defer-host infer --model ocr-rec --input picture.png   ask the chain

Exit codes: 0 success, 2 wrong usage or configuration, 1 any other failure."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    BuildStages(build::BuildArgs),
    Profile(build::ProfileArgs),
    Cluster(commands::ClusterArgs),
    Serve(commands::ServeArgs),
    Dispatch(commands::DispatchArgs),
    Infer(client::InferArgs),
    Swap(commands::SwapArgs),
    Deploy(commands::DeployArgs),
    Inspect(commands::InspectArgs),
    Models(commands::ModelsArgs),
    Plan(defer_partition::command::PlanArgs),
}

/// How long work that cannot be broken off, such as loading a stage, may go on after the command is done.
const LEAVE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init_logs();
    let result = match cli.command {
        Command::BuildStages(args) => build::run(args),
        Command::Profile(args) => build::run_profile(&args),
        Command::Cluster(args) => run(commands::cluster(args)),
        Command::Inspect(args) => commands::inspect(&args),
        Command::Models(args) => commands::models(&args),
        Command::Plan(args) => commands::plan(&args),
        Command::Serve(args) => run(commands::serve(args)),
        Command::Dispatch(args) => run(commands::dispatch(args)),
        Command::Infer(args) => run(client::run(args)),
        Command::Swap(args) => run(commands::swap(args)),
        Command::Deploy(args) => run(commands::deploy(args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

fn run(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(LEAVE);
    result
}
