//! What each node says that it did.

use anyhow::{Context as _, Result, bail};
use reqwest::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// An idle node answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// One stage, and the node that ran it.
#[derive(Debug)]
pub struct StageStats {
    pub node: Node,
    pub stage: Stage,
}

#[derive(Debug, Deserialize)]
pub struct Node {
    pub name: String,
    pub memory: Memory,
}

#[derive(Debug, Deserialize)]
pub struct Memory {
    pub resident_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub struct Stage {
    pub pipeline: String,
    pub index: usize,
    pub engine: String,
    pub codec: String,
    /// Of the latest frame, where the node chooses.
    pub codec_in_use: Option<String>,
    pub weights_bytes: u64,
    pub counters: Counters,
}

impl Stage {
    /// What its output travels by.
    pub fn codec(&self) -> &str {
        self.codec_in_use.as_deref().unwrap_or(&self.codec)
    }
}

#[derive(Debug, Deserialize)]
pub struct Counters {
    pub frames_received: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub decode: Timing,
    pub compute: Timing,
    pub sandbox: Timing,
    pub encode: Timing,
}

#[derive(Debug, Deserialize)]
pub struct Timing {
    pub count: u64,
    pub sum_us: f64,
    pub median_us: f64,
}

#[derive(Deserialize)]
struct Stages {
    stages: Vec<Stage>,
}

/// Asks the nodes at `urls` about their stages of `pipeline`, in the order of the stages.
pub async fn collect(urls: &[String], pipeline: &str) -> Result<Vec<StageStats>> {
    let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let mut all = Vec::with_capacity(urls.len());
    for url in urls {
        let node: Node = get(&client, &format!("{url}/v1/node")).await?;
        let Stages { stages } = get(&client, &format!("{url}/v1/stages")).await?;
        let Some(stage) = stages.into_iter().find(|stage| stage.pipeline == pipeline) else {
            bail!("node \"{}\" has no stage of \"{pipeline}\"", node.name);
        };
        all.push(StageStats { node, stage });
    }
    all.sort_by_key(|stats| stats.stage.index);
    Ok(all)
}

async fn get<T: DeserializeOwned>(client: &Client, url: &str) -> Result<T> {
    let response = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    response
        .with_context(|| format!("no answer from {url}"))?
        .json()
        .await
        .with_context(|| format!("{url} is not as expected"))
}
