//! `defer-lab bench NAME`: one benchmark per file.

mod machine;
mod sandbox;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

#[derive(Subcommand, Debug)]
pub enum Bench {
    Sandbox(sandbox::SandboxArgs),
}

/// Runs one benchmark. Blocks for as long as that takes.
pub fn run(which: &Bench) -> Result<()> {
    match which {
        Bench::Sandbox(args) => sandbox::run(args),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<R> {
    bench: &'static str,
    machine: machine::Machine,
    rows: Vec<R>,
}
