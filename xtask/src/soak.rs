//! `cargo xtask soak`: faults and changes under load, with every request accounted for.

use std::process::ExitCode;

use anyhow::Result;

use crate::{setup, workspace};

/// Kills, freezes, cuts off and changes a chain that is asked all the while, and accounts for every request.
///
/// Exit code 1 where a request was answered wrong, twice, by two generations or not at all.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask soak
  cargo xtask soak --minutes 60 --seed 7
  cargo xtask soak -- --svg soak.svg
  cargo xtask soak -- --help")]
pub struct Args {
    /// How long the chain is asked
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// What the schedule of faults is drawn from
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// After `--`: further flags for `defer-lab soak`
    #[arg(last = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Task::Run)?;
    let mut flags = vec!["soak".to_owned()];
    flags.extend(args.minutes.map(|minutes| format!("--minutes={minutes}")));
    flags.extend(args.seed.map(|seed| format!("--seed={seed}")));
    flags.extend(args.json.then(|| "--json".to_owned()));
    flags.extend(args.rest.iter().cloned());
    workspace::build_and_become("defer-lab", &flags)
}
