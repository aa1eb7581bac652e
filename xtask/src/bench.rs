//! `cargo xtask bench NAME`: one benchmark, as a table or as one JSON document.

use std::process::ExitCode;

use anyhow::Result;

use crate::{setup, workspace};

/// Runs one benchmark and prints a table, or one JSON document.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench sandbox
  cargo xtask bench engine --json > engine.json
  cargo xtask bench engine --model resnet50 --rounds 60
  cargo xtask bench portable
  cargo xtask bench memory
  cargo xtask bench plan
  cargo xtask bench swap
  cargo xtask bench recover --model ocr-rec
  cargo xtask bench overload
  cargo xtask bench codec --each --model resnet50
  cargo xtask bench chain --nodes 1,2,4,6,8 --link-mbit 1000 --svg plots
  cargo xtask bench predict
  cargo xtask bench chain -- --help")]
pub struct Args {
    /// Which one: `sandbox` (what the boundary of the sandbox costs per call), `portable` (the
    /// same as machine code and interpreted; the program's size, start-up and idle memory), `engine` (each engine behind wasi-nn
    /// against ONNX Runtime in Python, and slices against their whole), `memory` (what four nodes hold), `plan`
    /// (the planner against others and against what is possible, and how long it takes), `swap` (throughput
    /// around the swap of a stage), `recover` (time without an answer when a node is lost), `codec` (what
    /// codecs make of activations, and how fast), `chain` (a chain of slow nodes against one of them),
    /// `predict` (what plans promise on unequal machines, against what their chains do)
    name: String,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// Further flags, which differ from benchmark to benchmark: see `cargo xtask bench NAME -- --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let has = |flag: &str| args.rest.iter().any(|rest| rest == flag);
    setup::ensure(match args.name.as_str() {
        _ if has("--help") => setup::Task::Run,
        "engine" => setup::Task::Compare,
        "chain" if has("--peers") => setup::Task::Peers,
        "chain" | "predict" => setup::Task::Bed,
        _ => setup::Task::Run,
    })?;
    let mut flags = vec!["bench", &args.name];
    if args.json {
        flags.push("--json");
    }
    flags.extend(args.rest.iter().map(String::as_str));
    workspace::build_and_become("defer-lab", &flags)
}
