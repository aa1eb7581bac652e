//! `cargo xtask accuracy`: whether lossy codecs keep to their budgets.

use std::process::ExitCode;

use anyhow::Result;

use crate::{setup, workspace};

/// Checks that pipelines with lossy codecs keep to their budgets, through real nodes, on inputs not calibrated with.
///
/// Exit code 1 where a budget does not hold.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask accuracy
  cargo xtask accuracy --model ocr-rec --allow-lossy top1-agreement=0.999
  cargo xtask accuracy --pipeline dist/ocr-rec --json
  cargo xtask accuracy -- --help")]
pub struct Args {
    /// Flags of `defer-lab accuracy`: --model M (may be repeated; default: the trained networks), --pipeline DIR,
    /// --allow-lossy BUDGET, --nodes N, --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Task::Run)?;
    let mut all = vec!["accuracy"];
    all.extend(args.flags.iter().map(String::as_str));
    workspace::build_and_become("defer-lab", &all)
}
