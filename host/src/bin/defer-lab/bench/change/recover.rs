//! `defer-lab bench recover`: nodes of a chain with a warm spare, and replicas of a stage, are killed and frozen.

use super::{AT, Bed, Common, FULL, Help, Stages};
use crate::bench::report;
use crate::table::{Side, table};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use defer_host::dispatcher::nodes::NodeClient;
use defer_host::relay::Token;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const SECONDS: f64 = 10.0;
/// How long the spare may take to be given the stages.
const WARM: Duration = Duration::from_secs(120);

/// The longest time without an answer when a node is lost, and a spare takes over or a replica goes on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench recover
  defer-lab bench recover --model resnet50 --json")]
pub struct RecoverArgs {
    #[command(flatten)]
    common: Common,
    /// Stages; there is one node more
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: u16,
    /// Requests under way: half as many as nodes are about half the load that they can bear
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    nodes: u16,
    in_flight: u16,
    fault: &'static str,
    /// What there is instead of the node: `spare`, `replica` or, when it is the same node again, `itself`.
    instead: &'static str,
    stage: usize,
    steady_rps: f64,
    /// The longest time without an answer, from the last one before it. `restart`: from the start of a node's process to its
    /// stage loaded and warmed up again.
    longest_gap_ms: f64,
    longest_gap_goal_ms: f64,
    /// Requests that were told to come again.
    retries: u64,
    failed: u64,
    met: bool,
}

pub fn run(args: &RecoverArgs) -> Result<()> {
    let last = usize::from(args.nodes) - 1;
    let mut rows = Vec::new();
    for model in &args.common.models {
        let stages = Stages::build(model, usize::from(args.nodes))?;
        for (instead, fault, signal, goal) in [
            ("spare", "SIGKILL", Signal::KILL, 1000.0),
            ("spare", "SIGSTOP", Signal::STOP, 2000.0),
            ("replica", "SIGKILL", Signal::KILL, 200.0),
            ("replica", "SIGSTOP", Signal::STOP, 200.0),
        ] {
            for stage in [0, last / 2, last] {
                let help = if instead == "spare" { Help::Spare } else { Help::Replica(stage) };
                // A bed for each: what was lost stays lost.
                let bed = Bed::start(&stages, help)?;
                if help == Help::Spare {
                    wait_until_warm(&bed)?;
                }
                let (steady_rps, answers) = lose(&bed, args, stage, signal)?;
                let gap = answers.longest_gap_ms();
                rows.push(Row {
                    model: model.clone(),
                    nodes: args.nodes,
                    in_flight: args.in_flight,
                    fault,
                    instead,
                    stage,
                    steady_rps,
                    longest_gap_ms: gap,
                    longest_gap_goal_ms: goal,
                    retries: answers.retries,
                    failed: answers.failed,
                    met: gap < goal && answers.failed == 0,
                });
            }
        }
        rows.push(restart(&stages, args)?);
    }
    report(args.common.json, "recover", &rows, as_table)
}

/// Waits until the spare has every stage.
fn wait_until_warm(bed: &Bed<'_>) -> Result<()> {
    let spare = bed.nodes.last().context("a bed has nodes")?;
    let spare = NodeClient::new(spare.address("rest").parse()?, Token::default())?;
    let end = Instant::now() + WARM;
    for cut in &bed.stages.pipeline.stages {
        while !Handle::current().block_on(spare.has_artifact(&cut.digest))? {
            if Instant::now() > end {
                bail!("the spare was not given stage {} within {} s", cut.index, WARM.as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

fn lose(bed: &Bed<'_>, args: &RecoverArgs, stage: usize, signal: Signal) -> Result<(f64, super::Answers)> {
    let rate = bed.rate(args.in_flight)?;
    let load = bed.load(args.in_flight, rate, SECONDS);
    load.wait_until(AT);
    let pid = i32::try_from(bed.nodes[stage].pid()).ok().and_then(Pid::from_raw).context("a process has an id")?;
    kill_process(pid, signal)?;
    let answers = load.end()?;
    Ok((answers.per_second(FULL, AT), answers))
}

/// How long a node takes from its start until its stage serves again.
fn restart(stages: &Stages, args: &RecoverArgs) -> Result<Row> {
    let stage = usize::from(args.nodes) - 1;
    let mut bed = Bed::start(stages, Help::None)?;
    bed.nodes[stage].kill();
    let begun = Instant::now();
    let node = bed.start_node(stage)?;
    super::super::memory::process::stage(node.address("rest"))?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    bed.nodes[stage] = node;
    Ok(Row {
        model: stages.model.clone(),
        nodes: args.nodes,
        in_flight: 0,
        fault: "restart",
        instead: "itself",
        stage,
        steady_rps: 0.0,
        longest_gap_ms: took,
        longest_gap_goal_ms: 1000.0,
        retries: 0,
        failed: 0,
        met: took < 1000.0,
    })
}

fn as_table(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let header = [
        ("network", Side::Left),
        ("fault", Side::Left),
        ("instead", Side::Left),
        right("stage"),
        right("per second"),
        right("longest gap ms"),
        right("goal"),
        right("told to come again"),
        right("failed"),
        right("met"),
    ];
    let cells = |row: &Row| {
        [
            row.model.clone(),
            row.fault.to_owned(),
            row.instead.to_owned(),
            row.stage.to_string(),
            format!("{:.1}", row.steady_rps),
            format!("{:.0}", row.longest_gap_ms),
            format!("{:.0}", row.longest_gap_goal_ms),
            row.retries.to_string(),
            row.failed.to_string(),
            if row.met { "yes" } else { "no" }.to_owned(),
        ]
    };
    table(header, &rows.iter().map(cells).collect::<Vec<_>>())
}
