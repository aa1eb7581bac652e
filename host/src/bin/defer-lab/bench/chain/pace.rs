//! How fast this machine is from moment to moment: others share its processor, and a core can take 1.8 times the time for the
//! same work a second later.

use anyhow::{Context as _, Result, anyhow};
use cpu_time::ThreadTime;
use defer_host::engine::{Engine, Options};
use defer_host::probe::speed::Standard;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Between two samples, which take less than a tenth of that.
const PAUSE: Duration = Duration::from_millis(350);

/// CPU time, in ms, of one standard network, and when it was computed.
type Sample = (Instant, f64);

/// Samples this machine's pace until it is dropped.
pub struct Pace {
    samples: Arc<Mutex<Vec<Sample>>>,
    _stop: DropGuard,
}

impl Pace {
    pub fn start(engine: &dyn Engine) -> Result<Self> {
        let mut standard = Standard::load(engine, Options::new(1))?;
        standard.run()?;
        let samples = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let (taken, stopped) = (Arc::clone(&samples), stop.clone());
        let sample = move || {
            while !stopped.is_cancelled() {
                let at = Instant::now();
                // What it needs is back in the caches, as it is for what is profiled. (It has run before; should it not any
                // more, samples will be missed.)
                if standard.run().is_err() {
                    return;
                }
                let started = ThreadTime::now();
                if standard.run().is_err() {
                    return;
                }
                let ms = started.elapsed().as_secs_f64() * 1e3;
                taken.lock().unwrap_or_else(PoisonError::into_inner).push((at, ms));
                thread::sleep(PAUSE);
            }
        };
        thread::Builder::new().name("pace".to_owned()).spawn(sample).context("no thread to measure on")?;
        Ok(Self { samples, _stop: stop.drop_guard() })
    }

    /// What it was since `from`, in order.
    fn since(&self, from: Instant) -> Result<Vec<f64>> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<f64> = samples.iter().filter(|(at, _)| *at >= from).map(|(_, ms)| *ms).collect();
        times.sort_unstable_by(f64::total_cmp);
        if times.is_empty() { Err(anyhow!("nothing is known of the machine's pace")) } else { Ok(times) }
    }

    /// The mean since `from`, in ms: what work that went on all the while met.
    pub fn mean(&self, from: Instant) -> Result<f64> {
        let times = self.since(from)?;
        Ok(times.iter().sum::<f64>() / times.len() as f64)
    }

    /// The time, in ms, than which a share `quantile` of those since `from` was shorter.
    pub fn quantile(&self, from: Instant, quantile: f64) -> Result<f64> {
        let times = self.since(from)?;
        Ok(times[((times.len() - 1) as f64 * quantile).round() as usize])
    }
}
