//! `perf_analyzer`, a load generator for the inference API that one of the tests runs, unmodified.
//!
//! It comes inside older wheels of `tritonclient`; the package of its own name holds no program for this system. The
//! version is the last that runs with Debian 12's C library. It needs libb64, which Debian has, and NVIDIA's CUDA runtime
//! to be there, though no GPU; both are for the test alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Item, Machine, Need, Task, command, python};

const PACKAGES: [&str; 2] = ["tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79"];
/// The library that Debian has, and its package.
const LIBRARY: &str = "libb64.so.0d";
const LIBRARY_PACKAGE: &str = "libb64-0d";

pub struct PerfAnalyzer;

impl Item for PerfAnalyzer {
    fn name(&self) -> &'static str {
        "perf_analyzer"
    }

    fn find(&self, machine: &Machine) -> Result<String> {
        let home = home(machine);
        let program = home.join("bin/perf_analyzer");
        if fs::read_to_string(marker(&home)).unwrap_or_default() != PACKAGES.join("\n") || !program.exists() {
            bail!("not in {}", home.display());
        }
        // The loader says what is missing without running anything.
        let needs = command::run(Command::new("ldd").arg(&program).env("LD_LIBRARY_PATH", libraries(&home)))?;
        if let Some(line) = needs.lines().find(|line| line.contains("not found")) {
            bail!("it cannot be loaded: {}", line.trim());
        }
        Ok(program.display().to_string())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        let home = home(machine);
        let _ = fs::remove_dir_all(&home);
        let mut pip = Command::new(python::PYTHON);
        pip.args(python::PIP).args(["install", "--no-deps", "--only-binary=:all:", "--target"]).arg(&home);
        command::run(pip.args(PACKAGES))
            .context("cannot install; check the network, or the index and proxy that pip is set up with")?;
        let program = home.join("bin/perf_analyzer");
        let needs = command::run(Command::new("ldd").arg(&program).env("LD_LIBRARY_PATH", libraries(&home)))?;
        if needs.lines().any(|line| line.contains(LIBRARY) && line.contains("not found")) {
            machine.apt_install(&[LIBRARY_PACKAGE])?;
        }
        fs::write(marker(&home), PACKAGES.join("\n")).with_context(|| format!("cannot write {}", home.display()))
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Run | Task::Compare | Task::Bed | Task::Peers | Task::Cross(_) | Task::Mixed(_) => Need::Unused,
            // Its test says that it was skipped where it cannot be had, and fails in CI.
            Task::Test => Need::Useful,
        }
    }
}

fn home(machine: &Machine) -> PathBuf {
    machine.cache.join("perf_analyzer")
}

fn marker(home: &Path) -> PathBuf {
    home.join("installed")
}

fn libraries(home: &Path) -> PathBuf {
    home.join("nvidia/cuda_runtime/lib")
}
