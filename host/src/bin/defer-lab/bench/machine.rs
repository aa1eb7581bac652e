//! What a benchmark ran on.

use defer_host::cpu;
use serde::Serialize;
use std::fmt;
use std::fs;

#[derive(Debug, Serialize)]
pub struct Machine {
    cpu: String,
    /// That this process may use.
    cores: usize,
    arch: &'static str,
    os: String,
    kernel: String,
}

impl Machine {
    pub fn this() -> Self {
        let unknown = || "unknown".to_owned();
        let system = || {
            let text = fs::read_to_string("/etc/os-release").ok()?;
            let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
            Some(name.trim_matches('"').to_owned())
        };
        Self {
            cpu: cpu::model().unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            arch: std::env::consts::ARCH,
            os: system().unwrap_or_else(|| std::env::consts::OS.to_owned()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |s| s.trim().to_owned()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, arch, os, kernel } = self;
        write!(f, "{cpu}, {cores} cores, {arch}, {os}, kernel {kernel}")
    }
}
