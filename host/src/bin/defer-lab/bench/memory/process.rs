//! What the kernel says of a process's memory, and what a node says of its stage.

use anyhow::{Context as _, Result, bail};
use reqwest::Client;
use serde::Deserialize;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// An idle node answers at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// A restarted node may take so long to load what it had.
const COMES_BACK: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Bytes of a process's memory, as `/proc/<pid>/status` has them.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Of its own: neither files nor shared (`RssAnon`).
    pub anonymous: u64,
    /// The most that was resident at any time, mapped files included (`VmHWM`).
    pub peak: u64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024).with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self { anonymous: field("RssAnon")?, peak: field("VmHWM")? })
    }
}

/// A stage as its node describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Stage {
    pub index: usize,
    pub engine: String,
    pub weights_bytes: u64,
    pub loaded_ms: f64,
}

#[derive(Deserialize)]
struct Stages {
    stages: Vec<Stage>,
}

/// The stages of the node at `url`.
pub fn stages(url: &str) -> Result<Vec<Stage>> {
    let ask = async {
        let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
        client.get(format!("{url}/v1/stages")).send().await?.error_for_status()?.json().await
    };
    let Stages { stages } = Handle::current().block_on(ask).with_context(|| format!("no answer from {url}"))?;
    Ok(stages)
}

/// The one stage of a node, once it has loaded it.
pub fn stage(url: &str) -> Result<Stage> {
    let deadline = Instant::now() + COMES_BACK;
    loop {
        match stages(url)?.pop() {
            Some(stage) => return Ok(stage),
            None if Instant::now() >= deadline => bail!("the node at {url} did not load its stage again"),
            None => thread::sleep(POLL),
        }
    }
}
