//! `cargo xtask`: sets the machine up, builds, and runs `defer-host` or `defer-lab`. It knows nothing of networks or
//! engines, so that it compiles in seconds on a machine with nothing but rustup.

mod accuracy;
mod bench;
mod build_stages;
mod cross;
mod demo;
mod models;
mod outer_build;
mod packages;
mod plan;
mod profile;
mod setup;
mod soak;
mod test;
mod wasm_toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets the machine up, builds, tests and runs defer-host.
///
/// Exit code: 0 on success, 2 for a usage error, else that of what was run.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    Demo(demo::Args),
    /// Runs everything that CI runs: format, lint, build (with the guest, from source), all tests, a short soak
    Test,
    BuildStages(build_stages::Args),
    Plan(plan::Args),
    Profile(profile::Args),
    Bench(bench::Args),
    Accuracy(accuracy::Args),
    Soak(soak::Args),
    Models(models::Args),
    Dist(packages::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test => test::run(),
        Task::BuildStages(args) => build_stages::run(&args),
        Task::Plan(args) => plan::run(&args),
        Task::Profile(args) => profile::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Accuracy(args) => accuracy::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Models(args) => models::run(&args),
        Task::Dist(args) => packages::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
