//! `defer-lab bench predict`: what a plan promises against what its chain then does, on machines and links that are all
//! different.
//!
//! It is the bed of `bench chain`, with shares of a CPU and rates of links drawn from a seed. Links are probed as
//! `cluster probe` does; speeds are those that it would find if it asked all nodes at once, since they share the processor
//! while they serve.
//!
//! Other machines share it, too: between a profile and a run its pace changes by more than a plan may be off. So the pace is
//! sampled all the while, and what was measured at different times is set in relation to it.

mod rows;

use super::bed::{Bed, Host};
use super::chains::{Chain, UP, dispatch, listening, serve};
use super::group::Share;
use super::measure::Client;
use super::pace::Pace;
use super::{BED, Engine, supervise};
use crate::bench::report;
use crate::cluster::NODE_PORTS;
use crate::folder::Folder;
use crate::stages;
use crate::step::Step;
use crate::subject::{self, Subject};
use crate::{cluster, usage};
use anyhow::{Context as _, Result};
use clap::Args;
use defer_host::build::PROFILE_QUANTILE;
use defer_host::dispatcher::nodes::NodeClient;
use defer_host::engine;
use defer_host::probe::survey::{self, Means};
use defer_host::relay::Token;
use defer_partition::cluster::{Cluster, ClusterNode};
use defer_partition::testing::Random;
use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use rows::{Placed, Row, at_pace, table_of};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A share of a CPU is this times the mean, at least and at most.
const SHARES: (f64, f64) = (0.6, 1.4);
/// How often all nodes are probed: the mean counts.
const PROBES: usize = 3;
/// Nodes hold no memory back here.
const MEMORY: u64 = 1 << 36;
/// A node with a tenth of a CPU takes its time to compute the standard network.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a plan promises against what its chain then does, on unequal machines with unequal links.
///
/// Writes a cluster file of the bed, then profiles and cuts each network for it, dispatches it by the plan, and measures.
/// Needs root, like `bench chain`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  defer-lab bench predict
  defer-lab bench predict --nodes 4 --model resnet50 --seed 7 --json")]
pub struct PredictArgs {
    /// Models of the catalogue, or paths of .onnx files
    #[arg(long, default_value = "resnet50,mobilenetv2,ocr-rec", value_name = "MODEL,…", value_delimiter = ',')]
    model: Vec<String>,
    /// Nodes of the cluster; several numbers for a row each
    #[arg(long, default_value = "4,8", value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: Vec<u8>,
    /// What nodes have of one CPU, on average; each gets 0.6 to 1.4 times that
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    cpu: f64,
    /// Slowest and fastest link, in Mbit/s; each is drawn between them, by its logarithm
    #[arg(long, default_value = "120,1000", value_name = "R,R", value_delimiter = ',', num_args = 1, value_parser = clap::value_parser!(u32).range(1..))]
    link_mbit: Vec<u32>,
    /// What machines and links are drawn from
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Inference engine
    #[arg(long, default_value = "onnxruntime", value_name = "E")]
    engine: Engine,
    /// Plans stages on several nodes, too; with that, most networks become whole copies
    #[arg(long)]
    replicas: bool,
    /// Counted time of each measurement, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

/// Runs the benchmark: outside the bed as its supervisor, inside as itself.
pub async fn run(args: PredictArgs) -> Result<()> {
    if !(args.cpu > 0.0 && args.cpu <= 16.0) {
        return Err(usage(format!("--cpu {} is no share of CPUs; give one like 0.2", args.cpu)));
    }
    let [slowest, fastest] = args.link_mbit[..] else {
        return Err(usage("--link-mbit takes the slowest and the fastest rate, such as 120,1000"));
    };
    if slowest > fastest {
        return Err(usage(format!("--link-mbit {slowest},{fastest}: the slower rate comes first")));
    }
    match std::env::var(BED) {
        Ok(bed) => inside(args, bed, (slowest, fastest)).await,
        Err(_) => supervise(&args.model).await,
    }
}

async fn inside(args: PredictArgs, bed: String, links: (u32, u32)) -> Result<()> {
    let mut bench = Bench {
        args: &args,
        links,
        bed: Bed::open(bed)?,
        folder: Folder::new("bed")?,
        binary: cluster::binary()?,
        pace: Pace::start(engine::open(args.engine.name().parse().map_err(usage)?, None)?.as_ref())?,
        rows: Vec::new(),
    };
    let result = bench.measure_all().await;
    report(args.json, "predict", &bench.rows, table_of)?;
    result
}

struct Bench<'a> {
    args: &'a PredictArgs,
    links: (u32, u32),
    // In this order: hosts are inside the bed.
    bed: Bed,
    folder: Folder,
    binary: PathBuf,
    pace: Pace,
    rows: Vec<Row>,
}

/// Shows how a probe of links goes on.
struct Probed(ProgressBar);

impl survey::Progress for Probed {
    fn step(&self, what: &str, of: usize) {
        self.0.set_length(of as u64);
        self.0.set_message(what.to_owned());
        self.0.inc(1);
    }
}

/// Machines that were drawn.
struct Drawn {
    cpu: Vec<f64>,
    link_mbit: Vec<u32>,
}

impl Bench<'_> {
    async fn measure_all(&mut self) -> Result<()> {
        for &nodes in &self.args.nodes {
            let drawn = self.draw(nodes);
            let (chain, found) = self.start(nodes, &drawn).await?;
            let file = self.folder.path().join(format!("cluster-{nodes}.toml"));
            found.write(&file)?;
            for model in &self.args.model {
                let subject = subject::find(model.clone(), Vec::new()).await?;
                let row = self.predict(&subject, nodes, &drawn, &chain, &found, &file).await;
                self.rows.push(row.with_context(|| format!("{model} on {nodes} nodes"))?);
            }
            chain.stop().await?;
        }
        Ok(())
    }

    fn replicas(&self) -> &'static str {
        if self.args.replicas { "auto" } else { "off" }
    }

    fn draw(&self, nodes: u8) -> Drawn {
        let mut random = Random::new(self.args.seed.wrapping_add(u64::from(nodes) << 32));
        let mut between =
            |least: f64, most: f64| least + (most - least) * (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let cpu: Vec<f64> = (0..nodes).map(|_| between(SHARES.0, SHARES.1)).collect();
        let (slowest, fastest) = (f64::from(self.links.0).ln(), f64::from(self.links.1).ln());
        let link_mbit = (0..nodes).map(|_| between(slowest, fastest).exp().round() as u32).collect();
        // All together have as many CPUs as equal ones would.
        let scale = self.args.cpu * f64::from(nodes) / cpu.iter().sum::<f64>();
        Drawn { cpu: cpu.into_iter().map(|share| (share * scale * 1e3).round() / 1e3).collect(), link_mbit }
    }

    /// Starts the nodes, and describes them as a cluster file would.
    async fn start(&mut self, nodes: u8, drawn: &Drawn) -> Result<(Chain, Cluster)> {
        let mut running = Vec::new();
        for (index, (&cpu, &mbit)) in drawn.cpu.iter().zip(&drawn.link_mbit).enumerate() {
            let name = format!("node-{nodes}-{index}");
            let share = Share { cpu: Some(cpu), memory_mb: None };
            let host = self.bed.host(&name, Some(mbit), share)?;
            let state = self.folder.path().join(format!("state-{name}"));
            let flags = serve(&host, &name, &state, self.args.engine.name());
            running.push((host.spawn(&name, &self.binary, &flags)?, host));
        }
        let mut urls = Vec::new();
        for (node, _) in &mut running {
            listening(node, &NODE_PORTS, UP).await?;
            urls.push(node.address("rest").to_owned());
        }
        let step = Step::spinner("probing all nodes at once");
        let clients =
            urls.iter().map(|url| NodeClient::new(url.parse()?, Token::default())).collect::<Result<Vec<_>>>()?;
        let probe = |client| NodeClient::ask::<Means>(client, &["v1", "probe", "speed"], &(), PATIENCE);
        let from = Instant::now();
        let mut runs_per_s = vec![0.0; urls.len()];
        for _ in 0..PROBES {
            for (total, means) in runs_per_s.iter_mut().zip(try_join_all(clients.iter().map(probe)).await?) {
                *total += means.runs_per_s / PROBES as f64;
            }
        }
        let ms = self.pace.mean(from)?;
        let node = |(index, runs_per_s): (usize, &f64)| ClusterNode {
            name: format!("node-{nodes}-{index}"),
            url: Some(urls[index].clone()),
            // Of a processor that is theirs alone, at the pace of the same moments.
            speed: runs_per_s * ms / 1e3,
            memory_bytes: MEMORY,
            cores: Some(1),
        };
        let described: Vec<ClusterNode> = runs_per_s.iter().enumerate().map(node).collect();
        step.done(&format!(
            "{nodes} nodes: {}",
            described
                .iter()
                .zip(&drawn.cpu)
                .zip(&drawn.link_mbit)
                .map(|((node, cpu), mbit)| format!("{cpu} CPU (speed {:.3}), {mbit} Mbit/s", node.speed))
                .collect::<Vec<_>>()
                .join("; ")
        ));
        let step = Step::bar("probing links", 1);
        let probed = Probed(step.handle());
        let (link, dispatcher) = survey::links(&clients, "bench", &Token::default(), &probed).await?;
        step.done(&format!("{} links probed", link.pairs.len()));
        let cluster = Cluster { link, dispatcher, nodes: described };
        Ok((Chain { nodes: running, urls }, cluster))
    }

    async fn predict(
        &mut self,
        subject: &Subject,
        nodes: u8,
        drawn: &Drawn,
        chain: &Chain,
        found: &Cluster,
        file: &Path,
    ) -> Result<Row> {
        let engine = self.args.engine.name();
        let folder = self.folder.path().join(format!("{}-{nodes}", subject.name));
        let flags: Vec<OsString> = vec!["--cluster".into(), file.into(), "--replicas".into(), self.replicas().into()];
        let from = Instant::now();
        let pipeline = stages::run(&self.binary, subject, engine, &flags, &folder).await?;
        let profiled_ms = self.pace.quantile(from, PROFILE_QUANTILE)?;
        let door =
            self.bed.host(&format!("door-{}-{nodes}", subject.name), None, Share { cpu: None, memory_mb: None })?;
        let to: Vec<OsString> = vec!["--cluster".into(), file.into()];
        let mut dispatcher = dispatch(&door, &self.binary, &folder, &to).await?;
        let stages = pipeline.stages.len();
        let used = pipeline.stages.iter().flat_map(|stage| &stage.nodes).map(Vec::len).sum::<usize>();
        let client = Client {
            url: dispatcher.address("inference").to_owned(),
            model: subject.name.clone(),
            in_flight: u16::try_from(used).unwrap_or(u16::MAX).saturating_mul(2).max(2),
            inputs: subject.inputs(),
        };
        let step = Step::spinner(&format!("{} on {nodes} nodes", subject.name));
        let rate = client.warm_up().await?;
        let cpu = |host: &Host| host.group.cpu_time();
        let before = chain.nodes.iter().map(|(_, host)| cpu(host)).collect::<Result<Vec<_>>>()?;
        let from = Instant::now();
        let steady = client.measure(rate, self.args.seconds).await?;
        let after = chain.nodes.iter().map(|(_, host)| cpu(host)).collect::<Result<Vec<_>>>()?;
        let mut placed = Vec::with_capacity(stages);
        for stage in &pipeline.stages {
            let nodes = stage.nodes.clone().context("the plan has placed no stage")?;
            let mut used = Duration::ZERO;
            for node in &nodes {
                let at = found.nodes.iter().position(|other| other.name == *node);
                let at = at.context("the plan names a node that is none of its cluster's")?;
                used += after[at].saturating_sub(before[at]);
            }
            placed.push(Placed {
                nodes,
                codec: stage.codec.map(|codec| codec.to_string()),
                planned_cpu_ms: stage.predicted_ms + stage.decode_ms.unwrap_or(0.0) + stage.encode_ms.unwrap_or(0.0),
                cpu_ms: used.as_secs_f64() * 1e3 / steady.requests as f64,
            });
        }
        tokio::task::spawn_blocking(move || dispatcher.terminate()).await?;
        let planned_rps = pipeline.plan.throughput_rps.context("the plan promises no throughput")?;
        let pace = self.pace.mean(from)? / profiled_ms;
        let predicted_rps = at_pace(planned_rps, &placed, found, pace);
        let row = Row {
            model: subject.name.clone(),
            engine,
            nodes,
            stages,
            used,
            planned_rps,
            predicted_rps,
            throughput_rps: steady.throughput_rps,
            ratio: steady.throughput_rps / predicted_rps,
            pace,
            predicted_latency_ms: pipeline.plan.latency_ms.unwrap_or_default(),
            p50_ms: steady.p50_ms,
            cpu: drawn.cpu.clone(),
            speed: found.nodes.iter().map(|node| node.speed).collect(),
            link_mbit: drawn.link_mbit.clone(),
            placed,
        };
        step.done(&format!(
            "{} on {nodes} nodes: {predicted_rps:.2} per second predicted, {:.2} measured",
            subject.name, row.throughput_rps
        ));
        Ok(row)
    }
}
