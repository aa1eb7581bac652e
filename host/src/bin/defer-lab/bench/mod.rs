//! `defer-lab bench NAME`: one benchmark per file.

pub mod alone;
pub mod chain;
mod change;
mod codec;
mod engine;
pub mod machine;
mod memory;
mod plan;
mod portable;
mod sandbox;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use machine::Machine;
use serde::Serialize;

#[derive(Subcommand, Debug)]
pub enum Bench {
    /// A chain of nodes against one node, over links and CPUs of given speeds
    Chain(chain::ChainArgs),
    Predict(chain::predict::PredictArgs),
    Sandbox(sandbox::SandboxArgs),
    Portable(portable::PortableArgs),
    Engine(engine::EngineArgs),
    Codec(codec::CodecArgs),
    Memory(memory::MemoryArgs),
    Plan(plan::PlanArgs),
    Swap(change::SwapArgs),
    Recover(change::RecoverArgs),
    Overload(change::OverloadArgs),
    /// What `chain` compares with: one engine in a loop
    #[command(hide = true)]
    Alone(alone::AloneArgs),
}

/// Runs one benchmark. Blocks for as long as that takes.
pub fn run(which: &Bench) -> Result<()> {
    match which {
        // Runs on the async runtime, so that a signal ends it in order.
        Bench::Chain(_) | Bench::Predict(_) => Ok(()),
        Bench::Sandbox(args) => sandbox::run(args),
        Bench::Portable(args) => portable::run(args),
        Bench::Alone(args) => alone::run(args),
        Bench::Engine(args) => engine::run(args),
        Bench::Codec(args) => codec::run(args),
        Bench::Memory(args) => memory::run(args),
        Bench::Plan(args) => plan::run(args),
        Bench::Swap(args) => change::swap(args),
        Bench::Recover(args) => change::recover(args),
        Bench::Overload(args) => change::overload(args),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a, R> {
    bench: &'static str,
    machine: Machine,
    rows: &'a [R],
}

/// Prints what was measured: one JSON document, or `as_table` under a line about the machine.
pub fn report<R: Serialize>(
    json: bool,
    bench: &'static str,
    rows: &[R],
    as_table: impl FnOnce(&[R]) -> String,
) -> Result<()> {
    let machine = Machine::this();
    let text = match json {
        true => serde_json::to_string(&Document { bench, machine, rows })? + "\n",
        false => format!("{machine}\n\n{}", as_table(rows)),
    };
    defer_host::stdout::write(&text).context("cannot write the result")
}
