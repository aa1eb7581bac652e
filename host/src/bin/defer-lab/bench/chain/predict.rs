//! `defer-lab bench predict`: what a plan promises against what its chain then does, on machines and links that are all
//! different.
//!
//! It is the bed of `bench chain`, with shares of a CPU and rates of links drawn from a seed. Speeds are those that
//! `cluster probe` would find if it asked all nodes at once, since they share the processor while they serve.

use super::bed::{Bed, Host};
use super::chains::{Chain, UP, dispatch, listening, serve};
use super::group::Share;
use super::measure::Client;
use super::{BED, Engine, supervise};
use crate::bench::report;
use crate::cluster::NODE_PORTS;
use crate::folder::Folder;
use crate::stages;
use crate::step::Step;
use crate::subject::{self, Subject};
use crate::table::{Side, table};
use crate::{cluster, usage};
use anyhow::{Context as _, Result};
use clap::Args;
use defer_host::dispatcher::nodes::NodeClient;
use defer_host::engine::{self, Options};
use defer_host::probe::speed;
use defer_host::probe::survey::Means;
use defer_host::relay::Token;
use defer_partition::cluster::{Cluster, ClusterNode, DispatcherLink, Links, Pair};
use defer_partition::testing::Random;
use futures_util::future::try_join_all;
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A share of a CPU is this times the mean, at least and at most.
const SHARES: (f64, f64) = (0.6, 1.4);
/// What a frame takes over a link of the bed, to which a switch and two pairs of queues belong.
const LATENCY_MS: f64 = 0.1;
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
    /// Counted time of each measurement, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

/// One network on one cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub model: String,
    pub engine: &'static str,
    pub nodes: u8,
    /// Stages of the plan, each on one node.
    pub stages: usize,
    pub predicted_rps: f64,
    pub throughput_rps: f64,
    /// Measured over predicted.
    pub ratio: f64,
    pub predicted_latency_ms: f64,
    pub p50_ms: f64,
    /// Of the nodes, by name: what each has of a CPU, its speed as probed, and the rate of its link.
    pub cpu: Vec<f64>,
    pub speed: Vec<f64>,
    pub link_mbit: Vec<u32>,
    /// Where the stages are, and what they cost their nodes as planned and as measured, in ms of CPU time.
    pub placed: Vec<Placed>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Placed {
    pub node: String,
    pub codec: Option<String>,
    pub planned_cpu_ms: f64,
    pub cpu_ms: f64,
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
    rows: Vec<Row>,
}

/// Machines that were drawn.
struct Drawn {
    cpu: Vec<f64>,
    link_mbit: Vec<u32>,
}

impl Bench<'_> {
    async fn measure_all(&mut self) -> Result<()> {
        let engine = engine::open(self.args.engine.name().parse().map_err(usage)?, None)?;
        // This machine by itself, which is also what the profile is made on.
        let reference = tokio::task::spawn_blocking(move || speed::measure(engine.as_ref(), Options::new(1))).await??;
        for &nodes in &self.args.nodes {
            let drawn = self.draw(nodes);
            let (chain, found) = self.start(nodes, &drawn, reference).await?;
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
    async fn start(&mut self, nodes: u8, drawn: &Drawn, reference: f64) -> Result<(Chain, Cluster)> {
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
        let means = try_join_all(clients.iter().map(probe)).await?;
        let node = |(index, means): (usize, &Means)| ClusterNode {
            name: format!("node-{nodes}-{index}"),
            url: Some(urls[index].clone()),
            speed: means.runs_per_s / reference,
            memory_bytes: MEMORY,
            cores: Some(1),
        };
        let described: Vec<ClusterNode> = means.iter().enumerate().map(node).collect();
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
        let pair = |a: usize, b: usize| Pair {
            a: described[a].name.clone(),
            b: described[b].name.clone(),
            // A switch joins them: the slower end is the link.
            bandwidth_bps: Some(f64::from(drawn.link_mbit[a].min(drawn.link_mbit[b])) * 1e6),
            latency_ms: Some(LATENCY_MS),
        };
        let count = described.len();
        let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).map(|(a, b)| pair(a, b)).collect();
        let slowest = drawn.link_mbit.iter().copied().min().unwrap_or(1);
        let cluster = Cluster {
            link: Links { pairs, ..Links::default() },
            // The dispatcher's own is not held back: what it reaches nodes by is theirs, and one figure stands for all.
            dispatcher: Some(DispatcherLink { bandwidth_bps: f64::from(slowest) * 1e6, latency_ms: LATENCY_MS }),
            nodes: described,
        };
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
        let flags: Vec<OsString> = vec!["--cluster".into(), file.into()];
        let pipeline = stages::run(&self.binary, subject, engine, &flags, &folder).await?;
        let door =
            self.bed.host(&format!("door-{}-{nodes}", subject.name), None, Share { cpu: None, memory_mb: None })?;
        let to: Vec<OsString> = vec!["--cluster".into(), file.into()];
        let mut dispatcher = dispatch(&door, &self.binary, &folder, &to).await?;
        let stages = pipeline.stages.len();
        let client = Client {
            url: dispatcher.address("inference").to_owned(),
            model: subject.name.clone(),
            in_flight: u16::try_from(stages).unwrap_or(u16::MAX).saturating_mul(2).max(2),
            inputs: subject.inputs(),
        };
        let step = Step::spinner(&format!("{} on {nodes} nodes", subject.name));
        let host_of = |name: &str| {
            let at =
                found.nodes.iter().position(|node| node.name == name).context("a plan names nodes of its cluster")?;
            anyhow::Ok((&chain.nodes[at].1, found.nodes[at].speed))
        };
        let rate = client.warm_up().await?;
        let cpu = |host: &Host| host.group.cpu_time();
        let before = chain.nodes.iter().map(|(_, host)| cpu(host)).collect::<Result<Vec<_>>>()?;
        let steady = client.measure(rate, self.args.seconds).await?;
        let after = chain.nodes.iter().map(|(_, host)| cpu(host)).collect::<Result<Vec<_>>>()?;
        let mut placed = Vec::with_capacity(stages);
        for stage in &pipeline.stages {
            let node = stage.nodes.iter().flatten().next().context("the plan has placed no stage")?;
            host_of(node)?;
            let at = found.nodes.iter().position(|other| other.name == *node).unwrap_or_default();
            let used = after[at].saturating_sub(before[at]).as_secs_f64() * 1e3 / steady.requests as f64;
            placed.push(Placed {
                node: node.clone(),
                codec: stage.codec.map(|codec| codec.to_string()),
                planned_cpu_ms: stage.predicted_ms + stage.decode_ms.unwrap_or(0.0) + stage.encode_ms.unwrap_or(0.0),
                cpu_ms: used,
            });
        }
        tokio::task::spawn_blocking(move || dispatcher.terminate()).await?;
        let predicted_rps = pipeline.plan.throughput_rps.context("the plan promises no throughput")?;
        let row = Row {
            model: subject.name.clone(),
            engine,
            nodes,
            stages,
            predicted_rps,
            throughput_rps: steady.throughput_rps,
            ratio: steady.throughput_rps / predicted_rps,
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

/// The rows, and how far predictions are off.
fn table_of(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let left = |title| (title, Side::Left);
    let columns = [
        left("model"),
        right("nodes"),
        right("stages"),
        right("predicted/s"),
        right("measured/s"),
        right("ratio"),
        left("CPU ms per stage, planned / measured, and codec"),
    ];
    let stage = |stage: &Placed| {
        let codec = stage.codec.as_ref().map_or_else(String::new, |codec| format!(" {codec}"));
        format!("{:.1}/{:.1}{codec}", stage.planned_cpu_ms, stage.cpu_ms)
    };
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.model.clone(),
                row.nodes.to_string(),
                row.stages.to_string(),
                format!("{:.2}", row.predicted_rps),
                format!("{:.2}", row.throughput_rps),
                format!("{:.3}", row.ratio),
                row.placed.iter().map(stage).collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    let mut off: Vec<f64> = rows.iter().map(|row| (row.ratio - 1.0).abs() * 100.0).collect();
    off.sort_unstable_by(f64::total_cmp);
    let median = off.get(off.len() / 2).copied().unwrap_or_default();
    format!("{}\nmedian distance from the prediction: {median:.1} %\n", table(columns, &cells))
}
