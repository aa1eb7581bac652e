//! `defer-host cluster probe`: what machines and the links between them can do.

use super::proof;
use crate::client::UsageError;
use crate::commands::{host_name, read_token};
use crate::dispatcher::nodes::NodeClient;
use crate::engine::{self, Choice, EngineError, Options};
use crate::probe::speed;
use crate::probe::survey::{Progress, survey};
use crate::relay::Token;
use anyhow::{Context as _, Result};
use clap::Args;
use defer_partition::cluster::{Cluster, ClusterNode};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Url;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Writes a cluster.toml: how fast each node computes, the memory that it may use, and what each link can do
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host cluster probe --node http://pi-1:7700 http://pi-2:7700 http://pi-3:7700
  defer-host cluster probe --node http://pi-1:7700 --node http://pi-2:7700 --token-file ~/.defer-token --out home.toml
  defer-host cluster probe --cluster cluster.toml --token-file ~/.defer-token      measures the nodes that discover found

Run it where the network will be profiled and cut: speeds are relative to this machine. Every node computes a small
standard network, then sends frames to every other one, in both directions; all of that takes about 3 s per node and 1 s per
ordered pair, one after another, and slows what else the nodes do meanwhile.

A token is given to every node of --node; to a node of --cluster only after a relay on the same machine has proved that it
knows it. Unless all have, nobody is measured.")]
pub struct ProbeArgs {
    /// Nodes, by the URL of their REST port
    #[arg(long, value_name = "URL", num_args = 1.., required_unless_present = "cluster")]
    node: Vec<Url>,
    /// A cluster.toml, as `cluster discover --out` writes it: probes its nodes
    #[arg(long, value_name = "FILE", conflicts_with = "node")]
    cluster: Option<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
    out: PathBuf,
    /// File with the secret of the nodes
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Engine that this machine is measured with, and will profile with: onnxruntime, tract, or auto: onnxruntime where its
    /// library loads, else tract
    #[arg(long, default_value = "auto", value_name = "E")]
    engine: Choice,
    /// onnxruntime's shared library, if not where setup puts it
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// Also prints what was found as JSON, instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn probe(args: ProbeArgs) -> Result<()> {
    let token = read_token(args.token_file.as_deref())?;
    let listed = match &args.cluster {
        Some(file) => listed(file)?,
        None => args.node.into_iter().map(|url| (String::new(), url)).collect(),
    };
    if let Some((_, url)) = listed.iter().find(|(_, url)| url.scheme() != "http" || url.cannot_be_a_base()) {
        return Err(UsageError(format!("--node takes URLs such as http://pi-1:7700, got {url}")).into());
    }
    let engine = engine::open(args.engine, args.ort_lib).map_err(|error| match error {
        EngineError::Unavailable(_) => UsageError(error.to_string()).into(),
        error => anyhow::Error::from(error),
    })?;
    let nodes = match &args.cluster {
        // What stands in a file may have been found in the network, where anybody can announce a node.
        Some(file) if !token.is_empty() => proved(&listed, &token, file).await?,
        _ => listed.into_iter().map(|(_, url)| NodeClient::new(url, token.clone())).collect::<Result<_>>()?,
    };
    // Before anything takes seconds: a node that is not there is found now.
    for node in &nodes {
        node.describe().await?;
    }
    let bar = Bar::new();
    bar.show("speed of this machine");
    // With one thread, as networks are profiled.
    let reference = tokio::task::spawn_blocking(move || speed::measure(engine.as_ref(), Options::new(1))).await??;
    let found = survey(&nodes, reference, &host_name(), &token, &bar).await?;
    bar.0.finish_and_clear();
    found.write(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&found)? + "\n",
        false => table(&found) + &format!("\nwritten to {}\n", args.out.display()),
    };
    crate::stdout::write(&text).context("cannot write the report")
}

/// Clients for the nodes that stand in `file`, once each has proved that it knows `token`; the first that does not is named.
async fn proved(listed: &[(String, Url)], token: &Token, file: &Path) -> Result<Vec<NodeClient>> {
    let mut nodes = Vec::with_capacity(listed.len());
    for (name, url) in listed {
        let node = proof::proved(url, token).await.with_context(|| {
            format!(
                "node \"{name}\" at {url} is not given the token, since nothing proves that it knows it; take it out of {}, \
                 or probe it with --node if it is yours",
                file.display()
            )
        })?;
        nodes.push(node);
    }
    Ok(nodes)
}

/// Names and URLs of the nodes in the cluster file at `path`.
fn listed(path: &Path) -> Result<Vec<(String, Url)>, UsageError> {
    let cluster = Cluster::read(path).map_err(|error| UsageError(error.to_string()))?;
    let file = path.display();
    let url = |node: &ClusterNode| {
        let name = &node.name;
        let text =
            node.url.as_deref().ok_or_else(|| UsageError(format!("node \"{name}\" has no url in {file}; add it")))?;
        let url = text.parse().map_err(|error| UsageError(format!("url of node \"{name}\" in {file}: {error}")))?;
        Ok((name.clone(), url))
    };
    cluster.nodes.iter().map(url).collect()
}

/// Nodes, then links by sender and receiver.
fn table(cluster: &Cluster) -> String {
    let width = cluster.nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    // Writing to a string cannot fail.
    for node in &cluster.nodes {
        let (name, mb) = (&node.name, node.memory_bytes as f64 / 1e6);
        let cores = node.cores.unwrap_or(1);
        let _ = writeln!(text, "{name:width$}  speed {:>7.3}  memory {mb:>8.0} MB  cores {cores}", node.speed);
    }
    text.push('\n');
    for pair in &cluster.link.pairs {
        let mbit = pair.bandwidth_bps.unwrap_or_default() / 1e6;
        let ms = pair.latency_ms.unwrap_or_default();
        let _ = writeln!(text, "{:>width$} → {:width$}  {mbit:>8.1} Mbit/s  {ms:>7.3} ms", pair.a, pair.b);
    }
    if let Some(link) = &cluster.dispatcher {
        let mbit = link.bandwidth_bps / 1e6;
        let _ = writeln!(text, "from here to the slowest: {mbit:.1} Mbit/s, {:.3} ms", link.latency_ms);
    }
    text
}

/// A bar on a terminal, lines elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style =
            ProgressStyle::with_template("{msg:40} [{bar:40}] {pos}/{len}").expect("the template is well-formed");
        Self(ProgressBar::new(1).with_style(style.progress_chars("=> ")))
    }

    fn show(&self, what: &str) {
        match std::io::stderr().is_terminal() {
            true => self.0.set_message(what.to_owned()),
            false => eprintln!("{what}"),
        }
    }
}

impl Progress for Bar {
    fn step(&self, what: &str, of: usize) {
        // The first step was this machine's own.
        self.0.set_length(of as u64 + 1);
        self.0.inc(1);
        self.show(what);
    }
}
