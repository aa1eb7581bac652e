//! `defer-lab bench swap`: each stage of a chain under load is swapped for a rebuilt one, with CPU to spare and without.

use super::{AT, Bed, Common, FULL, Help, Stages};
use crate::bench::memory::process::{Memory, stages};
use crate::bench::report;
use crate::table::{Side, table};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use defer_host::dispatcher::nodes::NodeClient;
use defer_host::relay::Token;
use serde::Serialize;
use std::ops::Range;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const SECONDS: f64 = 8.0;
/// How long an old generation may take to go.
const SETTLED: Duration = Duration::from_secs(35);
/// Memory after many swaps, over memory after two.
const MEMORY: f64 = 1.05;
/// The second around a swap, over steady state.
const GOAL: f64 = 0.95;

/// Throughput around the swap of a stage, with CPU to spare and under full load.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench swap                              80 swaps, one in 8 s, then 200 more
  defer-lab bench swap --model resnet50 --json")]
pub struct SwapArgs {
    #[command(flatten)]
    common: Common,
    /// Nodes, and as many stages
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Requests under way, one series each: one leaves all processors but one idle, six keep two busy
    #[arg(long, default_values = ["1", "6"], value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: Vec<u16>,
    /// Swaps of each stage; the one with the median ratio counts, since in one of them an answer more or less is a lot
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Swaps of the last stage after which its node's memory is compared with that after two; 0 for none
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(0..))]
    swaps: u32,
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    nodes: u16,
    in_flight: u16,
    stage: usize,
    /// Answers per second before the swap.
    steady_rps: f64,
    /// The same in the second around the moment in which the ingress turned.
    around_rps: f64,
    throughput_ratio: f64,
    throughput_ratio_goal: f64,
    /// Of all swaps of this stage, in ascending order.
    throughput_ratios: Vec<f64>,
    /// From the upload to the answer that the ingress has turned.
    swap_ms: f64,
    /// Of which loading and warming up.
    loaded_ms: f64,
    /// In any of them.
    longest_gap_ms: f64,
    /// In all of them.
    failed: u64,
    /// Anonymous memory of the stage's node after this many swaps more, over that after two of them; of the last stage.
    memory_swaps: Option<u32>,
    memory_ratio: Option<f64>,
    memory_ratio_goal: f64,
    met: bool,
}

pub fn run(args: &SwapArgs) -> Result<()> {
    let mut rows = Vec::new();
    for model in &args.common.models {
        let stages = Stages::build(model, usize::from(args.nodes))?;
        let bed = Bed::start(&stages, Help::None)?;
        let mut turn = 0;
        for &in_flight in &args.in_flight {
            let turns = turn..turn + u32::from(args.repeats);
            turn = turns.end;
            let rate = bed.rate(in_flight)?;
            for stage in 0..usize::from(args.nodes) {
                let swaps = turns.clone().map(|turn| measure(&bed, in_flight, stage, rate, turn));
                rows.push(median(swaps.collect::<Result<_>>()?));
            }
        }
        if let (Some(row), true) = (rows.last_mut(), args.swaps > 2) {
            let ratio = growth(&bed, row.stage, turn..turn + args.swaps)?;
            (row.memory_swaps, row.memory_ratio) = (Some(args.swaps), Some(ratio));
            row.met &= ratio <= MEMORY;
        }
    }
    report(args.common.json, "swap", &rows, as_table)
}

/// The swap of a stage with the median ratio; failures and gaps are those of all.
fn median(mut swaps: Vec<Row>) -> Row {
    swaps.sort_by(|a, b| a.throughput_ratio.total_cmp(&b.throughput_ratio));
    let failed = swaps.iter().map(|row| row.failed).sum();
    let longest_gap_ms = swaps.iter().map(|row| row.longest_gap_ms).fold(0.0, f64::max);
    let throughput_ratios: Vec<f64> = swaps.iter().map(|row| row.throughput_ratio).collect();
    let row = swaps.swap_remove((swaps.len() - 1) / 2);
    let met = row.throughput_ratio >= GOAL && failed == 0;
    Row { failed, longest_gap_ms, throughput_ratios, met, ..row }
}

/// What a stage is swapped for in a turn.
fn other(bed: &Bed<'_>, stage: usize, turn: u32) -> Result<PathBuf> {
    let file = bed.folder.path().join("rebuilt.wasm");
    std::fs::write(&file, rebuilt(&std::fs::read(bed.stages.artifact(stage))?, turn)?)?;
    Ok(file)
}

fn measure(bed: &Bed<'_>, in_flight: u16, stage: usize, rate: f64, turn: u32) -> Result<Row> {
    let file = other(bed, stage, turn)?;
    let node = NodeClient::new(bed.nodes[stage].address("rest").parse()?, Token::default())?;
    let load = bed.load(in_flight, rate, SECONDS);
    load.wait_until(AT);
    let from = load.now();
    let swapped = Handle::current().block_on(node.swap(&bed.stages.model, stage, &file, |_| {}));
    let turned = load.now();
    let answers = load.end()?;
    let swapped = swapped?;
    let steady_rps = answers.per_second(FULL, AT);
    let half = Duration::from_millis(500);
    let last = answers.at.last().copied().unwrap_or_default();
    ensure!(last >= turned + half, "the load ended {last:?} after its start, before the second that counts was over");
    let around_rps = answers.per_second(turned - half, turned + half);
    let throughput_ratio = around_rps / steady_rps;
    Ok(Row {
        model: bed.stages.model.clone(),
        nodes: u16::try_from(bed.stages.pipeline.stages.len())?,
        in_flight,
        stage,
        steady_rps,
        around_rps,
        throughput_ratio,
        throughput_ratio_goal: GOAL,
        throughput_ratios: vec![throughput_ratio],
        swap_ms: (turned - from).as_secs_f64() * 1e3,
        loaded_ms: swapped["loaded_ms"].as_f64().unwrap_or_default(),
        longest_gap_ms: answers.longest_gap_ms(),
        failed: answers.failed,
        memory_swaps: None,
        memory_ratio: None,
        memory_ratio_goal: MEMORY,
        met: false,
    })
}

/// What the swaps of `turns` leave behind in a stage's node's memory, over what two leave.
fn growth(bed: &Bed<'_>, stage: usize, turns: Range<u32>) -> Result<f64> {
    let swaps = turns.len();
    let process = &bed.nodes[stage];
    let node = NodeClient::new(process.address("rest").parse()?, Token::default())?;
    let mut early = None;
    for (swap, turn) in (1..=swaps).zip(turns) {
        let file = other(bed, stage, turn)?;
        Handle::current().block_on(node.swap(&bed.stages.model, stage, &file, |_| {}))?;
        if swap == 2 || swap == swaps {
            // The old one is dropped after the answer.
            let end = Instant::now() + SETTLED;
            while stages(process.address("rest"))?.len() > 1 && Instant::now() < end {
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(Duration::from_millis(200));
            let now = Memory::of(process.pid())?.anonymous as f64;
            match early {
                None => early = Some(now),
                Some(early) => return Ok(now / early),
            }
        }
    }
    anyhow::bail!("three swaps at least tell whether memory grows")
}

/// The same stage as another file, in each turn another one: the digest of the model that it says it was cut from begins with
/// the turn's number.
fn rebuilt(artifact: &[u8], turn: u32) -> Result<Vec<u8>> {
    const FIELD: &[u8] = b"\"model_digest\":\"";
    let mut artifact = artifact.to_vec();
    let at = artifact.windows(FIELD.len()).position(|bytes| bytes == FIELD).context("no model_digest in the stage")?;
    let turn = format!("{turn:08x}");
    let digits = artifact.get_mut(at + FIELD.len()..).and_then(|rest| rest.get_mut(..turn.len()));
    let digits = digits.context("the stage ends too early")?;
    ensure!(digits.iter().all(u8::is_ascii_hexdigit), "the stage's model_digest is none");
    digits.copy_from_slice(turn.as_bytes());
    Ok(artifact)
}

fn as_table(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let header = [
        ("network", Side::Left),
        right("under way"),
        right("stage"),
        right("per second"),
        right("around the swap"),
        right("ratio"),
        right("goal"),
        right("swap ms"),
        right("load ms"),
        right("longest gap ms"),
        right("failed"),
        right("memory"),
        right("met"),
    ];
    let cells = |row: &Row| {
        [
            row.model.clone(),
            row.in_flight.to_string(),
            row.stage.to_string(),
            format!("{:.1}", row.steady_rps),
            format!("{:.1}", row.around_rps),
            format!("{:.2}", row.throughput_ratio),
            format!("{:.2}", row.throughput_ratio_goal),
            format!("{:.0}", row.swap_ms),
            format!("{:.0}", row.loaded_ms),
            format!("{:.0}", row.longest_gap_ms),
            row.failed.to_string(),
            row.memory_ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")),
            if row.met { "yes" } else { "no" }.to_owned(),
        ]
    };
    table(header, &rows.iter().map(cells).collect::<Vec<_>>())
}
