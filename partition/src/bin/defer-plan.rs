//! `defer-plan`: the planner alone, quick to build. `defer-host plan` is the same.

use clap::Parser;
use defer_partition::command::{self, PlanArgs};
use std::io::Write as _;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "defer-plan", version)]
struct Cli {
    #[command(flatten)]
    args: PlanArgs,
}

fn main() -> ExitCode {
    let text = match command::run(&Cli::parse().args, &|line| eprintln!("{line}")) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(if error.is_usage() { 2 } else { 1 });
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write the plan: {error}");
            ExitCode::FAILURE
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}
