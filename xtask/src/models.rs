//! `cargo xtask models`: `defer-host models` after set-up and build.

use std::process::ExitCode;

use anyhow::Result;

use crate::{setup, workspace};

/// Lists the networks known by name: origin, digest, licence, inputs, whether trained.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask models
  cargo xtask models --json")]
pub struct Args {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Task::Run)?;
    let mut flags = vec!["models"];
    if args.json {
        flags.push("--json");
    }
    workspace::build_and_become("defer-host", &flags)
}
