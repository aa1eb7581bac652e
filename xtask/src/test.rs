//! `cargo xtask test`: what CI runs.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{
    setup,
    workspace::{cargo, exit_code, program, root, seconds},
};

/// With what it takes to cut its networks and to start, a soak of about a minute.
const SOAK: &str = "--minutes=0.9";

/// Everything in release: demo and benchmarks run the same build, and each crate is compiled once for use.
pub fn run() -> Result<ExitCode> {
    let started = Instant::now();
    let mut times = Vec::new();
    setup::ensure(setup::Task::Test)?;
    times.push(format!("setup {}", seconds(started)));
    for (name, mut command) in steps()? {
        let line = shown(&command);
        println!("\n== {name}: {line}");
        let step = Instant::now();
        let status = command.status().with_context(|| format!("cannot run {line}"))?;
        times.push(format!("{name} {}", seconds(step)));
        if !status.success() {
            println!("\n== {name} FAILED ({})", times.join(", "));
            return Ok(exit_code(status));
        }
    }
    println!("\n== all passed in {} ({})", seconds(started), times.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// Cheapest first. The guest is built from source by host's build script, in the build step.
fn steps() -> Result<Vec<(&'static str, Command)>> {
    let guest_format = |folder: &str| {
        let mut format = cargo(&["fmt", "--check"]);
        format.current_dir(root().join(folder));
        format
    };
    let workspace = ["--release", "--locked", "--workspace"];
    let with = |before: &[&str], after: &[&str]| cargo(&[before, &workspace, after].concat());
    Ok(vec![
        ("format", cargo(&["fmt", "--all", "--check"])),
        ("guest format", guest_format("stage-guest")),
        ("hostile guests format", guest_format("host/tests/guests")),
        ("lint", with(&["clippy"], &["--all-targets", "--", "-D", "warnings"])),
        // The features that the tests' own dependencies need are the same in this build and in the next step.
        ("build", with(&["test"], &["--no-run"])),
        ("test", with(&["test"], &["--no-fail-fast"])),
        // The step before has built it.
        ("soak", program("defer-lab", &["soak", "--seed=1", SOAK])?),
    ])
}

fn shown(command: &Command) -> String {
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    std::iter::once(name).chain(args).collect::<Vec<_>>().join(" ")
}
