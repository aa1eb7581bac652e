//! The system itself: a chain of nodes, each on a machine of its own.

use super::bed::Host;
use super::group::Share;
use super::measure::{Client, Steady};
use super::report::{Row, StageTime};
use super::systems::Bench;
use super::{Codecs, Plan};
use crate::bench::alone::{peak_memory_mb, stat};
use crate::cluster::{DISPATCHER_PORTS, DISPATCHER_UP, NODE_PORTS, Process};
use crate::compare::difference;
use crate::stages;
use crate::stats::{self, StageStats, Timing};
use crate::step::Step;
use anyhow::{Context as _, Result};
use defer_host::engine::Named;
use defer_host::relay::Codec;
use defer_partition::cluster::{Cluster, ClusterNode, DispatcherLink, Links};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A node with a tenth of a CPU takes its time.
pub(super) const UP: Duration = Duration::from_secs(120);

/// What a node takes in MiB besides its stage's weights and activations: program, onnxruntime's library, threads, buffers. A
/// node of the demo with 0.9 MB of weights has so much resident.
const OF_THE_PROCESS_MB: u64 = 64;
/// Where nothing holds memory back, in bytes.
const MEMORY: u64 = 1 << 40;

/// Nodes that are running.
pub(super) struct Chain {
    pub nodes: Vec<(Process, Host)>,
    pub urls: Vec<String>,
}

/// Stages on disk, and how to dispatch them.
struct Cut {
    folder: PathBuf,
    stages: usize,
    flags: Vec<OsString>,
    predicted_rps: Option<f64>,
}

/// Totals of a node at one moment.
struct Totals {
    cpu: Duration,
    major_faults: f64,
    stages: StageStats,
}

impl Bench<'_> {
    /// Measures a chain with every codec, over links of every rate.
    pub(super) async fn chain(&mut self, engine: &str, nodes: u8, reference: &[Vec<Named>]) -> Result<()> {
        let args = self.args;
        let share = Share { cpu: None, memory_mb: None };
        let door = self.bed.host(&format!("dispatcher-{engine}-{nodes}"), args.dispatcher_mbit, share)?;
        let chain = self.nodes(engine, nodes).await?;
        // Fast links first: a node that chooses codecs takes its time to believe that a link has become faster.
        let mut rates = args.link_mbit.clone();
        rates.sort_unstable_by(|a, b| b.cmp(a));
        for &codec in &args.codec {
            // Cuts that do not move with the link serve all of its rates.
            let rounds: Vec<Vec<u32>> = match self.moves(codec) {
                true => rates.iter().map(|&mbit| vec![mbit]).collect(),
                false => vec![rates.clone()],
            };
            for rates in rounds {
                let cut = self.cut(engine, nodes, codec, rates[0]).await?;
                let mut flags = cut.flags;
                flags.push("--node".into());
                flags.extend(chain.urls.iter().take(cut.stages).map(OsString::from));
                let mut dispatcher = dispatch(&door, &self.binary, &cut.folder, &flags).await?;
                for mbit in rates {
                    for (_, host) in &chain.nodes {
                        host.shape(Some(mbit))?;
                    }
                    let about = format!("{engine}, {nodes} nodes, {mbit} Mbit/s, {codec}");
                    let step = Step::spinner(&about);
                    let mut row = self
                        .measure(engine, (nodes, cut.stages), &chain, &dispatcher, reference)
                        .await
                        .with_context(|| format!("{about}{}", last_words(&chain, &dispatcher)))?;
                    row.link_mbit = Some(mbit);
                    row.codec = Some(codec.to_string());
                    row.predicted_rps = cut.predicted_rps;
                    row.bind();
                    step.done(&format!("{about}: {:.2} per second", row.throughput_rps));
                    self.rows.push(row);
                }
                for (_, host) in &chain.nodes {
                    host.shape(None)?;
                }
                tokio::task::spawn_blocking(move || dispatcher.terminate()).await?;
            }
        }
        chain.stop().await
    }

    /// Whether cuts move with the link, as they do where memory is short too: only a plan for a cluster looks at memory. Not
    /// those for a lossy codec that somebody insists on: `build-stages` plans with such codecs within a budget only.
    fn moves(&self, codec: Codecs) -> bool {
        (self.args.plan == Plan::Link || self.args.memory_mb.is_some())
            && !matches!(codec, Codecs::Fixed(codec) if codec.is_lossy())
    }

    /// Cuts for so many of this bed's nodes, or for as many as its plan says where cuts move with the link.
    async fn cut(&self, engine: &str, nodes: u8, codec: Codecs, mbit: u32) -> Result<Cut> {
        let folder = self.folder.path().join(format!("{engine}-{nodes}-{codec}-{mbit}"));
        let mut flags: Vec<OsString> = vec!["--stages".into(), nodes.to_string().into()];
        let mut dispatched: Vec<OsString> = codec.flags().into_iter().map(OsString::from).collect();
        if codec == Codecs::AutoLossy {
            flags.extend(["--allow-lossy".into(), self.args.allow_lossy.to_string().into()]);
        }
        if self.moves(codec) {
            let file = self.folder.path().join(format!("{engine}-{nodes}-{mbit}.toml"));
            self.cluster(nodes, mbit).write(&file)?;
            flags.extend(["--cluster".into(), file.into(), "--replicas".into(), "off".into()]);
            match codec {
                Codecs::Fixed(codec) => flags.extend(["--codec".into(), codec.to_string().into()]),
                // Each hop as planned.
                Codecs::Auto | Codecs::AutoLossy => dispatched.clear(),
            }
        }
        let pipeline = stages::run(&self.binary, &self.subject, engine, &flags, &folder).await?;
        let (stages, predicted_rps) = (pipeline.stages.len(), pipeline.plan.throughput_rps);
        Ok(Cut { folder, stages, flags: dispatched, predicted_rps })
    }

    /// The bed as a cluster file: equal nodes, each with its share of this machine.
    fn cluster(&self, nodes: u8, mbit: u32) -> Cluster {
        let node = |index| ClusterNode {
            name: format!("node-{index}"),
            url: None,
            speed: self.args.cpu,
            memory_bytes: self.args.memory_mb.map_or(MEMORY, |mb| mb.saturating_sub(OF_THE_PROCESS_MB).max(1) << 20),
            cores: Some(1),
        };
        let link = Links { bandwidth_bps: Some(f64::from(mbit) * 1e6), latency_ms: Some(0.0), ..Links::default() };
        // Requests leave over the dispatcher's link and arrive over the first node's.
        let slowest = self.args.dispatcher_mbit.map_or(mbit, |dispatcher| dispatcher.min(mbit));
        let dispatcher = DispatcherLink { bandwidth_bps: f64::from(slowest) * 1e6, latency_ms: 0.0 };
        Cluster { nodes: (0..nodes).map(node).collect(), link, dispatcher: Some(dispatcher) }
    }

    /// Starts nodes, each on a machine of its own.
    async fn nodes(&mut self, engine: &str, count: u8) -> Result<Chain> {
        let step = Step::bar("starting nodes", u64::from(count));
        let mut nodes = Vec::new();
        for index in 0..count {
            let name = format!("{engine}-{count}-{index}");
            let share = self.share();
            let host = self.bed.host(&name, None, share)?;
            let state = self.folder.path().join(format!("state-{engine}-{count}-{index}"));
            let flags = serve(&host, &name, &state, engine);
            nodes.push((host.spawn(&format!("node {index}"), &self.binary, &flags)?, host));
        }
        let mut urls = Vec::new();
        for (node, _) in &mut nodes {
            listening(node, &NODE_PORTS, UP).await?;
            urls.push(node.address("rest").to_owned());
            step.inc();
        }
        step.done(&format!("{count} nodes with {engine}"));
        Ok(Chain { nodes, urls })
    }

    async fn measure(
        &self,
        engine: &str,
        (nodes, stages): (u8, usize),
        chain: &Chain,
        dispatcher: &Process,
        reference: &[Vec<Named>],
    ) -> Result<Row> {
        let client = Client {
            url: dispatcher.address("inference").to_owned(),
            model: self.subject.name.clone(),
            in_flight: self.args.in_flight(nodes),
            inputs: self.subject.inputs(),
        };
        let rate = client.warm_up().await?;
        let before = chain.totals(stages, &self.subject.name).await?;
        let steady = client.measure(rate, self.args.seconds).await?;
        let after = chain.totals(stages, &self.subject.name).await?;
        let mut error = 0.0;
        for (whole, answer) in reference.iter().zip(&steady.answers) {
            error = f64::max(error, difference(whole, answer)?);
        }
        let Steady { throughput_rps, p50_ms, p99_ms, requests, .. } = steady;
        let count = requests as f64;
        let mut row = Row {
            engine: engine.to_owned(),
            stages: u8::try_from(stages).unwrap_or(nodes),
            throughput_rps,
            p50_ms,
            p99_ms,
            max_relative_error: Some(error),
            lossy: error > crate::compare::ROUNDING || after.iter().any(|node| is_lossy(node.stages.stage.codec())),
            ..self.row("defer-host", nodes)
        };
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            let cpu_ms = (after.cpu - before.cpu).as_secs_f64() * 1e3 / count;
            row.cpu_ms_per_inference_max_node = row.cpu_ms_per_inference_max_node.max(cpu_ms);
            let faults = (after.major_faults - before.major_faults) / count;
            row.major_faults_per_inference = row.major_faults_per_inference.max(faults);
            let (now, then) = (&after.stages.stage.counters, &before.stages.stage.counters);
            let bytes_out = (now.bytes_out - then.bytes_out) as f64 / count;
            if index + 1 < stages {
                *row.bytes_per_inference.get_or_insert(0.0) += bytes_out;
            }
            row.stage_times.push(StageTime {
                cpu_ms,
                decode_ms: mean_ms(&then.decode, &now.decode),
                compute_ms: mean_ms(&then.compute, &now.compute),
                encode_ms: mean_ms(&then.encode, &now.encode),
                bytes_out,
                codec: after.stages.stage.codec().to_owned(),
            });
        }
        let inputs =
            (after[0].stages.stage.counters.bytes_in - before[0].stages.stage.counters.bytes_in) as f64 / count;
        row.input_bytes = Some(inputs);
        let peaks = chain.nodes.iter().map(|(node, _)| peak_memory_mb(&node.pid().to_string()));
        row.peak_memory_mb = peaks.fold(0.0, f64::max);
        Ok(row)
    }
}

/// Of what came between two looks at a series, in ms.
fn mean_ms(before: &Timing, after: &Timing) -> f64 {
    (after.sum_us - before.sum_us) / 1e3 / after.count.saturating_sub(before.count).max(1) as f64
}

fn is_lossy(codec: &str) -> bool {
    codec.parse::<Codec>().is_ok_and(Codec::is_lossy)
}

impl Chain {
    /// Tells all nodes to stop, and waits for it.
    pub async fn stop(self) -> Result<()> {
        tokio::task::spawn_blocking(move || {
            let Self { mut nodes, .. } = self;
            nodes.iter_mut().for_each(|(node, _)| node.ask_to_stop());
            for (node, _) in &mut nodes {
                node.terminate();
            }
        })
        .await?;
        Ok(())
    }

    /// Of the nodes that have the stages of `pipeline`.
    async fn totals(&self, stages: usize, pipeline: &str) -> Result<Vec<Totals>> {
        let stages = stats::collect(&self.urls[..stages], pipeline).await?;
        let mut totals = Vec::new();
        for (stages, (node, host)) in stages.into_iter().zip(&self.nodes) {
            let (_, major_faults) = stat(&node.pid().to_string())?;
            totals.push(Totals { cpu: host.group.cpu_time()?, major_faults, stages });
        }
        Ok(totals)
    }
}

/// Flags of a node on `host`.
pub(super) fn serve(host: &Host, name: &str, state: &Path, engine: &str) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["serve".into(), "--listen".into(), format!("{}:7700", host.address).into()];
    flags.extend(["--relay".into(), format!("{}:7701", host.address).into(), "--name".into(), name.into()]);
    flags.extend(["--state-dir".into(), state.into()]);
    flags.extend(["--threads", "1", "--insecure", "--engine", engine].map(OsString::from));
    flags
}

/// Starts a dispatcher on `door`, with further flags, and waits until its chain is up.
pub(super) async fn dispatch(door: &Host, binary: &Path, stages: &Path, more: &[OsString]) -> Result<Process> {
    let mut flags: Vec<OsString> = vec!["dispatch".into(), "--pipeline".into(), stages.into()];
    let free = || OsString::from(format!("{}:0", door.address));
    flags.extend(["--listen".into(), free(), "--admin".into(), free()]);
    // Many slow nodes are no reason to send anything again.
    flags.extend(
        ["--insecure", "--request-timeout", "600", "--replay-after", "60", "--queue", "1024"].map(OsString::from),
    );
    flags.extend_from_slice(more);
    let step = Step::spinner("shipping the stages");
    let mut dispatcher = door.spawn("the dispatcher", binary, &flags)?;
    listening(&mut dispatcher, &DISPATCHER_PORTS, DISPATCHER_UP).await?;
    step.done("stages shipped");
    Ok(dispatcher)
}

fn last_words(chain: &Chain, dispatcher: &Process) -> String {
    let nodes: String =
        chain.nodes.iter().map(|(node, _)| format!("\n{}{}", node.describe(), node.last_words())).collect();
    format!("\nthe dispatcher{}{nodes}", dispatcher.last_words())
}

/// As [`Process::wait_listening`], for an async thread, which a signal can break off.
pub(super) async fn listening(process: &mut Process, ports: &[&str], limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !process.is_listening(ports)? {
        if Instant::now() >= deadline {
            return process.wait_listening(ports, Duration::ZERO);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
