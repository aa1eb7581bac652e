//! `defer-lab bench sandbox`: what a call costs beyond the engine's own time, with the real guest, artifact and engine.

pub mod subject;

use super::report;
use crate::table::{Side, table};
use anyhow::Result;
use clap::Args;
use defer_host::sandbox::{Limits, Sandbox};
use serde::Serialize;
use subject::{BYTES_OUT, Calls, Subject, quantile, us};

/// Calls before any is counted, of each kind.
pub const WARM_UP: u32 = 100;

/// What the sandbox costs per call: 3.2 MB in, 0.8 MB out.
///
/// The same session is called directly and through the component, in turn. Overhead is a call's time less the time
/// inside the engine in that same call.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench sandbox
  defer-lab bench sandbox --json --calls 10000")]
pub struct SandboxArgs {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// Counted calls of each kind
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Threads of the engine
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    /// Median of the session called directly.
    direct_us: f64,
    /// Median of the whole call through the component.
    sandboxed_us: f64,
    /// Median of a call's time less the engine's time in it.
    overhead_us: f64,
    overhead_p90_us: f64,
    overhead_p99_us: f64,
    calls: u32,
    bytes_in: usize,
    bytes_out: usize,
    engine: String,
    threads: usize,
}

pub fn run(args: &SandboxArgs) -> Result<()> {
    report(args.json, "sandbox", &[measure(args)?], as_table)
}

fn as_table(rows: &[Row]) -> String {
    let us = |value: f64| format!("{value:.1}");
    let right = |title| (title, Side::Right);
    let header = [
        right("direct µs"),
        right("sandboxed µs"),
        right("overhead µs"),
        right("p90"),
        right("p99"),
        right("calls"),
        right("bytes in"),
        right("bytes out"),
        ("engine", Side::Left),
    ];
    let cells = |row: &Row| {
        [
            us(row.direct_us),
            us(row.sandboxed_us),
            us(row.overhead_us),
            us(row.overhead_p90_us),
            us(row.overhead_p99_us),
            row.calls.to_string(),
            row.bytes_in.to_string(),
            row.bytes_out.to_string(),
            row.engine.clone(),
        ]
    };
    table(header, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn measure(args: &SandboxArgs) -> Result<Row> {
    let subject = Subject::load(args.threads)?;
    let program = subject.compile(&Sandbox::new(Limits::default())?)?;
    let mut calls = subject.calls(program)?;
    let (mut direct_us, mut sandboxed_us, mut overhead_us) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + args.calls {
        // Each goes first every other time: neither finds the caches always as the other left them.
        let (direct, sandboxed) = if round % 2 == 0 {
            let direct = calls.timed(Calls::direct)?;
            (direct, calls.timed(Calls::sandboxed)?)
        } else {
            let sandboxed = calls.timed(Calls::sandboxed)?;
            (calls.timed(Calls::direct)?, sandboxed)
        };
        if round >= WARM_UP {
            direct_us.push(us(direct.total));
            sandboxed_us.push(us(sandboxed.total));
            overhead_us.push(us(sandboxed.total.saturating_sub(sandboxed.engine)));
        }
    }
    Ok(Row {
        direct_us: quantile(&mut direct_us, 0.5),
        sandboxed_us: quantile(&mut sandboxed_us, 0.5),
        overhead_us: quantile(&mut overhead_us, 0.5),
        overhead_p90_us: quantile(&mut overhead_us, 0.9),
        overhead_p99_us: quantile(&mut overhead_us, 0.99),
        calls: args.calls,
        bytes_in: subject.bytes_in(),
        bytes_out: BYTES_OUT,
        engine: subject.engine.to_owned(),
        threads: subject.options.threads,
    })
}
