//! Asks every node what it can do, and has each one send to each other one: a `cluster.toml` in the making.

use super::path::{self, Path};
use crate::dispatcher::nodes::{NodeClient, NodeInfo};
use crate::relay::Token;
use anyhow::{Context as _, Result, bail};
use defer_partition::cluster::{Cluster, ClusterNode, DispatcherLink, Links, Pair};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounded by the nodes themselves; a busy one takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Body of `POST /v1/probe/link`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Address of the relay to send to, `host:port`.
    pub relay: String,
}

/// Answer of `POST /v1/probe/speed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Means {
    /// Standard networks per second.
    pub runs_per_s: f64,
    /// Bytes that stages may still take; unknown where the system does not say.
    pub memory_bytes: Option<u64>,
    pub cores: u32,
}

/// Takes note of how a survey goes on.
pub trait Progress {
    /// The next step begins; there are `of` in all.
    fn step(&self, what: &str, of: usize);
}

/// Surveys `nodes`, whose speeds are set in relation to `reference`, this machine's standard networks per second.
pub async fn survey(
    nodes: &[NodeClient],
    reference: f64,
    name: &str,
    token: &Token,
    progress: &dyn Progress,
) -> Result<Cluster> {
    let known = meet(nodes).await?;
    let steps = nodes.len() + links_of(nodes.len());
    // One thing at a time: nodes may share a machine, and do share a network.
    let mut described = Vec::with_capacity(nodes.len());
    for (node, Known { info, .. }) in nodes.iter().zip(&known) {
        progress.step(&format!("speed of {}", info.name), steps);
        let means: Means = node.ask(&["v1", "probe", "speed"], &(), PATIENCE).await?;
        let memory_bytes = match means.memory_bytes {
            Some(bytes) if bytes > 0 => bytes,
            Some(_) => bail!("node \"{}\" at {} has no memory left for stages", info.name, node.url),
            None => bail!(
                "node \"{}\" at {} does not know how much memory it may use; give it --memory-limit",
                info.name,
                node.url
            ),
        };
        described.push(ClusterNode {
            name: info.name.clone(),
            url: Some(node.url.to_string().trim_end_matches('/').to_owned()),
            speed: rounded(means.runs_per_s / reference),
            memory_bytes,
            cores: Some(means.cores),
        });
    }
    let step = |what: &str| progress.step(what, steps);
    let (link, dispatcher) = measure_links(nodes, &known, name, token, &step).await?;
    let cluster = Cluster { nodes: described, link, dispatcher };
    cluster.check().map_err(anyhow::Error::msg).context("what was measured makes no sense")?;
    Ok(cluster)
}

/// What the links between `nodes`, both ways, and those from here to them can do.
pub async fn links(
    nodes: &[NodeClient],
    name: &str,
    token: &Token,
    progress: &dyn Progress,
) -> Result<(Links, Option<DispatcherLink>)> {
    let known = meet(nodes).await?;
    let step = |what: &str| progress.step(what, links_of(nodes.len()));
    measure_links(nodes, &known, name, token, &step).await
}

/// Links that are measured: from each of `nodes` to each other one, and from here to all of them.
fn links_of(nodes: usize) -> usize {
    nodes * nodes
}

/// A node that was asked who it is.
struct Known {
    info: NodeInfo,
    /// Where its relay is reached.
    relay: String,
}

async fn meet(nodes: &[NodeClient]) -> Result<Vec<Known>> {
    let mut known: Vec<Known> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let info = node.describe().await?;
        if let Some((other, _)) = nodes.iter().zip(&known).find(|(_, known)| known.info.name == info.name) {
            bail!(
                "the nodes at {} and {} are both called \"{}\"; give each its own --name",
                other.url,
                node.url,
                info.name
            );
        }
        let relay = node.relay(&info)?;
        known.push(Known { info, relay });
    }
    Ok(known)
}

async fn measure_links(
    nodes: &[NodeClient],
    known: &[Known],
    name: &str,
    token: &Token,
    step: &(dyn Fn(&str) + '_),
) -> Result<(Links, Option<DispatcherLink>)> {
    let mut pairs = Vec::with_capacity(links_of(nodes.len()));
    for (a, Known { info: from, .. }) in nodes.iter().zip(known) {
        for Known { info: to, relay } in known.iter().filter(|to| to.info.name != from.name) {
            step(&format!("link from {} to {}", from.name, to.name));
            let target = Target { relay: relay.clone() };
            let path: Path = a
                .ask(&["v1", "probe", "link"], &target, PATIENCE)
                .await
                .with_context(|| format!("node \"{}\" cannot send to node \"{}\" at {relay}", from.name, to.name))?;
            pairs.push(Pair {
                a: from.name.clone(),
                b: to.name.clone(),
                bandwidth_bps: Some(path.bandwidth_bps.round()),
                latency_ms: Some(rounded(path.latency_ms)),
            });
        }
    }
    let mut dispatcher: Option<DispatcherLink> = None;
    for Known { info, relay } in known {
        step(&format!("link to {}", info.name));
        let path = path::measure(relay, name, token, path::limits());
        let path = path.await.with_context(|| format!("cannot send to node \"{}\" at {relay}", info.name))?;
        // One figure stands for all of them: the slowest promises nothing that is not there.
        let known = dispatcher.get_or_insert(DispatcherLink { bandwidth_bps: f64::INFINITY, latency_ms: 0.0 });
        known.bandwidth_bps = known.bandwidth_bps.min(path.bandwidth_bps.round());
        known.latency_ms = known.latency_ms.max(rounded(path.latency_ms));
    }
    Ok((Links { pairs, ..Links::default() }, dispatcher))
}

/// To four digits: no measurement is better.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}
