//! How long each piece of a network takes on the real engine, with the real activations.

use super::scratch::Bench;
use super::shapes::Trace;
use super::{BuildError, Phase, Progress};
use crate::buffer::Pool;
use crate::engine::{EngineError, Named, Session};
use defer_partition::cut::{Stage, crossings};
use defer_partition::{Atoms, Network, Partition, Tensor, slice};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Every piece is timed at least so often …
const ROUNDS_MIN: usize = 5;
/// … and at most so often, …
const ROUNDS_MAX: usize = 50;
/// … further rounds being made only within this time.
const TIME: Duration = Duration::from_secs(4);
/// Pieces whose weights are no more than this, in bytes, are loaded together, so that their timings interleave.
const TOGETHER: u64 = 1 << 30;
/// Spare output buffers that runs share, in bytes.
const POOL: usize = 256 << 20;

/// Fusion groups that no cut can come between are one piece.
pub(super) struct Pieces {
    /// Groups after which a cut may come, ascending; the pieces lie between.
    pub boundaries: Vec<usize>,
    /// Bytes that cross each of them.
    pub bytes: Vec<u64>,
    /// Median time of each piece, in ms; one more than boundaries.
    pub times_ms: Vec<f64>,
}

/// A tensor that crosses the cut after each group and cannot be carried, if there is one.
pub(super) fn obstacles<'a>(network: &'a Network, atoms: &Atoms, trace: &Trace) -> Vec<Option<&'a str>> {
    let stuck = |names: Vec<&'a str>| names.into_iter().find(|name| trace.stuck.contains_key(*name));
    crossings(network, atoms).into_iter().map(stuck).collect()
}

/// Times each piece as a network of its own.
pub(super) fn profile(
    bench: &Bench<'_>,
    network: &Network,
    atoms: &Atoms,
    trace: &mut Trace,
    progress: &dyn Progress,
) -> Result<Pieces, BuildError> {
    let obstacles = obstacles(network, atoms, trace);
    let boundaries: Vec<usize> = (0..obstacles.len()).filter(|&at| obstacles[at].is_none()).collect();
    let size = |name: &&str| trace.tensors.get(*name).map_or(0, |tensor| tensor.data.len() as u64);
    let crossing = crossings(network, atoms);
    let bytes = boundaries.iter().map(|&at| crossing[at].iter().map(size).sum()).collect();

    let pieces = Partition::new(network, atoms, &boundaries)?.stages;
    let mut times_ms = Vec::with_capacity(pieces.len());
    let mut rest = pieces.as_slice();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch(atoms, rest));
        rest = later;
        progress.phase(Phase::Loading, batch.len());
        let mut timed = Vec::with_capacity(batch.len());
        for stage in batch {
            timed.push(Piece::load(bench, network, atoms, stage, trace)?);
            progress.step();
        }
        progress.phase(Phase::Timing, ROUNDS_MAX);
        measure(&mut timed, &mut trace.tensors, progress)?;
        times_ms.extend(timed.iter().map(Piece::median_ms));
    }
    Ok(Pieces { boundaries, bytes, times_ms })
}

/// How many of `pieces` are loaded at once: at least one.
fn batch(atoms: &Atoms, pieces: &[Stage]) -> usize {
    let mut bytes = 0;
    let weights = |stage: &Stage| atoms.atoms[stage.atoms.clone()].iter().map(|atom| atom.weights_bytes).sum::<u64>();
    let fits = |stage: &&Stage| {
        bytes += weights(stage);
        bytes <= TOGETHER
    };
    pieces.iter().take_while(fits).count().max(1)
}

struct Piece {
    name: String,
    inputs: Vec<String>,
    session: Box<dyn Session>,
    times: Vec<Duration>,
}

impl Piece {
    fn load(
        bench: &Bench<'_>,
        network: &Network,
        atoms: &Atoms,
        stage: &Stage,
        trace: &Trace,
    ) -> Result<Self, BuildError> {
        let groups = &atoms.atoms[stage.atoms.clone()];
        let name = groups.last().map(|atom| atom.name.clone()).unwrap_or_default();
        let slice = slice::slice(network, stage, &|tensor| describe(network, trace, tensor))?;
        let session = bench.load(&slice)?.map_err(|cause| BuildError::Timing { group: name.clone(), cause })?;
        Ok(Self { name, inputs: stage.inputs.clone(), session, times: Vec::new() })
    }

    /// One run; its inputs are taken out of `tensors` and put back.
    fn run(&mut self, tensors: &mut HashMap<String, Tensor>, pool: &Pool) -> Result<Duration, BuildError> {
        let inputs: Vec<Named> = self.inputs.iter().filter_map(|name| tensors.remove_entry(name)).collect();
        let started = Instant::now();
        let results = self.session.run(&inputs, pool);
        let time = started.elapsed();
        tensors.extend(inputs);
        let failed = |cause: EngineError| BuildError::Timing { group: self.name.clone(), cause };
        results.map_err(failed)?.into_iter().for_each(|(_, tensor)| pool.give(tensor.data));
        Ok(time)
    }

    fn median_ms(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

/// What slices declare of `tensor`: the network's inputs as in the file, with the names of their open dimensions.
pub(super) fn describe(network: &Network, trace: &Trace, tensor: &str) -> Option<defer_partition::TensorInfo> {
    let is_input = network.inputs().iter().any(|input| input.name == tensor);
    if is_input { None } else { trace.infos.get(tensor).cloned() }
}

/// Times all of `pieces` in turn, round after round, so that what else the machine does hits them alike.
fn measure(
    pieces: &mut [Piece],
    tensors: &mut HashMap<String, Tensor>,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let pool = Pool::new(POOL);
    for piece in pieces.iter_mut() {
        piece.run(tensors, &pool)?; // warms up: not counted
    }
    let started = Instant::now();
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS_MIN && started.elapsed() > TIME {
            break;
        }
        for piece in pieces.iter_mut() {
            let time = piece.run(tensors, &pool)?;
            piece.times.push(time);
        }
        progress.step();
    }
    Ok(())
}
