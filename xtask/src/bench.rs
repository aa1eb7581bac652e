//! `cargo xtask bench NAME`: one benchmark, as a table or as one JSON document.

use std::process::ExitCode;

use anyhow::Result;

use crate::{setup, workspace};

/// Runs one benchmark and prints a table, or one JSON document.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench sandbox
  cargo xtask bench engine --json > engine.json
  cargo xtask bench engine -- --model resnet50 --rounds 60
  cargo xtask bench memory
  cargo xtask bench codec -- --each --model resnet50")]
pub struct Args {
    /// Which one: `sandbox` (what the boundary of the sandbox costs per call), `engine` (each engine behind wasi-nn
    /// against ONNX Runtime in Python, and slices against their whole), `memory` (what four nodes hold), `codec` (bytes,
    /// speed and error of each codec on real activations)
    name: String,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// After `--`: further flags for `defer-lab bench NAME`
    #[arg(last = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let compares = args.name == "engine";
    setup::ensure(if compares { setup::Task::Compare } else { setup::Task::Run })?;
    let mut flags = vec!["bench", &args.name];
    if args.json {
        flags.push("--json");
    }
    flags.extend(args.rest.iter().map(String::as_str));
    workspace::build_and_become("defer-lab", &flags)
}
