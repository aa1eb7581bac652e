//! `defer-lab bench overload`: requests come as often as a clock says, up to four times as many as the chain can answer.

use super::{Bed, Common, Help, Stages};
use crate::bench::report;
use crate::http::{Connection, Target};
use crate::table::{Side, table};
use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// From when on answers count: the queue is full by then.
const FULL: Duration = Duration::from_secs(3);
/// Answers per second under any load that is more than can be answered, over the most under any.
const GOAL: f64 = 0.9;
/// A client's own limit.
const TIMEOUT_US: u64 = 30_000_000;

/// Answers per second when there are more requests than can be answered.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench overload
  defer-lab bench overload --model resnet50 --load 1,4,8 --json")]
pub struct OverloadArgs {
    #[command(flatten)]
    common: Common,
    /// Nodes, and as many stages
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Requests per second, over what the chain answers when it always has some: one series each
    #[arg(long, default_values = ["0.8", "1", "2", "4"], value_name = "X,…", value_delimiter = ',', value_parser = load)]
    load: Vec<f64>,
    /// Seconds that count, of each series
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    nodes: u16,
    /// Requests per second, over what was answered per second before with as many under way as keep the chain full.
    load: f64,
    offered_rps: f64,
    answered_rps: f64,
    /// `answered_rps` over the highest of all series.
    goodput_ratio: f64,
    goodput_ratio_goal: f64,
    /// Told to come again: 429 or 503.
    refused: u64,
    failed: u64,
    /// From a request's first byte to its answer.
    answer_ms_median: Option<f64>,
    refusal_ms_median: Option<f64>,
    refusal_ms_p99: Option<f64>,
    met: bool,
}

/// What became of requests, from the moment when answers count.
#[derive(Default)]
struct Seen {
    offered: u64,
    answered: Vec<Duration>,
    refused: Vec<Duration>,
    failed: u64,
}

pub fn run(args: &OverloadArgs) -> Result<()> {
    let mut rows = Vec::new();
    for model in &args.common.models {
        let stages = Stages::build(model, usize::from(args.nodes))?;
        let bed = Bed::start(&stages, Help::None)?;
        let full = bed.rate(2 * args.nodes)?;
        let mut of_model = Vec::new();
        for &load in &args.load {
            let seen = Handle::current().block_on(offer(&bed, load * full, args.seconds))?;
            of_model.push(row(model, args, load, seen));
        }
        let most = of_model.iter().map(|row| row.answered_rps).fold(f64::MIN_POSITIVE, f64::max);
        for row in &mut of_model {
            row.goodput_ratio = row.answered_rps / most;
            row.met = row.failed == 0 && (row.load < 1.0 || row.goodput_ratio >= GOAL);
        }
        rows.append(&mut of_model);
    }
    report(args.common.json, "overload", &rows, as_table)
}

fn load(text: &str) -> Result<f64, String> {
    let load = text.parse().ok().filter(|load: &f64| (0.01..=100.0).contains(load));
    load.ok_or_else(|| "give a number from 0.01 to 100".to_owned())
}

/// Begins `rate` requests a second, whatever becomes of those before.
async fn offer(bed: &Bed<'_>, rate: f64, seconds: u64) -> Result<Seen> {
    let door: SocketAddr = bed.dispatcher.address("inference").trim_start_matches("http://").parse()?;
    let to = Target { door, model: &bed.stages.model, key: None };
    let requests: Vec<Arc<[u8]>> =
        bed.stages.inputs.iter().map(|inputs| to.binary("0", inputs, TIMEOUT_US).into()).collect();
    let (seen, idle) = (Arc::<Mutex<Seen>>::default(), Arc::<Mutex<Vec<Connection>>>::default());
    let begun = Instant::now();
    let end = begun + FULL + Duration::from_secs(seconds);
    let mut under_way = JoinSet::new();
    for (number, request) in (0u32..).zip(requests.iter().cycle()) {
        let at = begun + Duration::from_secs_f64(f64::from(number) / rate);
        if at >= end {
            break;
        }
        tokio::time::sleep_until(at.into()).await;
        let (seen, idle, request) = (Arc::clone(&seen), Arc::clone(&idle), Arc::clone(request));
        under_way.spawn(async move {
            let mut connection = lock(&idle).pop().unwrap_or_default();
            let asked = Instant::now();
            let reply = connection.ask(door, &request).await;
            let (now, took) = (Instant::now(), asked.elapsed());
            let mut seen = lock(&seen);
            seen.offered += u64::from(asked >= begun + FULL);
            match reply.map(|reply| reply.status) {
                _ if now < begun + FULL || now >= end => {}
                Ok(200) => seen.answered.push(took),
                Ok(429 | 503) => seen.refused.push(took),
                _ => seen.failed += 1,
            }
            drop(seen);
            lock(&idle).push(connection);
        });
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
    let seen = Arc::into_inner(seen).context("a request is still under way")?;
    Ok(seen.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn row(model: &str, args: &OverloadArgs, load: f64, seen: Seen) -> Row {
    let Seen { offered, mut answered, mut refused, failed } = seen;
    let seconds = args.seconds as f64;
    let ms = |times: &mut Vec<Duration>, share: f64| {
        times.sort_unstable();
        let at = (times.len() as f64 * share) as usize;
        times.get(at).map(|took| took.as_secs_f64() * 1e3)
    };
    Row {
        model: model.to_owned(),
        nodes: args.nodes,
        load,
        offered_rps: offered as f64 / seconds,
        answered_rps: answered.len() as f64 / seconds,
        goodput_ratio: 0.0,
        goodput_ratio_goal: GOAL,
        refused: refused.len() as u64,
        failed,
        answer_ms_median: ms(&mut answered, 0.5),
        refusal_ms_median: ms(&mut refused, 0.5),
        refusal_ms_p99: ms(&mut refused, 0.99),
        met: false,
    }
}

fn as_table(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let header = [
        ("network", Side::Left),
        right("load"),
        right("asked per second"),
        right("answered"),
        right("over the most"),
        right("goal"),
        right("answer ms"),
        right("told to come again"),
        right("in ms"),
        right("99 %"),
        right("failed"),
        right("met"),
    ];
    let ms = |ms: Option<f64>| ms.map_or_else(String::new, |ms| format!("{ms:.1}"));
    let cells = |row: &Row| {
        [
            row.model.clone(),
            format!("{:.1}", row.load),
            format!("{:.1}", row.offered_rps),
            format!("{:.1}", row.answered_rps),
            format!("{:.2}", row.goodput_ratio),
            format!("{:.2}", row.goodput_ratio_goal),
            ms(row.answer_ms_median),
            row.refused.to_string(),
            ms(row.refusal_ms_median),
            ms(row.refusal_ms_p99),
            row.failed.to_string(),
            if row.met { "yes" } else { "no" }.to_owned(),
        ]
    };
    table(header, &rows.iter().map(cells).collect::<Vec<_>>())
}
