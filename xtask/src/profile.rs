//! `cargo xtask profile`: `defer-host profile` after set-up and build.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{setup, workspace};

/// Measures what a network's parts and the cuts between them cost here, and writes it to profile.json
///
/// All flags go to `defer-host profile`:
///   --model <path.onnx or catalogue name>   the network
///   --out FILE                              default: dist/<model>/profile.json
///   --dim name=value                        fix a symbolic dimension while profiling; repeatable
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "cargo xtask profile --model <MODEL> [FLAGS]…",
    after_help = "Examples:
  cargo xtask profile --model resnet50
  cargo xtask profile --model net.onnx --dim width=320 --out net.json --json"
)]
pub struct Args {
    /// As above
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Task::Run)?;
    let mut all = vec![OsString::from("profile")];
    all.extend_from_slice(&args.flags);
    workspace::build_and_become("defer-host", &all)
}
