//! Runs of pieces, each a network of its own on the real engine, timed with the real activations.

use super::{describe, weights};
use crate::buffer::Pool;
use crate::build::scratch::Bench;
use crate::build::shapes::Trace;
use crate::build::{BuildError, Phase, Progress};
use crate::engine::{EngineError, Named, Session};
use cpu_time::ProcessTime;
use defer_partition::cut::Stage;
use defer_partition::{Atoms, Network, Partition, Tensor, slice};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Runs whose weights are no more than this, in bytes, are loaded together, so that their timings interleave.
const TOGETHER: u64 = 1 << 30;
/// Spare output buffers that runs share, in bytes.
const POOL: usize = 256 << 20;
/// Which of its times stands for a run: one in four is shorter. What else the machine does only ever adds time.
pub const QUANTILE: f64 = 0.25;

/// How often runs are timed.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// At least so often …
    pub rounds_min: usize,
    /// … and at most so often, …
    pub rounds_max: usize,
    /// … further rounds being made only within this time.
    pub time: Duration,
}

/// What times are taken with.
#[derive(Clone, Copy, Debug)]
enum Clock {
    Wall,
    /// CPU time of this process, in which one thread computes: the same, less what else the machine does.
    Cpu,
}

/// Times runs. One network is timed with all of them: what the machine does meanwhile slows it alike.
pub(super) struct Stopwatch<'a> {
    bench: &'a Bench<'a>,
    network: &'a Network,
    atoms: &'a Atoms,
    progress: &'a dyn Progress,
    pool: Pool,
    clock: Clock,
    whole: Loaded,
    /// What loading the whole network took.
    pub load_time: Duration,
    /// Its time, at first.
    pub whole_ms: f64,
}

impl<'a> Stopwatch<'a> {
    /// Loads the whole network and times it.
    pub fn new(
        bench: &'a Bench<'a>,
        network: &'a Network,
        atoms: &'a Atoms,
        trace: &mut Trace,
        progress: &'a dyn Progress,
        effort: Effort,
    ) -> Result<Self, BuildError> {
        progress.phase(Phase::Loading, 1);
        let started = Instant::now();
        let whole = Loaded::new(bench, network, atoms, &whole(network, atoms)?, trace)?;
        let load_time = started.elapsed();
        progress.step();
        let pool = Pool::new(POOL);
        let clock = if bench.options.threads == 1 { Clock::Cpu } else { Clock::Wall };
        let mut watch = Self { bench, network, atoms, progress, pool, clock, whole, load_time, whole_ms: 0.0 };
        watch.whole_ms = watch.measure(&mut [], &mut trace.tensors, effort)?;
        Ok(watch)
    }

    /// Milliseconds of each of `runs` of atoms, as they would be beside the whole network's first time.
    pub fn time(&mut self, runs: &[Range<usize>], trace: &mut Trace, effort: Effort) -> Result<Vec<f64>, BuildError> {
        let mut times = Vec::with_capacity(runs.len());
        let mut rest = runs;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(self.batch(rest));
            rest = later;
            self.progress.phase(Phase::Loading, batch.len());
            let mut loaded = Vec::with_capacity(batch.len());
            for run in batch {
                let stage = stage(self.network, self.atoms, run)?;
                loaded.push(Loaded::new(self.bench, self.network, self.atoms, &stage, trace)?);
                self.progress.step();
            }
            let share = Effort { time: effort.time.mul_f64(batch.len() as f64 / runs.len() as f64), ..effort };
            let whole_ms = self.measure(&mut loaded, &mut trace.tensors, share)?;
            times.extend(loaded.iter().map(|run| run.ms() * self.whole_ms / whole_ms));
        }
        Ok(times)
    }

    /// How many of `runs` are loaded at once: at least one.
    fn batch(&self, runs: &[Range<usize>]) -> usize {
        let mut bytes = 0;
        let fits = |run: &&Range<usize>| {
            bytes += weights(self.atoms, (*run).clone());
            bytes <= TOGETHER
        };
        runs.iter().take_while(fits).count().max(1)
    }

    /// Times the whole network and all of `runs` in turn, round after round. Gives the whole network's time.
    fn measure(
        &mut self,
        runs: &mut [Loaded],
        tensors: &mut HashMap<String, Tensor>,
        effort: Effort,
    ) -> Result<f64, BuildError> {
        self.whole.times.clear();
        self.progress.phase(Phase::Timing, effort.rounds_max);
        for run in runs.iter_mut() {
            run.run(tensors, &self.pool, self.clock)?; // warms up: not counted
        }
        self.whole.run(tensors, &self.pool, self.clock)?;
        let started = Instant::now();
        for round in 0..effort.rounds_max {
            if round >= effort.rounds_min && started.elapsed() > effort.time {
                break;
            }
            for run in runs.iter_mut().chain([&mut self.whole]) {
                let time = run.run(tensors, &self.pool, self.clock)?;
                run.times.push(time);
            }
            self.progress.step();
        }
        Ok(self.whole.ms())
    }
}

fn whole(network: &Network, atoms: &Atoms) -> Result<Stage, BuildError> {
    Ok(Partition::new(network, atoms, &[])?.stages.swap_remove(0))
}

/// The atoms `run` as a stage among others.
fn stage(network: &Network, atoms: &Atoms, run: &Range<usize>) -> Result<Stage, BuildError> {
    let before = run.start.checked_sub(1);
    let last = run.end - 1;
    let after = (run.end < atoms.atoms.len()).then_some(last);
    let boundaries: Vec<usize> = before.into_iter().chain(after).collect();
    let index = usize::from(before.is_some());
    Ok(Partition::new(network, atoms, &boundaries)?.stages.swap_remove(index))
}

/// A run that is loaded.
struct Loaded {
    name: String,
    inputs: Vec<String>,
    session: Box<dyn Session>,
    times: Vec<Duration>,
}

impl Loaded {
    fn new(
        bench: &Bench<'_>,
        network: &Network,
        atoms: &Atoms,
        stage: &Stage,
        trace: &Trace,
    ) -> Result<Self, BuildError> {
        let name = atoms.atoms[stage.atoms.clone()].last().map(|atom| atom.name.clone()).unwrap_or_default();
        let mut slice = slice::slice(network, stage, &|tensor| describe(network, trace, tensor))?;
        trace.batch.name(network.inputs(), &mut slice);
        let session = bench.load(&slice)?.map_err(|cause| BuildError::Timing { group: name.clone(), cause })?;
        Ok(Self { name, inputs: stage.inputs.clone(), session, times: Vec::new() })
    }

    /// Runs it once; its inputs are taken out of `tensors` and put back.
    fn run(
        &mut self,
        tensors: &mut HashMap<String, Tensor>,
        pool: &Pool,
        clock: Clock,
    ) -> Result<Duration, BuildError> {
        let inputs: Vec<Named> = self.inputs.iter().filter_map(|name| tensors.remove_entry(name)).collect();
        let started = (Instant::now(), ProcessTime::now());
        let results = self.session.run(&inputs, pool);
        let time = match clock {
            Clock::Wall => started.0.elapsed(),
            Clock::Cpu => started.1.elapsed(),
        };
        tensors.extend(inputs);
        let failed = |cause: EngineError| BuildError::Timing { group: self.name.clone(), cause };
        results.map_err(failed)?.into_iter().for_each(|(_, tensor)| pool.give(tensor.data));
        Ok(time)
    }

    fn ms(&self) -> f64 {
        typical(self.times.clone())
    }
}

/// The one of `times` that counts, in ms; 0 where there are none.
pub(super) fn typical(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = (times.len().saturating_sub(1) as f64 * QUANTILE).round() as usize;
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
