//! Nodes behind gates and a dispatcher, as processes that can be hurt and started again.

use super::gate::{Gate, Passage};
use crate::cluster::{self, DISPATCHER_PORTS, NODE_PORTS, NODE_UP, NodeOptions, Process};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

const POLL: Duration = Duration::from_millis(10);
/// Below those that the system gives to whoever asks for any.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// Of a node's state directory.
const DISK: &str = "size=12m";
/// MiB of artifacts that a node keeps: some, not all.
const STORE: &str = "6";

pub struct Node {
    pub name: String,
    state_dir: PathBuf,
    process: Mutex<Option<Process>>,
    pub rest: Gate,
    relay: Gate,
    /// Whether its state directory is a small disk of its own.
    pub has_disk: bool,
}

/// A mounted file system; unmounted when dropped.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// Fields are dropped in this order: processes before the disks that they write to.
pub struct Bed {
    binary: PathBuf,
    pipeline: PathBuf,
    state_dir: PathBuf,
    dispatcher: Mutex<Option<Process>>,
    /// How often the dispatcher was started.
    lives: AtomicUsize,
    pub nodes: Vec<Node>,
    pub door: SocketAddr,
    pub admin: SocketAddr,
    http: reqwest::Client,
    _disks: Vec<Disk>,
}

impl Bed {
    /// Starts `count` nodes, and a dispatcher for the pipeline in `pipeline`.
    pub async fn start(folder: &Path, pipeline: &Path, count: usize) -> Result<Self> {
        let binary = cluster::binary()?;
        let mut ports = Ports::new();
        let mut disks = Vec::new();
        let mut nodes = Vec::new();
        for index in 0..count {
            let name = format!("node-{index}");
            let state_dir = folder.join(&name);
            std::fs::create_dir_all(&state_dir)?;
            let disk = mount(&state_dir);
            let has_disk = disk.is_some();
            disks.extend(disk);
            let (rest, relay) = (Gate::open(ports.free()?).await?, Gate::open(ports.free()?).await?);
            nodes.push(Node { name, state_dir, process: Mutex::new(None), rest, relay, has_disk });
        }
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let (door, admin) = (ports.free()?, ports.free()?);
        let state_dir = folder.join("dispatcher");
        let dispatcher = Mutex::new(None);
        let pipeline = pipeline.to_owned();
        let lives = AtomicUsize::new(0);
        let bed = Self { binary, pipeline, state_dir, dispatcher, lives, nodes, door, admin, http, _disks: disks };
        for node in 0..count {
            bed.start_node(node).await?;
        }
        bed.start_dispatcher().await?;
        Ok(bed)
    }

    /// Whether disks can be filled.
    pub fn has_disks(&self) -> bool {
        self.nodes.iter().all(|node| node.has_disk)
    }

    pub async fn start_node(&self, index: usize) -> Result<()> {
        let node = &self.nodes[index];
        let mut place = node.process.lock().await;
        let relay = node.relay.address.to_string();
        let flags = ["--threads", "1", "--store-limit", STORE, "--drain-timeout", "5", "--advertise", &relay];
        let extra_args = flags.iter().map(OsString::from).collect();
        let options = NodeOptions { name: node.name.clone(), state_dir: node.state_dir.clone(), extra_args };
        let process = place.insert(cluster::spawn_node(&self.binary, &options)?);
        listening(process, &NODE_PORTS).await?;
        let at = |what: &str| process.address(what).trim_start_matches("http://").parse::<SocketAddr>();
        node.rest.lead_to(at("rest")?);
        node.relay.lead_to(at("relay")?);
        Ok(())
    }

    /// Starts the dispatcher, which is there when this returns. From life to life another stage has a replica, or none.
    pub async fn start_dispatcher(&self) -> Result<()> {
        const REPLICAS: [&[&str]; 3] = [&[], &["--replicas", "stage=1:2"], &["--replicas", "stage=0:2"]];
        let mut place = self.dispatcher.lock().await;
        let mut args: Vec<OsString> = vec!["dispatch".into(), "--pipeline".into(), self.pipeline.clone().into()];
        let (door, admin) = (self.door.to_string(), self.admin.to_string());
        args.extend(["--listen", &door, "--admin", &admin, "--queue", "32", "--replan-after", "3"].map(OsString::from));
        args.extend(REPLICAS[self.lives.fetch_add(1, Ordering::Relaxed) % REPLICAS.len()].iter().map(OsString::from));
        args.extend(["--replay-after", "1", "--drain-timeout", "5", "--state-dir"].map(OsString::from));
        args.extend([self.state_dir.clone().into(), "--node".into()]);
        args.extend(self.nodes.iter().map(|node| format!("http://{}", node.rest.address).into()));
        let end = Instant::now() + NODE_UP;
        loop {
            let process = place.insert(Process::spawn_as("the dispatcher", &self.binary, &args, &[])?);
            match listening(process, &DISPATCHER_PORTS).await {
                Ok(()) => return Ok(()),
                // It ends where too few nodes answer; a person's service manager would start it again, too.
                Err(_) if Instant::now() < end => tokio::time::sleep(POLL * 20).await,
                Err(error) => return Err(error),
            }
        }
    }

    pub async fn kill_node(&self, index: usize) {
        let node = &self.nodes[index];
        let mut process = node.process.lock().await;
        if let Some(process) = process.as_mut() {
            tokio::task::block_in_place(|| process.kill());
        }
        *process = None;
        node.rest.set(Passage::Refused);
        node.relay.set(Passage::Refused);
    }

    /// Has it end in its own time.
    pub async fn stop_node(&self, index: usize) -> Result<()> {
        let node = &self.nodes[index];
        let mut process = node.process.lock().await;
        if let Some(process) = process.as_mut() {
            stop(process).await?;
        }
        *process = None;
        node.rest.set(Passage::Refused);
        node.relay.set(Passage::Refused);
        Ok(())
    }

    pub async fn kill_dispatcher(&self) {
        let mut process = self.dispatcher.lock().await;
        if let Some(process) = process.as_mut() {
            tokio::task::block_in_place(|| process.kill());
        }
        *process = None;
    }

    pub async fn stop_dispatcher(&self) -> Result<()> {
        let mut process = self.dispatcher.lock().await;
        if let Some(process) = process.as_mut() {
            stop(process).await?;
        }
        *process = None;
        Ok(())
    }

    pub async fn signal_node(&self, index: usize, what: Signal) {
        signal(self.nodes[index].process.lock().await.as_ref(), what);
    }

    pub async fn signal_dispatcher(&self, what: Signal) {
        signal(self.dispatcher.lock().await.as_ref(), what);
    }

    pub fn cut(&self, index: usize, rest: Passage, relay: Passage) {
        self.nodes[index].rest.set(rest);
        self.nodes[index].relay.set(relay);
    }

    /// Takes all the room on a node's disk, until the file that this names is removed.
    pub fn fill_disk(&self, index: usize) -> PathBuf {
        let ballast = self.nodes[index].state_dir.join("ballast");
        let mut size = 1 << 20;
        // As much as there is room for, down to the last page.
        let mut file = std::fs::File::create(&ballast).ok();
        while let (Some(file), true) = (file.as_mut(), size > 0) {
            if std::io::Write::write_all(file, &vec![1; size]).is_err() {
                size /= 16;
            }
        }
        ballast
    }

    /// What the admin port says of the pipeline.
    pub async fn pipeline(&self) -> Result<Value> {
        let all: Value = self.http.get(format!("http://{}/v1/pipelines", self.admin)).send().await?.json().await?;
        Ok(all["pipelines"][0].clone())
    }

    /// The digests of the active generation's stages, and a node of each.
    pub async fn active(&self) -> Result<(Vec<String>, Vec<String>)> {
        let pipeline = self.pipeline().await?;
        let generations = pipeline["generations"].as_array().context("no generations")?;
        let active = generations.iter().find(|one| one["state"] == "active").context("no generation is active")?;
        let mut stages = active["stages"].as_array().context("no stages")?.clone();
        stages.dedup_by_key(|stage| stage["stage"].clone());
        let all = |name: &str| stages.iter().map(|stage| stage[name].as_str().unwrap_or_default().to_owned()).collect();
        Ok((all("digest"), all("node")))
    }

    /// What has ended by itself, with its last words.
    pub async fn crashed(&self) -> Option<String> {
        for process in self.nodes.iter().map(|node| &node.process).chain([&self.dispatcher]) {
            if let Ok(mut process) = process.try_lock()
                && let Some(process) = process.as_mut()
                && let Some(status) = process.status()
            {
                return Some(format!("{} has ended ({status}){}", process.describe(), process.last_words()));
            }
        }
        None
    }

    /// The last lines of the dispatcher's log, and whose else is wanted.
    pub async fn words(&self) -> String {
        let mut all = String::new();
        for process in self.nodes.iter().map(|node| &node.process).chain([&self.dispatcher]) {
            if let Some(process) = process.lock().await.as_ref() {
                all += &format!("--- {}\n{}", process.describe(), process.stderr_tail());
            }
        }
        all
    }
}

async fn listening(process: &mut Process, ports: &[&str]) -> Result<()> {
    let end = Instant::now() + NODE_UP;
    while !process.is_listening(ports)? {
        if Instant::now() >= end {
            bail!("{} did not come up within {} s{}", process.describe(), NODE_UP.as_secs(), process.last_words());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Sends SIGTERM and waits for the end that it asks for.
async fn stop(process: &mut Process) -> Result<()> {
    process.ask_to_stop();
    let end = Instant::now() + NODE_UP;
    loop {
        match process.status() {
            Some(status) if status.code() == Some(0) => return Ok(()),
            Some(status) => bail!("{} was stopped and ended with {status}", process.describe()),
            None if Instant::now() >= end => bail!("{} did not stop{}", process.describe(), process.last_words()),
            None => tokio::time::sleep(POLL).await,
        }
    }
}

fn signal(process: Option<&Process>, signal: Signal) {
    let pid = process.and_then(|process| i32::try_from(process.pid()).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// A small disk of its own at `folder`, where that is allowed.
fn mount(folder: &Path) -> Option<Disk> {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", DISK, "defer-soak"]).arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    mount.status().is_ok_and(|status| status.success()).then(|| Disk(folder.to_owned()))
}

/// Ports that stay the same when their owners start again.
struct Ports(u16);

impl Ports {
    fn new() -> Self {
        Self(PORTS.start + (std::process::id() % 900) as u16 * 10)
    }

    fn free(&mut self) -> Result<SocketAddr> {
        for _ in 0..PORTS.len() {
            self.0 = if self.0 + 1 < PORTS.end { self.0 + 1 } else { PORTS.start };
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.0));
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        bail!("no free port between {} and {}", PORTS.start, PORTS.end)
    }
}
