//! `cargo xtask plan`: the planner alone. Builds nothing but it, which takes seconds.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::workspace;

/// Plans a chain for machines of given speeds and links
///
/// All flags go to the planner:
///   --profile FILE                       what the network costs (profile.json)
///   --cluster FILE                       the machines (cluster.toml)
///   --json                               one JSON document on stdout, all else on stderr
///   --objective throughput|latency       what to be good at [default: throughput]
///   --max-stages N                       most stages
///   --replicas off|auto                  whether a stage may run on several nodes, up to whole
///                                        copies of the network [default: auto]
///   --codec C1,C2,…                      codecs that hops may use [default: all of the profile]
///   --budget-s S                         seconds to look where not all plans can be looked at [default: 10]
///   --seed N                             the same seed gives the same plan, unless the clock ends the
///                                        search, which it says then [default: 1]
///   --svg FILE                           draws where the time goes, and the alternatives
///   --verbose                            tells how the plan was found
///
/// Exit code: 0 on success, 2 for a usage error or a bad file, 1 when no plan is possible.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "cargo xtask plan --profile <FILE> --cluster <FILE> [FLAGS]…",
    after_help = "Examples:
  cargo xtask plan --profile profile.json --cluster cluster.toml
  cargo xtask plan --profile profile.json --cluster cluster.toml --replicas off --svg plan.svg"
)]
pub struct Args {
    /// As above
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    workspace::build_alone_and_become("defer-partition", "defer-plan", &args.flags)
}
