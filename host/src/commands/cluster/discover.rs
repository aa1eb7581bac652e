//! `defer-host cluster discover`: which nodes there are.

use super::proof::{prove, relay_at, told};
use crate::commands::read_token;
use crate::discovery::{self, Admission, Found};
use crate::dispatcher::nodes::{NodeClient, NodeInfo};
use crate::relay::{Token, frame};
use crate::stdout;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use defer_partition::cluster::{Cluster, ClusterNode, DispatcherLink, Links};
use futures_util::future::join_all;
use reqwest::Url;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// For one question to one address.
const PATIENCE: Duration = Duration::from_secs(3);
/// What stands in a cluster.toml until links are measured: Fast Ethernet.
const LINK: DispatcherLink = DispatcherLink { bandwidth_bps: 100e6, latency_ms: 0.5 };
const REMARKS: &str = "\
# Found by `defer-host cluster discover`. Speeds (all 1) and links (100 Mbit/s) are assumed, not measured: run
# `defer-host cluster probe --cluster FILE --out FILE`, or write what you know.

";

/// Lists the nodes in the local network that run `serve --announce`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host cluster discover
  defer-host cluster discover --token-file ~/.defer-token --out cluster.toml
  defer-host cluster discover --seconds 10 --json

Asks by multicast (mDNS, UDP port 5353), which reaches the local network only. Cores and memory are asked of each node
itself: where a token is needed, with --token-file. A node gets the token only after a relay on the same machine has proved that
it knows it. With a token, nodes that need none are listed but not written.
Exit code 1 when no node was found, or the file cannot be written.")]
pub struct DiscoverArgs {
    /// How long to listen for answers
    #[arg(long, default_value = "3", value_name = "S", value_parser = seconds)]
    seconds: Duration,
    /// Also writes a cluster.toml of the nodes that answered, with speeds and links that are assumed: `cluster probe --cluster`
    /// measures them
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File with the secret of the nodes
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// One JSON document on stdout instead of a table
    #[arg(long)]
    json: bool,
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    url: String,
    relay: String,
    arch: String,
    engine: String,
    version: String,
    protocol: u16,
    token_needed: bool,
    cores: Option<u32>,
    /// What stages may still take there.
    memory_bytes: Option<u64>,
    /// Why the node itself said nothing: in words that may be the node's own, fit for a terminal.
    problem: Option<String>,
}

#[derive(Serialize)]
struct Report {
    nodes: Vec<Row>,
}

/// Runs the command.
pub async fn discover(args: DiscoverArgs) -> Result<()> {
    let token = read_token(args.token_file.as_deref())?;
    let time = args.seconds;
    let found = tokio::task::spawn_blocking(move || discovery::browse(time)).await?;
    let found = found.map_err(|error| anyhow::anyhow!("cannot ask the local network (mDNS): {error}"))?;
    let rows: Vec<Row> = join_all(found.iter().map(|node| ask(node, &token))).await;
    let report = Report { nodes: rows };
    if args.json {
        stdout::write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else if !report.nodes.is_empty() {
        stdout::write(&table(&report.nodes))?;
    }
    if report.nodes.is_empty() {
        bail!(
            "no node answered within {} s; nodes must be in this local network, run `defer-host serve --announce`, and no \
             firewall may hold back UDP port 5353",
            time.as_secs_f64()
        );
    }
    // After the list, which is worth having whatever becomes of the file.
    if let Some(out) = &args.out {
        let cluster = skeleton(&report.nodes, &token)?;
        cluster.write_under(REMARKS, out).with_context(|| format!("cannot write {}", out.display()))?;
        if !args.json {
            stdout::write(&format!("\nwritten to {}\n", out.display()))?;
        }
    }
    Ok(())
}

/// Asks the node itself, at each of its addresses until one answers.
async fn ask(found: &Found, token: &Token) -> Row {
    let presence = &found.presence;
    let mut outcome = Err("it has no address".to_owned());
    let mut answered = found.rest[0];
    for address in &found.rest {
        outcome = match timeout(PATIENCE, describe(found, *address, token)).await {
            Ok(outcome) => outcome.map_err(|error| told(&error)),
            Err(_) => Err(format!("{address} does not answer")),
        };
        if outcome.is_ok() {
            answered = *address;
            break;
        }
    }
    let (info, problem) = match outcome {
        Ok(info) => (Some(info), None),
        Err(problem) => (None, Some(problem)),
    };
    Row {
        name: presence.name.clone(),
        url: format!("http://{answered}"),
        relay: relay_at(&presence.relay, answered),
        arch: presence.arch.clone(),
        engine: presence.engine.clone(),
        version: presence.version.clone(),
        protocol: presence.protocol,
        token_needed: presence.admission == Admission::Token,
        cores: info.as_ref().and_then(|info| info.cores),
        memory_bytes: info.and_then(|info| info.usable_memory_bytes),
        problem,
    }
}

async fn describe(found: &Found, rest: SocketAddr, token: &Token) -> Result<NodeInfo> {
    let presence = &found.presence;
    if presence.protocol != frame::VERSION {
        bail!("it speaks relay protocol {}, this program {}; update the older one", presence.protocol, frame::VERSION);
    }
    let token = match presence.admission {
        // Nobody is told a token without need.
        Admission::Everybody => Token::default(),
        Admission::Token if token.is_empty() => bail!("a token is needed: give --token-file"),
        Admission::Token => {
            prove(&relay_at(&presence.relay, rest), rest, token).await?;
            token.clone()
        }
    };
    let url = Url::parse(&format!("http://{rest}"))?;
    NodeClient::new(url, token)?.describe().await
}

/// The nodes that said how much memory they have, and that know `token` if there is one; stderr is told of the others.
fn skeleton(rows: &[Row], token: &Token) -> Result<Cluster> {
    let node = |row: &Row| {
        let memory_bytes = row.memory_bytes.filter(|bytes| *bytes > 0);
        let why = match (&row.problem, memory_bytes) {
            (Some(problem), _) => problem,
            // Commands that read the file give the token to whom it names.
            _ if !token.is_empty() && !row.token_needed => {
                "it needs no token, and would be given it; start it with --token-file, or discover it without"
            }
            (None, None) => "it does not know how much memory it may use; give it --memory-limit",
            (None, Some(memory_bytes)) => {
                let (name, url) = (row.name.clone(), Some(row.url.clone()));
                return Some(ClusterNode { name, url, speed: 1.0, memory_bytes, cores: row.cores });
            }
        };
        eprintln!("left out: \"{}\" at {}: {why}", row.name, row.url);
        None
    };
    let nodes: Vec<ClusterNode> = rows.iter().filter_map(node).collect();
    if nodes.is_empty() {
        bail!("none of the {} nodes found can stand in a cluster file, so none is written", rows.len());
    }
    let link = Links { bandwidth_bps: Some(LINK.bandwidth_bps), latency_ms: Some(LINK.latency_ms), ..Links::default() };
    let cluster = Cluster { nodes, link, dispatcher: Some(LINK) };
    cluster.check().map_err(|cause| anyhow::anyhow!("no cluster file is written: {cause}"))?;
    Ok(cluster)
}

fn table(rows: &[Row]) -> String {
    let unknown = || "?".to_owned();
    let mut lines = vec![["name", "url", "arch", "cores", "memory MB", "engine", "token"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.url.clone(),
            row.arch.clone(),
            row.cores.map_or_else(unknown, |cores| cores.to_string()),
            row.memory_bytes.map_or_else(unknown, |bytes| format!("{:.0}", bytes as f64 / 1e6)),
            row.engine.clone(),
            if row.token_needed { "needed" } else { "none" }.to_owned(),
        ]
    }));
    let mut text = String::new();
    stdout::align(&mut text, &lines, &[0, 1, 2, 5]);
    for row in rows {
        if let Some(problem) = &row.problem {
            text += &format!("\"{}\": {problem}\n", row.name);
        }
    }
    text
}

fn seconds(text: &str) -> Result<Duration, String> {
    let duration = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let fits = duration.filter(|time| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(time));
    fits.ok_or_else(|| "give seconds, from 0.1 to 3600".to_owned())
}
