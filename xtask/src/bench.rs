//! `cargo xtask bench NAME`: one benchmark, as a table or as one JSON document.

use std::process::ExitCode;

use anyhow::Result;

use crate::{setup, workspace};

/// Runs one benchmark and prints a table, or one JSON document.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench sandbox
  cargo xtask bench sandbox --json > sandbox.json")]
pub struct Args {
    /// Which one: `sandbox` (what the boundary of the sandbox costs per call)
    name: String,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// After `--`: further flags for `defer-lab bench NAME`
    #[arg(last = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Task::Run)?;
    let mut flags = vec!["bench", &args.name];
    if args.json {
        flags.push("--json");
    }
    flags.extend(args.rest.iter().map(String::as_str));
    workspace::build_and_become("defer-lab", &flags)
}
