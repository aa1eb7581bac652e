//! `cargo xtask demo`: from a fresh machine to pictures read by a chain of nodes.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::{
    cross::{AARCH64, ARMV7, Cross},
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
  cargo xtask demo --mixed        every other node is an aarch64 one, in emulation
  cargo xtask demo --mixed=armv7  the same with 32-bit ARM, which computes with tract")]
pub struct Args {
    /// A model of the catalogue, or the path of an .onnx file [default: the trained text-recognition network]
    #[arg(long)]
    model: Option<String>,
    /// Nodes, and as many stages [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// Every other node runs on another architecture, emulated here: aarch64 or armv7 [its default model: ocr-cls, which is
    /// small]
    #[arg(long, value_name = "ARCH", num_args = 0..=1, default_missing_value = "aarch64", require_equals = true, value_parser = arch)]
    mixed: Option<&'static Cross>,
    /// After `--`: further flags for `defer-lab demo`
    #[arg(last = true)]
    rest: Vec<String>,
}

fn arch(text: &str) -> Result<&'static Cross, String> {
    match text {
        "aarch64" => Ok(&AARCH64),
        "armv7" => Ok(&ARMV7),
        _ => Err("there are aarch64 and armv7".to_owned()),
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(args.mixed.map_or(setup::Task::Run, setup::Task::Mixed))?;
    let mut flags = vec!["demo".to_owned()];
    let small = args.mixed.map(|_| "ocr-cls".to_owned());
    if let Some(model) = args.model.clone().or(small) {
        flags.extend(["--model".to_owned(), model]);
    }
    if let Some(cross) = args.mixed {
        eprintln!("build: defer-host for {}, which takes long the first time", cross.triple);
        let program = cross.emulated(&root(), &target_dir()?).map_err(|error| anyhow!(error))?;
        flags.extend(["--emulated".to_owned(), program.display().to_string()]);
        if *cross == AARCH64 {
            let library = onnxruntime::folder_for(&Machine::from_env()?, "aarch64").join("libonnxruntime.so");
            flags.extend(["--emulated-ort-lib".to_owned(), library.display().to_string()]);
        }
    }
    if let Some(nodes) = args.nodes {
        flags.extend(["--nodes".to_owned(), nodes.to_string()]);
    }
    flags.extend_from_slice(&args.rest);
    workspace::build_and_become("defer-lab", &flags)
}
