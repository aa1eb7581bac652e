//! `cargo xtask setup`: finds what is missing, installs it, says what it did and how long it took.
//!
//! Each thing it looks after is a file here, with a check that is cheap enough to run before every task.

mod c_libraries;
mod c_linker;
mod clients;
pub mod command;
mod cross;
mod emulator;
mod machine;
mod network;
pub mod onnxruntime;
mod peers;
mod perf_analyzer;
mod python;
mod reference;
mod wasm;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::cross::Cross;
use crate::workspace::seconds;
pub use machine::Machine;

/// Installs what is missing: C tools, Python, the wasm toolchain, the onnxruntime library, the same for aarch64 with what
/// runs it here, the tests' clients, the benchmarks' reference.
///
/// Does nothing, in under a second, when all of it is there. Where it may not install packages, it prints the commands.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask setup
  cargo xtask setup --check     exit code 1 when something is missing
  DEFER_CACHE=/srv/defer cargo xtask setup

What it downloads goes to DEFER_CACHE, else XDG_CACHE_HOME/defer-host, else ~/.cache/defer-host.")]
pub struct Args {
    /// Only report; exit code 1 when something is missing
    #[arg(long)]
    check: bool,
}

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Building and running `defer-host` or `defer-lab`.
    Run,
    Test,
    /// The same as `Run`, and comparing with ONNX Runtime in Python.
    Compare,
    /// The same as `Compare`, in a test bed of network namespaces.
    Bed,
    /// The same as `Bed`, with other systems beside.
    Peers,
    /// The same as `Run`, for another architecture: nothing of it runs here.
    Cross(&'static Cross),
    /// The same as `Cross`, and running it, in emulation.
    Mixed(&'static Cross),
}

/// How much a task needs an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    /// Installed when it can be; the task goes on without.
    Useful,
    Unused,
}

/// Something that a task needs on this machine.
trait Item {
    fn name(&self) -> &'static str;

    /// What was found, in a few words; the error says what is missing.
    fn find(&self, machine: &Machine) -> Result<String>;

    /// Installs it; the error's last words are the command to run where this process may not.
    fn install(&self, machine: &mut Machine) -> Result<()>;

    fn need(&self, task: Task) -> Need;

    /// Whether only the task that needs it installs it: few want it.
    fn on_demand(&self) -> bool {
        false
    }
}

/// In order: a later item is installed with the help of earlier ones.
const ITEMS: [&dyn Item; 15] = [
    &c_linker::CLinker,
    &c_libraries::CLibraries,
    &python::Python,
    &wasm::Wasm,
    &onnxruntime::Onnxruntime,
    &cross::FOR_AARCH64,
    &cross::FOR_ARMV7,
    &onnxruntime::ForAarch64,
    &emulator::FOR_AARCH64,
    &emulator::FOR_ARMV7,
    &clients::Clients,
    &perf_analyzer::PerfAnalyzer,
    &reference::Reference,
    &network::Network,
    &peers::Peers,
];

pub fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mut machine = Machine::from_env()?;
    println!("cache: {}", machine.cache.display());
    let mut missing = Vec::new();
    let mut installed = 0;
    for item in ITEMS {
        match item.find(&machine) {
            Ok(found) => println!("{:15} {found}", item.name()),
            Err(_) if item.on_demand() => println!("{:15} not installed; the task that needs it does", item.name()),
            Err(absent) if args.check => {
                println!("{:15} missing: {absent:#}", item.name());
                missing.push(item.name());
            }
            Err(absent) => {
                println!("{:15} {absent:#}; installing", item.name());
                let step = Instant::now();
                match install(item, &mut machine) {
                    Ok(found) => {
                        println!("{:15} installed in {}: {found}", item.name(), seconds(step));
                        installed += 1;
                    }
                    Err(error) => {
                        println!("{:15} not installed: {error:#}", item.name());
                        missing.push(item.name());
                    }
                }
            }
        }
    }
    let time = seconds(started);
    if !missing.is_empty() {
        println!("missing: {} ({time})", missing.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    match installed {
        0 => println!("nothing to install ({time})"),
        n => println!("installed {n} of {} in {time}", ITEMS.len()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes sure of what a task needs; silent when it is all there. Everything goes to stderr: stdout is the task's.
pub fn ensure(task: Task) -> Result<()> {
    let mut machine = Machine::from_env()?;
    for item in ITEMS {
        let name = item.name();
        if item.need(task) == Need::Unused {
            continue;
        }
        let Err(absent) = item.find(&machine) else {
            continue;
        };
        eprintln!("setup: {name}: {absent:#}; installing");
        let step = Instant::now();
        match install(item, &mut machine) {
            Ok(found) => eprintln!("setup: {name}: installed in {}: {found}", seconds(step)),
            Err(error) if item.need(task) == Need::Useful => {
                eprintln!("setup: {name}: not installed, going on without: {error:#}");
            }
            Err(error) => return Err(error.context(format!("setup: {name}"))),
        }
    }
    Ok(())
}

fn install(item: &dyn Item, machine: &mut Machine) -> Result<String> {
    item.install(machine)?;
    item.find(machine)
}
