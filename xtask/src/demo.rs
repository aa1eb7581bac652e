//! `cargo xtask demo`: from a fresh machine to pictures read by a chain of nodes.

use std::process::ExitCode;

use anyhow::Result;

use crate::{setup, workspace};

/// Cuts a network into stages, runs them over nodes on this machine and compares with the uncut network.
///
/// Exit code 1 when the chain's results differ from the uncut network's. Ctrl-C leaves no process behind.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --model resnet50 --nodes 8")]
pub struct Args {
    /// A model of the catalogue, or the path of an .onnx file [default: the trained text-recognition network]
    #[arg(long)]
    model: Option<String>,
    /// Nodes, and as many stages [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// After `--`: further flags for `defer-lab demo`
    #[arg(last = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Task::Run)?;
    let mut flags = vec!["demo".to_owned()];
    if let Some(model) = &args.model {
        flags.extend(["--model".to_owned(), model.clone()]);
    }
    if let Some(nodes) = args.nodes {
        flags.extend(["--nodes".to_owned(), nodes.to_string()]);
    }
    flags.extend_from_slice(&args.rest);
    workspace::build_and_become("defer-lab", &flags)
}
