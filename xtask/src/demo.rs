//! `cargo xtask demo`: from a fresh machine to pictures read by a chain of nodes.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::{
    cross::AARCH64,
    setup::{self, Machine, onnxruntime},
    workspace::{self, root, target_dir},
};

/// Cuts a network into stages, runs them over nodes on this machine and compares with the uncut network.
///
/// Exit code 1 when the chain's results differ from the uncut network's. Ctrl-C leaves no process behind.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --model resnet50 --nodes 8
  cargo xtask demo --mixed        every other node is an aarch64 one, in emulation")]
pub struct Args {
    /// A model of the catalogue, or the path of an .onnx file [default: the trained text-recognition network]
    #[arg(long)]
    model: Option<String>,
    /// Nodes, and as many stages [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// Every other node runs on aarch64, emulated here [its default model: ocr-cls, which is small]
    #[arg(long)]
    mixed: bool,
    /// After `--`: further flags for `defer-lab demo`
    #[arg(last = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(if args.mixed { setup::Task::Mixed } else { setup::Task::Run })?;
    let mut flags = vec!["demo".to_owned()];
    let small = args.mixed.then(|| "ocr-cls".to_owned());
    if let Some(model) = args.model.clone().or(small) {
        flags.extend(["--model".to_owned(), model]);
    }
    if args.mixed {
        eprintln!("build: defer-host for aarch64, which takes some minutes the first time");
        let program = AARCH64.emulated(&root(), &target_dir()?).map_err(|error| anyhow!(error))?;
        let library = onnxruntime::folder_for(&Machine::from_env()?, "aarch64").join("libonnxruntime.so");
        flags.extend(["--emulated".to_owned(), program.display().to_string()]);
        flags.extend(["--emulated-ort-lib".to_owned(), library.display().to_string()]);
    }
    if let Some(nodes) = args.nodes {
        flags.extend(["--nodes".to_owned(), nodes.to_string()]);
    }
    flags.extend_from_slice(&args.rest);
    workspace::build_and_become("defer-lab", &flags)
}
