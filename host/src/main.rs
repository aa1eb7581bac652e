//! `defer-host`: parses, calls, reports. The work is in the library.

use clap::{Parser, Subcommand};
use defer_host::client::{self, UsageError};
use defer_host::{build, commands, telemetry};
use std::process::ExitCode;

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
    Serve(commands::ServeArgs),
    Dispatch(commands::DispatchArgs),
    Infer(client::InferArgs),
    Inspect(commands::InspectArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init_logs();
    let result = match cli.command {
        Command::BuildStages(args) => tokio::task::block_in_place(|| build::run(args)),
        Command::Serve(args) => commands::serve(args).await,
        Command::Dispatch(args) => commands::dispatch(args).await,
        Command::Infer(args) => client::run(args).await,
        Command::Inspect(args) => commands::inspect(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}
