//! The uncut network, in this process, on the engine that the nodes use.

use anyhow::{Result, bail};
use defer_host::buffer::Pool;
use defer_host::build::load_whole;
use defer_host::engine::{self, Choice, Named, Options};
use indicatif::ProgressBar;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Spare output buffers, in bytes.
const POOL: usize = 64 << 20;

pub struct Whole {
    /// All outputs of each request, of its first run.
    pub answers: Vec<Vec<Named>>,
    /// Of each further run.
    pub latencies: Vec<Duration>,
}

/// Runs each of `requests` once to warm up, then all of them `repeat` times, one after the other, on `threads` threads.
pub fn run(
    file: &Path,
    requests: &[Vec<Named>],
    repeat: u32,
    threads: usize,
    bar: &ProgressBar,
    stop: &CancellationToken,
) -> Result<Whole> {
    let engine = engine::open(Choice::Auto, None)?;
    let mut session = load_whole(file, engine.as_ref(), Options::new(threads))?;
    let pool = Pool::new(POOL);
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(session.run(request, &pool)?);
    }
    let mut latencies = Vec::new();
    for request in (0..repeat).flat_map(|_| requests) {
        if stop.is_cancelled() {
            bail!("broken off");
        }
        let started = Instant::now();
        let outputs = session.run(request, &pool)?;
        latencies.push(started.elapsed());
        outputs.into_iter().for_each(|(_, tensor)| pool.give(tensor.data));
        bar.inc(1);
    }
    Ok(Whole { answers, latencies })
}
