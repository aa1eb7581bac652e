//! `defer-host` as a file and as an idle process.

use crate::folder::Folder;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// After being ready, until memory is looked at.
const SETTLED: Duration = Duration::from_secs(1);

/// A node without stages.
pub struct Idle {
    pub ready_ms: f64,
    pub resident_mb: f64,
    pub anonymous_mb: f64,
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a node with further `flags`, looks at it, and ends it.
pub fn start(binary: &Path, flags: &[&str]) -> Result<Idle> {
    let state = Folder::new("portable")?;
    let mut command = Command::new(binary);
    command.args(["serve", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0", "--state-dir"]).arg(state.path());
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let started = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
    let mut node = Running(child);
    let stdout = node.0.stdout.take().context("its stdout is piped")?;
    let addresses = BufReader::new(stdout).lines().map_while(Result::ok).filter(|line| line.starts_with("listening "));
    ensure!(addresses.take(2).count() == 2, "{} did not open its ports", binary.display());
    let ready_ms = started.elapsed().as_secs_f64() * 1e3;
    thread::sleep(SETTLED);
    let file = format!("/proc/{}/status", node.0.id());
    let status = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let mb = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib * 1024.0 / 1e6).with_context(|| format!("{file} has no {field}"))
    };
    Ok(Idle { ready_ms, resident_mb: mb("VmRSS")?, anonymous_mb: mb("RssAnon")? })
}

/// A program's file.
pub struct Size {
    pub arch: &'static str,
    pub stripped_mb: f64,
}

/// The size of `program` without its symbols, whose architecture's own `strip` takes them out.
pub fn size(program: &Path) -> Result<Size> {
    let name = program.display();
    let bytes = fs::read(program).with_context(|| format!("cannot read {name}"))?;
    // e_machine of the ELF header.
    let (arch, tools) = match bytes.get(..4).zip(bytes.get(18..20)) {
        Some((b"\x7fELF", [62, 0])) => ("x86_64", "x86_64-linux-gnu-strip"),
        Some((b"\x7fELF", [183, 0])) => ("aarch64", "aarch64-linux-gnu-strip"),
        Some((b"\x7fELF", [40, 0])) => ("arm", "arm-linux-gnueabihf-strip"),
        _ => bail!("{name} is no program of an architecture that defer-host is built for"),
    };
    let strip = if arch == std::env::consts::ARCH { "strip" } else { tools };
    let folder = Folder::new("strip")?;
    let stripped = folder.path().join("defer-host");
    let status = Command::new(strip).args(["--strip-all", "-o"]).arg(&stripped).arg(program).status();
    let status = status.with_context(|| format!("cannot run {strip}; it comes with the C compiler for {arch}"))?;
    ensure!(status.success(), "{strip} failed on {name}");
    Ok(Size { arch, stripped_mb: fs::metadata(&stripped)?.len() as f64 / 1e6 })
}
