//! The test bed: network namespaces joined by one bridge, each with a link of a given rate and a share of one CPU.
//!
//! ```text
//!              hub namespace: bridge, this program, the client
//!                 │            │            │           │
//!            dispatcher      node 0       node 1   …  node N-1      one namespace each, a veth pair to the bridge
//! ```
//!
//! A node's link is shaped by a token bucket at both of its ends, so its rate holds for each direction by itself, as with
//! a switched network of that speed. All of it lies in namespaces of its own: nothing of the machine's network is touched.

use super::awake::Awake;
use super::group::{self, Group};
use crate::cluster::Process;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// What names of namespaces and control groups begin with; the process id of the supervisor follows.
const PREFIX: &str = "defer-bed-";
/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
const BRIDGE: &str = "bridge";
/// 198.18.0.0/15 is set aside for benchmarks of networks (RFC 2544); here it exists inside the namespaces only.
pub const HUB: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
/// More than the largest packet that the kernel hands to a device (64 KiB, and a header for each segment that it stands for):
/// a bucket that cannot hold one would have the sender's CPU cut it up, which real devices do themselves.
const SMALLEST_BURST: u64 = 96 * 1024;

/// Name of the bed that a supervisor of process id `process` owns.
pub fn name(process: u32) -> String {
    format!("{PREFIX}{process}")
}

fn hub_of(bed: &str) -> String {
    format!("{bed}-hub")
}

/// Makes the hub's namespace.
pub fn create(bed: &str) -> Result<()> {
    run("ip", &["netns", "add", &hub_of(bed)]).context(
        "cannot make a network namespace; the test bed needs root, and the package iproute2 (cargo xtask setup)",
    )
}

/// A command that runs `program` inside the hub.
pub fn enter_hub(bed: &str, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={NAMESPACES}/{}", hub_of(bed))).arg("--").arg(program);
    command
}

/// Ends every process of `bed` and removes its namespaces and control groups. Goes on where something fails.
pub fn remove(bed: &str) {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(&format!("{bed}-")) {
            continue;
        }
        let processes = Command::new("ip").args(["netns", "pids", &name]).env("PATH", path()).output();
        let processes =
            processes.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
        processes.lines().for_each(|process| signal(process, Signal::KILL));
        let _ = run("ip", &["netns", "del", &name]);
    }
    group::remove(bed);
}

/// Removes beds whose supervisor was killed.
pub fn remove_stale() {
    let mut beds: Vec<String> = Vec::new();
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(process).exists() {
            beds.push(format!("{PREFIX}{process}"));
        }
    }
    beds.sort_unstable();
    beds.dedup();
    beds.iter().for_each(|bed| remove(bed));
}

/// The bed, seen from inside its hub.
pub struct Bed {
    name: String,
    hosts: u16,
    _awake: Awake,
}

impl Bed {
    /// Sets the hub up. This process must be inside it.
    pub fn open(name: String) -> Result<Self> {
        run("ip", &["link", "set", "lo", "up"])?;
        run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{HUB}/16"), "dev", BRIDGE])?;
        run("ip", &["link", "set", BRIDGE, "up"])?;
        // A switch has no firewall, least of all one that runs on the CPU of who sends. Where the kernel has none either, the
        // switch for it is not there.
        let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
        Ok(Self { name, hosts: 0, _awake: Awake::keep()? })
    }

    /// A name for something of this bed.
    pub fn name_of(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    /// A new machine: a namespace of its own, linked to the bridge at `mbit` Mbit/s (`None`: as fast as the kernel is),
    /// with `share` of the machine's means.
    pub fn host(&mut self, what: &str, mbit: Option<u32>, share: group::Share) -> Result<Host> {
        self.hosts = self.hosts.checked_add(1).context("a test bed has room for 65,535 hosts")?;
        let host = Host {
            namespace: self.name_of(what),
            // From 198.18.1.1 on.
            address: Ipv4Addr::from_bits(FIRST.to_bits() + u32::from(self.hosts)),
            port: format!("port{}", self.hosts),
            group: Group::new(&self.name_of(what), share)?,
        };
        let (namespace, port) = (host.namespace.as_str(), host.port.as_str());
        run("ip", &["netns", "add", namespace])?;
        run("ip", &["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace])?;
        run("ip", &["link", "set", port, "master", BRIDGE, "up"])?;
        host.inside("ip", &["addr", "add", &format!("{}/16", host.address), "dev", "eth0"])?;
        host.inside("ip", &["link", "set", "eth0", "up"])?;
        host.inside("ip", &["link", "set", "lo", "up"])?;
        host.shape(mbit)?;
        Ok(host)
    }
}

/// One machine of the bed.
pub struct Host {
    namespace: String,
    pub address: Ipv4Addr,
    /// Its port of the bridge.
    port: String,
    pub group: Group,
}

impl Host {
    /// Sets the rate of its link in both directions, in Mbit/s.
    pub fn shape(&self, mbit: Option<u32>) -> Result<()> {
        let Some(mbit) = mbit else {
            // There may be none.
            let _ = run("tc", &["qdisc", "del", "dev", &self.port, "root"]);
            let _ = self.inside("tc", &["qdisc", "del", "dev", "eth0", "root"]);
            return Ok(());
        };
        let (rate, burst) = (format!("{mbit}mbit"), burst(mbit).to_string());
        let bucket = |device| {
            ["qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate, "burst", &burst, "latency", "50ms"]
        };
        run("tc", &bucket(&self.port))?;
        self.inside("tc", &bucket("eth0"))
    }

    fn inside(&self, program: &str, args: &[&str]) -> Result<()> {
        let all: Vec<&str> = ["-n", &self.namespace].into_iter().chain(args.iter().copied()).collect();
        run(program, &all)
    }

    /// Starts `binary` on this machine.
    pub fn spawn<A: AsRef<OsStr>>(&self, what: &str, binary: &Path, args: &[A]) -> Result<Process> {
        let mut line = self.group.enter();
        line.push("nsenter".into());
        line.extend(self.inside_of(binary, args));
        Process::spawn_as(what, Path::new("sh"), &line, &[])
    }

    /// The same, but for the group, which the program joins by itself.
    pub fn spawn_outside_group<A: AsRef<OsStr>>(&self, what: &str, binary: &Path, args: &[A]) -> Result<Process> {
        Process::spawn_as(what, Path::new("nsenter"), &self.inside_of(binary, args), &[])
    }

    /// What `nsenter` takes. (`ip netns exec` would hide the control groups from what it runs.)
    fn inside_of<A: AsRef<OsStr>>(&self, binary: &Path, args: &[A]) -> Vec<OsString> {
        let mut line = vec![format!("--net={NAMESPACES}/{}", self.namespace).into(), "--".into(), binary.into()];
        line.extend(args.iter().map(OsString::from));
        line
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.namespace]);
    }
}

/// Sends a signal to a process, if it is there.
pub fn signal(process: &str, signal: Signal) {
    if let Some(process) = process.trim().parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process(process, signal);
    }
}

/// Where programs are, those for administrators included, which not everybody has in the path.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Bytes that may go out at once: what the rate yields in 2 ms.
fn burst(mbit: u32) -> u64 {
    (u64::from(mbit) * 1_000_000 / 8 / 500).max(SMALLEST_BURST)
}

/// Runs a program to its end; the error holds what it said.
pub fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).env("PATH", path()).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}; cargo xtask setup installs it"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), said.trim());
    }
    Ok(())
}
