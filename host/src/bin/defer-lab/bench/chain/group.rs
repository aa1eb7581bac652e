//! Control groups, version 1 or 2, whichever is mounted: what a machine of the test bed may use, and what it has used.

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Over which a CPU share is granted, in µs: short, so that a node computes in slices, as a slow CPU would, but not so short that
/// it spends its time on filling caches again (ARCHITECTURE.md, Test bed) …
const PERIOD: f64 = 50_000.0;
/// … but not shorter than what a share of at least this, in µs, needs: the kernel grants no less.
const LEAST_QUOTA: f64 = 1000.0;
/// The kernel's longest period, in µs, and so the smallest share.
const LONGEST_PERIOD: f64 = 1e6;
pub const SMALLEST_SHARE: f64 = LEAST_QUOTA / LONGEST_PERIOD;

/// What a machine has of this one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// CPUs, of one core: 0.2 is a fifth; `None` for no limit.
    pub cpu: Option<f64>,
    /// MiB of memory, page cache included; `None` for no limit.
    pub memory_mb: Option<u64>,
}

/// One control group; removed when dropped.
#[derive(Debug)]
pub struct Group {
    /// Folders that a process joins: one per hierarchy.
    folders: Vec<PathBuf>,
    /// File with the CPU time used, and the factor that makes it nanoseconds.
    usage: Usage,
}

#[derive(Debug)]
enum Usage {
    /// Version 1: nanoseconds in `cpuacct.usage`.
    Nanoseconds(PathBuf),
    /// Version 2: `usage_usec` in `cpu.stat`.
    Stat(PathBuf),
}

impl Group {
    pub fn new(name: &str, share: Share) -> Result<Self> {
        let period = share.cpu.map_or(PERIOD, |cpus| (LEAST_QUOTA / cpus).ceil().clamp(PERIOD, LONGEST_PERIOD));
        let quota = share.cpu.map(|cpus| (period * cpus).round());
        let bytes = share.memory_mb.map(|mb| mb << 20);
        if let Some(root) = version_2() {
            let folder = root.join(name);
            make(&folder)?;
            // The controllers may be on already, or not ours to turn on: what matters is whether the files are there.
            for controller in ["+cpu", "+memory"] {
                let _ = fs::write(root.join("cgroup.subtree_control"), controller);
            }
            if let Some(quota) = quota {
                set(&folder.join("cpu.max"), &format!("{quota} {period}"))?;
            }
            if let Some(bytes) = bytes {
                set(&folder.join("memory.max"), &bytes.to_string())?;
                let _ = fs::write(folder.join("memory.swap.max"), "0");
            }
            return Ok(Self { usage: Usage::Stat(folder.join("cpu.stat")), folders: vec![folder] });
        }
        let hierarchy = |controller: &str| {
            let root = version_1(controller)
                .with_context(|| format!("no control group hierarchy with \"{controller}\" is mounted"))?;
            let folder = root.join(name);
            make(&folder)?;
            anyhow::Ok(folder)
        };
        let (cpu, account) = (hierarchy("cpu")?, hierarchy("cpuacct")?);
        let mut folders = vec![cpu.clone(), account.clone()];
        if let Some(quota) = quota {
            set(&cpu.join("cpu.cfs_period_us"), &period.to_string())?;
            set(&cpu.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
        if let Some(bytes) = bytes {
            let memory = hierarchy("memory")?;
            set(&memory.join("memory.limit_in_bytes"), &bytes.to_string())?;
            // Where swap is counted.
            let _ = fs::write(memory.join("memory.memsw.limit_in_bytes"), bytes.to_string());
            folders.push(memory);
        }
        folders.dedup();
        Ok(Self { folders, usage: Usage::Nanoseconds(account.join("cpuacct.usage")) })
    }

    /// The beginning of a command line that joins the group and becomes the rest of the line.
    pub fn enter(&self) -> Vec<OsString> {
        let joins: String =
            self.folders.iter().enumerate().map(|(n, _)| format!("echo $$ > \"${n}/cgroup.procs\" && ")).collect();
        let shifts = self.folders.len() - 1;
        let shift = if shifts > 0 { format!("shift {shifts} && ") } else { String::new() };
        let mut line = vec![OsString::from("-c"), format!("{joins}{shift}exec \"$@\"").into()];
        line.extend(self.folders.iter().map(OsString::from));
        line
    }

    /// What a process writes its id into `cgroup.procs` of, to join.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// CPU time that its processes have used.
    pub fn cpu_time(&self) -> Result<Duration> {
        match &self.usage {
            Usage::Nanoseconds(file) => {
                let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
                Ok(Duration::from_nanos(text.trim().parse()?))
            }
            Usage::Stat(file) => {
                let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
                let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                Ok(Duration::from_micros(line.context("cpu.stat has no usage_usec")?.trim().parse()?))
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Ends what is left in the groups whose names begin with `prefix`, and removes them.
pub fn remove(prefix: &str) {
    let roots = ["cpu", "cpuacct", "memory"].into_iter().filter_map(version_1).chain(version_2());
    for root in roots {
        let groups = fs::read_dir(root).into_iter().flatten().flatten();
        for folder in groups.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{prefix}-"))) {
            let folder = folder.path();
            // A group can be removed once the kernel has buried its processes.
            for _ in 0..50 {
                for process in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
                    super::bed::signal(process, Signal::KILL);
                }
                if fs::remove_dir(&folder).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn make(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            bail!("cannot make the control group {}: {error}; the test bed needs root", folder.display())
        }
        _ => Ok(()),
    }
}

fn set(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("cannot set {} to {value}", file.display()))
}

/// Where version 2 is mounted, if the CPU controller is in it.
fn version_2() -> Option<PathBuf> {
    let mounted = mounts().find(|(kind, _, _)| kind == "cgroup2").map(|(_, path, _)| path)?;
    let controllers = fs::read_to_string(mounted.join("cgroup.controllers")).ok()?;
    controllers.split_whitespace().any(|name| name == "cpu").then_some(mounted)
}

/// Where version 1's hierarchy with `controller` is mounted.
fn version_1(controller: &str) -> Option<PathBuf> {
    let has = |options: &str| options.split(',').any(|option| option == controller);
    mounts().find(|(kind, _, options)| kind == "cgroup" && has(options)).map(|(_, path, _)| path)
}

/// Type, place and options of what is mounted.
fn mounts() -> impl Iterator<Item = (String, PathBuf, String)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            Some((kind.to_owned(), PathBuf::from(path), options.to_owned()))
        })
        .collect();
    mounts.into_iter()
}
