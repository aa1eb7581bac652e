//! `defer-host cluster`: which machines there are, and what they and the links between them can do.

mod discover;
mod probe;
mod proof;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Finds and measures the machines that pipelines are to run on
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host cluster discover
  defer-host cluster probe --node http://pi-1:7700 http://pi-2:7700 --out cluster.toml")]
pub struct ClusterArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Discover(discover::DiscoverArgs),
    Probe(probe::ProbeArgs),
}

/// Runs the command.
pub async fn cluster(args: ClusterArgs) -> Result<()> {
    match args.what {
        What::Discover(args) => discover::discover(args).await,
        What::Probe(args) => probe::probe(args).await,
    }
}
