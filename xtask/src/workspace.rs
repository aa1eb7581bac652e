//! Where the workspace is, and how its programs are built and run.

use std::{
    env,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    time::Instant,
};

use anyhow::{Context, Result, anyhow};

/// The repository's root.
pub fn root() -> PathBuf {
    // Cargo says where the checkout is now; the compiled-in path says where it was when xtask was built.
    let manifest_dir = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest_dir).parent().expect("xtask/ lies in the repository").to_path_buf()
}

/// Cargo in the repository's root: the one that runs this xtask.
pub fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root());
    cargo
}

/// Builds `defer-host` and `defer-lab` in release, then becomes `program` with `args`, in the caller's directory.
///
/// Returns only when something failed before that: the exit code is then cargo's.
pub fn build_and_become<S: AsRef<std::ffi::OsStr>>(program: &str, args: &[S]) -> Result<ExitCode> {
    let started = Instant::now();
    eprintln!("build: defer-host, release (the first time takes some minutes)");
    let status = cargo(&["build", "--release", "-p", "defer-host", "--bins"]).status().context("cannot run cargo")?;
    if !status.success() {
        return Ok(exit_code(status));
    }
    eprintln!("build: done in {}", seconds(started));
    become_program(program, args)
}

/// The same for a `program` of a `package` that is quick to build; says nothing.
pub fn build_alone_and_become<S: AsRef<std::ffi::OsStr>>(package: &str, program: &str, args: &[S]) -> Result<ExitCode> {
    let build = ["build", "--release", "--quiet", "-p", package, "--bin", program];
    let status = cargo(&build).status().context("cannot run cargo")?;
    if !status.success() {
        return Ok(exit_code(status));
    }
    become_program(program, args)
}

/// A `program` of the release build, which must have been built.
pub fn program(program: &str, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(release_dir()?.join(program));
    command.args(args).current_dir(root());
    Ok(command)
}

fn become_program<S: AsRef<std::ffi::OsStr>>(program: &str, args: &[S]) -> Result<ExitCode> {
    // Replaced, not waited for: Ctrl-C and the exit code are then the program's own business.
    let path = release_dir()?.join(program);
    let error = Command::new(&path).args(args).exec();
    Err(anyhow!(error).context(format!("cannot run {}", path.display())))
}

/// Cargo's target directory.
pub fn target_dir() -> Result<PathBuf> {
    let release = release_dir()?;
    Ok(release.parent().expect("it ends in the profile's name").to_path_buf())
}

/// Where cargo puts release builds: beside the profile that this xtask was built with, whatever target directory is set.
fn release_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot tell where xtask is")?;
    let profile = exe.parent().and_then(Path::parent);
    Ok(profile.with_context(|| format!("{} is not in cargo's target directory", exe.display()))?.join("release"))
}

/// The child's code; 1 when a signal ended it.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Time since `started`, for people: `0.2 s`, `83 s`, `7 min 5 s`.
pub fn seconds(started: Instant) -> String {
    let elapsed = started.elapsed().as_secs_f64();
    match elapsed {
        ..10.0 => format!("{elapsed:.1} s"),
        ..120.0 => format!("{elapsed:.0} s"),
        _ => format!("{:.0} min {:.0} s", (elapsed / 60.0).floor(), elapsed % 60.0),
    }
}
