//! A file out of a Python wheel, through the machine's own `python3` and `pip`: they know its proxies, mirrors and
//! certificates, and a wheel stays in pip's cache.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Lines of pip's output that an error repeats.
const TAIL: usize = 6;

/// Copies one member of a zip file to standard output.
const EXTRACT: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member:
    shutil.copyfileobj(member, sys.stdout.buffer)";

/// A wheel cannot be had, or not what should be in it.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    #[error("cannot run {python}: {cause}; install Python 3 with pip (Debian: apt-get install python3-pip)")]
    NoPython { python: String, cause: io::Error },
    #[error("{python} has no pip; install it (Debian: apt-get install python3-pip)")]
    NoPip { python: String },
    #[error(
        "pip could not download {requirement}; check the network, or the index and proxy that pip is set up with; it said:\n{stderr}"
    )]
    Download { requirement: String, stderr: String },
    #[error("pip downloaded no wheel for {requirement}")]
    NoWheel { requirement: String },
    #[error("cannot take {member} out of the wheel of {requirement}:\n{stderr}")]
    Extract { requirement: String, member: String, stderr: String },
    #[error("no temporary directory for the wheel of {requirement}: {cause}; set TMPDIR to one with 50 MB free")]
    Temporary { requirement: String, cause: io::Error },
}

/// Downloads the wheel of `package` at exactly `version` and copies its `member` into `out`.
pub(crate) fn fetch_member(
    python: &str,
    package: &str,
    version: &str,
    member: &str,
    out: &File,
) -> Result<(), WheelError> {
    let requirement = format!("{package}=={version}");
    let temporary = |cause| WheelError::Temporary { requirement: requirement.clone(), cause };
    let dir = tempfile::tempdir().map_err(temporary)?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--dest"])
        .arg(dir.path())
        .arg(&requirement)
        .stdout(Stdio::null());
    let output = run(python, &mut pip)?;
    if !output.status.success() {
        let stderr = tail(&output.stderr);
        return Err(if stderr.contains("No module named pip") {
            WheelError::NoPip { python: python.to_owned() }
        } else {
            WheelError::Download { requirement, stderr }
        });
    }
    let wheel = std::fs::read_dir(dir.path())
        .map_err(temporary)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension() == Some("whl".as_ref()))
        .ok_or_else(|| WheelError::NoWheel { requirement: requirement.clone() })?;
    extract(python, &requirement, &wheel, member, out.try_clone().map_err(temporary)?)
}

fn extract(python: &str, requirement: &str, wheel: &Path, member: &str, out: File) -> Result<(), WheelError> {
    let mut unzip = Command::new(python);
    unzip.args(["-c", EXTRACT]).arg(wheel).arg(member).stdout(out);
    let output = run(python, &mut unzip)?;
    if output.status.success() {
        return Ok(());
    }
    Err(WheelError::Extract {
        requirement: requirement.to_owned(),
        member: member.to_owned(),
        stderr: tail(&output.stderr),
    })
}

fn run(python: &str, command: &mut Command) -> Result<Output, WheelError> {
    command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output())
        .map_err(|cause| WheelError::NoPython { python: python.to_owned(), cause })
}

/// The last lines, without blank ones.
fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let mut lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(TAIL).collect();
    lines.reverse();
    lines.join("\n")
}
