//! `defer-lab bench portable`: what it costs that a stage is a portable component, as machine code and interpreted; and
//! what the program itself takes.

mod program;

use super::report;
use super::sandbox::WARM_UP;
use super::sandbox::subject::{Calls, Subject, quantile, us};
use crate::cluster::binary;
use crate::table::{Side, table};
use anyhow::Result;
use clap::Args;
use defer_host::sandbox::{Execution, Limits, Sandbox};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Compilations, and starts of a node, of each kind: their medians count.
const COMPILATIONS: usize = 11;

/// Machine code and interpreter, and the programs: cost per call, compile time, size, start-up and idle memory.
///
/// Both kinds call the same session of the engine in turn (3.2 MB in, 0.8 MB out); overhead is a call's time less the time
/// inside the engine. A node is ready when it has printed its addresses; its memory is looked at a second later.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench portable
  defer-lab bench portable --json --calls 10000
  defer-lab bench portable --program target/aarch64-unknown-linux-gnu/release/defer-host")]
pub struct PortableArgs {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// Counted calls of each kind
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Nodes of each kind that are started, one after another
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    starts: u32,
    /// A further defer-host whose size to tell, of any architecture that `cargo xtask dist` builds for; may be repeated
    #[arg(long, value_name = "FILE")]
    program: Vec<PathBuf>,
}

/// An `executor` (`cranelift` or `pulley`, with a node that uses it), or a `program`.
#[derive(Debug, Serialize)]
struct Row {
    /// `executor` or `program`.
    kind: &'static str,
    /// Which one: the executor's name, or the program's file.
    name: String,
    arch: String,
    /// Median of a call's time less the engine's time in it.
    overhead_us: Option<f64>,
    overhead_p90_us: Option<f64>,
    overhead_p99_us: Option<f64>,
    /// Median time to compile a stage's component.
    compile_ms: Option<f64>,
    /// Median time from starting a node until it has printed its addresses.
    ready_ms: Option<f64>,
    /// Median of what is resident of a node without stages (VmRSS), in 10^6 bytes …
    idle_resident_mb: Option<f64>,
    /// … and of what is its own of it (RssAnon).
    idle_anonymous_mb: Option<f64>,
    /// The program's file without its symbols, in 10^6 bytes.
    stripped_mb: f64,
    calls: Option<u32>,
    engine: Option<String>,
}

pub fn run(args: &PortableArgs) -> Result<()> {
    let rows = measure(args)?;
    report(args.json, "portable", &rows, as_table)
}

/// One way to run a component.
struct Kind<'a> {
    execution: Execution,
    executor: &'static str,
    flags: &'static [&'static str],
    calls: Calls<'a>,
    overhead_us: Vec<f64>,
    compile_ms: Vec<f64>,
    nodes: Vec<program::Idle>,
}

fn measure(args: &PortableArgs) -> Result<Vec<Row>> {
    let host = binary()?;
    let subject = Subject::load(1)?;
    let kind = |execution, flags| -> Result<Kind<'_>> {
        let sandbox = Sandbox::with(execution, Limits::default())?;
        let calls = subject.calls(subject.compile(&sandbox)?)?;
        let (overhead_us, compile_ms, nodes) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Kind { execution, executor: sandbox.executor(), flags, calls, overhead_us, compile_ms, nodes })
    };
    let mut kinds = [kind(Execution::Best, &[])?, kind(Execution::Interpreted, &["--interpreter"])?];
    for round in 0..WARM_UP + args.calls {
        // Each goes first every other time: neither finds the caches always as the other left them.
        kinds.reverse();
        for kind in &mut kinds {
            let done = kind.calls.timed(Calls::sandboxed)?;
            if round >= WARM_UP {
                kind.overhead_us.push(us(done.total.saturating_sub(done.engine)));
            }
        }
    }
    for _ in 0..COMPILATIONS {
        kinds.reverse();
        for kind in &mut kinds {
            // Another one: a sandbox has what is in use compiled already.
            let sandbox = Sandbox::with(kind.execution, Limits::default())?;
            let started = Instant::now();
            drop(subject.compile(&sandbox)?);
            kind.compile_ms.push(us(started.elapsed()) / 1e3);
        }
    }
    for _ in 0..args.starts {
        kinds.reverse();
        for kind in &mut kinds {
            kind.nodes.push(program::start(&host, kind.flags)?);
        }
    }
    kinds.sort_by_key(|kind| kind.flags.len());
    let size = program::size(&host)?;
    let mut rows = Vec::new();
    for mut kind in kinds {
        let mut at = |share| Some(quantile(&mut kind.overhead_us, share));
        let (overhead_us, overhead_p90_us, overhead_p99_us) = (at(0.5), at(0.9), at(0.99));
        let of_nodes = |value: fn(&program::Idle) -> f64| {
            Some(quantile(&mut kind.nodes.iter().map(value).collect::<Vec<_>>(), 0.5))
        };
        rows.push(Row {
            kind: "executor",
            name: kind.executor.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            overhead_us,
            overhead_p90_us,
            overhead_p99_us,
            compile_ms: Some(quantile(&mut kind.compile_ms, 0.5)),
            ready_ms: of_nodes(|node| node.ready_ms),
            idle_resident_mb: of_nodes(|node| node.resident_mb),
            idle_anonymous_mb: of_nodes(|node| node.anonymous_mb),
            stripped_mb: size.stripped_mb,
            calls: Some(args.calls),
            engine: Some(subject.engine.to_owned()),
        });
    }
    for file in &args.program {
        let size = program::size(file)?;
        rows.push(Row {
            kind: "program",
            name: file.display().to_string(),
            arch: size.arch.to_owned(),
            overhead_us: None,
            overhead_p90_us: None,
            overhead_p99_us: None,
            compile_ms: None,
            ready_ms: None,
            idle_resident_mb: None,
            idle_anonymous_mb: None,
            stripped_mb: size.stripped_mb,
            calls: None,
            engine: None,
        });
    }
    Ok(rows)
}

fn as_table(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let header = [
        ("", Side::Left),
        ("arch", Side::Left),
        right("overhead µs"),
        right("p90"),
        right("p99"),
        right("compile ms"),
        right("ready ms"),
        right("idle MB"),
        right("own MB"),
        right("stripped MB"),
    ];
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
    let cells = |row: &Row| {
        [
            row.name.clone(),
            row.arch.clone(),
            number(row.overhead_us),
            number(row.overhead_p90_us),
            number(row.overhead_p99_us),
            number(row.compile_ms),
            number(row.ready_ms),
            number(row.idle_resident_mb),
            number(row.idle_anonymous_mb),
            number(Some(row.stripped_mb)),
        ]
    };
    table(header, &rows.iter().map(cells).collect::<Vec<_>>())
}
