//! `cargo xtask build-stages`: `defer-host build-stages` after set-up and build.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{setup, workspace};

/// Cuts a network into stages: writes DIR/pipeline.json and DIR/stage-<i>.wasm
///
/// All flags go to `defer-host build-stages`:
///   --model <path.onnx or catalogue name>   the network
///   --stages N                              how many
///   --out DIR                               default: dist/<model>
///   --cut T1,T2,…                           cut at these tensors instead of planning
///   --allow-lossy BUDGET                    lets hops use lossy codecs: max-relative-error=X or top1-agreement=Y
///   --dim name=value                        fix a symbolic dimension while profiling; repeatable
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "cargo xtask build-stages --model <MODEL> --stages <N> [FLAGS]…",
    after_help = "Examples:
  cargo xtask build-stages --model resnet50 --stages 8
  cargo xtask build-stages --model net.onnx --stages 3 --out dist/net --dim width=320"
)]
pub struct Args {
    /// As above
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Task::Run)?;
    let mut all = vec![OsString::from("build-stages")];
    all.extend_from_slice(&args.flags);
    workspace::build_and_become("defer-host", &all)
}
