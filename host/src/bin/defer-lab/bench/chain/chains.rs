//! The system itself: a chain of nodes, each on a machine of its own.

use super::Codecs;
use super::bed::Host;
use super::group::Share;
use super::measure::{Client, Steady};
use super::report::{Row, StageTime};
use super::systems::Bench;
use crate::bench::alone::{peak_memory_mb, stat};
use crate::cluster::{DISPATCHER_PORTS, DISPATCHER_UP, NODE_PORTS, Process};
use crate::compare::difference;
use crate::stages;
use crate::stats::{self, StageStats, Timing};
use crate::step::Step;
use anyhow::{Context as _, Result};
use defer_host::engine::Named;
use defer_host::relay::Codec;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A node with a tenth of a CPU takes its time.
const UP: Duration = Duration::from_secs(120);
/// What is running of one chain.
struct Chain {
    nodes: Vec<(Process, Host)>,
    urls: Vec<String>,
    stages: PathBuf,
    pipeline: String,
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
        let folder = self.folder.path().join(format!("{engine}-{nodes}"));
        let lossy = args.codec.contains(&Codecs::AutoLossy).then_some(args.allow_lossy);
        stages::build(&self.binary, &self.subject, (usize::from(nodes), engine), &[], lossy, &folder).await?;
        let share = Share { cpu: None, memory_mb: None };
        let door = self.bed.host(&format!("dispatcher-{engine}-{nodes}"), args.dispatcher_mbit, share)?;
        let chain = self.nodes(engine, nodes, folder).await?;
        // Fast links first: a node that chooses codecs takes its time to believe that a link has become faster.
        let mut rates = args.link_mbit.clone();
        rates.sort_unstable_by(|a, b| b.cmp(a));
        for &codec in &args.codec {
            let dispatcher = self.dispatcher(&door, &chain, codec).await?;
            for &mbit in &rates {
                for (_, host) in &chain.nodes {
                    host.shape(Some(mbit))?;
                }
                let about = format!("{engine}, {nodes} nodes, {mbit} Mbit/s, {codec}");
                let step = Step::spinner(&about);
                let mut row = self
                    .measure(engine, nodes, &chain, &dispatcher, reference)
                    .await
                    .with_context(|| format!("{about}{}", last_words(&chain, &dispatcher)))?;
                row.link_mbit = Some(mbit);
                row.codec = Some(codec.to_string());
                row.bind();
                step.done(&format!("{about}: {:.2} per second", row.throughput_rps));
                self.rows.push(row);
            }
            for (_, host) in &chain.nodes {
                host.shape(None)?;
            }
            let mut dispatcher = dispatcher;
            tokio::task::spawn_blocking(move || dispatcher.terminate()).await?;
        }
        tokio::task::spawn_blocking(move || {
            let Chain { mut nodes, .. } = chain;
            nodes.iter_mut().for_each(|(node, _)| node.ask_to_stop());
            for (node, _) in &mut nodes {
                node.terminate();
            }
        })
        .await?;
        Ok(())
    }

    /// Starts nodes, each on a machine of its own.
    async fn nodes(&mut self, engine: &str, count: u8, stages: PathBuf) -> Result<Chain> {
        let step = Step::bar("starting nodes", u64::from(count));
        let mut nodes = Vec::new();
        for index in 0..count {
            let name = format!("{engine}-{count}-{index}");
            let share = self.share();
            let host = self.bed.host(&name, None, share)?;
            let mut flags: Vec<OsString> =
                vec!["serve".into(), "--listen".into(), format!("{}:7700", host.address).into()];
            flags.extend(["--relay".into(), format!("{}:7701", host.address).into(), "--name".into(), name.into()]);
            flags.extend([
                "--state-dir".into(),
                self.folder.path().join(format!("state-{engine}-{count}-{index}")).into(),
            ]);
            flags.extend(["--threads", "1", "--insecure", "--engine", engine].map(OsString::from));
            nodes.push((host.spawn(&format!("node {index}"), &self.binary, &flags)?, host));
        }
        let mut urls = Vec::new();
        for (node, _) in &mut nodes {
            listening(node, &NODE_PORTS, UP).await?;
            urls.push(node.address("rest").to_owned());
            step.inc();
        }
        step.done(&format!("{count} nodes with {engine}"));
        Ok(Chain { nodes, urls, stages, pipeline: self.subject.name.clone() })
    }

    async fn dispatcher(&self, door: &Host, chain: &Chain, codec: Codecs) -> Result<Process> {
        let mut flags: Vec<OsString> = vec!["dispatch".into(), "--pipeline".into(), chain.stages.clone().into()];
        flags.extend([
            "--listen".into(),
            format!("{}:0", door.address).into(),
            "--admin".into(),
            format!("{}:0", door.address).into(),
        ]);
        // Many slow nodes are no reason to send anything again.
        flags.extend(
            ["--insecure", "--request-timeout", "600", "--replay-after", "60", "--queue", "1024"].map(OsString::from),
        );
        flags.extend(codec.flags().into_iter().map(OsString::from));
        flags.push("--node".into());
        flags.extend(chain.urls.iter().map(OsString::from));
        let step = Step::spinner("shipping the stages");
        let mut dispatcher = door.spawn("the dispatcher", &self.binary, &flags)?;
        listening(&mut dispatcher, &DISPATCHER_PORTS, DISPATCHER_UP).await?;
        step.done("stages shipped");
        Ok(dispatcher)
    }

    async fn measure(
        &self,
        engine: &str,
        nodes: u8,
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
        let before = chain.totals().await?;
        let steady = client.measure(rate, self.args.seconds).await?;
        let after = chain.totals().await?;
        let mut error = 0.0;
        for (whole, answer) in reference.iter().zip(&steady.answers) {
            error = f64::max(error, difference(whole, answer)?);
        }
        let Steady { throughput_rps, p50_ms, p99_ms, requests, .. } = steady;
        let count = requests as f64;
        let mut row = Row {
            engine: engine.to_owned(),
            stages: nodes,
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
            if index + 1 < usize::from(nodes) {
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
    async fn totals(&self) -> Result<Vec<Totals>> {
        let stages = stats::collect(&self.urls, &self.pipeline).await?;
        let mut totals = Vec::new();
        for (stages, (node, host)) in stages.into_iter().zip(&self.nodes) {
            let (_, major_faults) = stat(&node.pid().to_string())?;
            totals.push(Totals { cpu: host.group.cpu_time()?, major_faults, stages });
        }
        Ok(totals)
    }
}

fn last_words(chain: &Chain, dispatcher: &Process) -> String {
    let nodes: String =
        chain.nodes.iter().map(|(node, _)| format!("\n{}{}", node.describe(), node.last_words())).collect();
    format!("\nthe dispatcher{}{nodes}", dispatcher.last_words())
}

/// As [`Process::wait_listening`], for an async thread, which a signal can break off.
async fn listening(process: &mut Process, ports: &[&str], limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !process.is_listening(ports)? {
        if Instant::now() >= deadline {
            return process.wait_listening(ports, Duration::ZERO);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
