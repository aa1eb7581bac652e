//! What a benchmark ran on.

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
        let field = |file: &str, name: &str, separator: char| {
            let text = fs::read_to_string(file).ok()?;
            let found = text.lines().find_map(|line| {
                let (key, value) = line.split_once(separator)?;
                (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
            });
            found.filter(|value| !value.is_empty())
        };
        let unknown = || "unknown".to_owned();
        // x86 has a "model name"; ARM boards have a "Model" at the end, others nothing.
        let cpu = field("/proc/cpuinfo", "model name", ':').or_else(|| field("/proc/cpuinfo", "Model", ':'));
        Self {
            cpu: cpu.unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            arch: std::env::consts::ARCH,
            os: field("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.to_owned()),
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
