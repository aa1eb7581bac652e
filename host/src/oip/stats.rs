//! What a model has done so far, in the form of the protocol's [statistics extension][spec], which load generators
//! such as `perf_analyzer` sample before and after a measurement.
//!
//! [spec]: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md

use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often something happened, and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    pub count: u64,
    /// Nanoseconds, summed.
    pub ns: u64,
}

impl Spent {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Everything since the server started, of one version of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelStats {
    pub name: String,
    pub version: String,
    /// When the last inference ended, in ms since 1970; 0 before the first.
    pub last_inference: u64,
    /// Successful inferences.
    pub inference_count: u64,
    /// Times that the model ran for them: the same number, since requests are not batched together.
    pub execution_count: u64,
    pub inference_stats: InferenceStats,
    /// One entry once something ran: every request runs on its own, which counts as a batch of 1.
    pub batch_stats: Vec<BatchStats>,
}

/// Where the time of inferences went. `queue` and the `compute_*` count successful ones only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferenceStats {
    /// From acceptance to answer.
    pub success: Spent,
    /// From acceptance to error. Requests that are refused before that (overload, a wrong body) are not counted.
    pub fail: Spent,
    pub queue: Spent,
    pub compute_input: Spent,
    pub compute_infer: Spent,
    pub compute_output: Spent,
    /// Always 0: answers are not cached. Clients read the members nonetheless.
    pub cache_hit: Spent,
    pub cache_miss: Spent,
}

/// The same of inferences of one batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchStats {
    pub batch_size: u64,
    pub compute_input: Spent,
    pub compute_infer: Spent,
    pub compute_output: Spent,
}

/// The time of one successful inference, and its parts, which need not add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// From acceptance to answer.
    pub total: Duration,
    /// Waiting for the model to take it.
    pub queue: Duration,
    /// Preparing what goes into the model.
    pub input: Duration,
    /// In the model.
    pub infer: Duration,
    /// Making the answer of what came out of it.
    pub output: Duration,
}

/// Collects a model's statistics.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Sums>);

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    last_ms: u64,
    stats: InferenceStats,
}

impl Recorder {
    pub fn success(&self, steps: Steps) {
        self.record(|stats| {
            stats.success.add(steps.total);
            stats.queue.add(steps.queue);
            stats.compute_input.add(steps.input);
            stats.compute_infer.add(steps.infer);
            stats.compute_output.add(steps.output);
        });
    }

    /// An accepted inference that ended in an error after `total`.
    pub fn failure(&self, total: Duration) {
        self.record(|stats| stats.fail.add(total));
    }

    /// All sums of one inference change together, so that a sample never holds half of one.
    fn record(&self, add: impl FnOnce(&mut InferenceStats)) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sums.last_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        add(&mut sums.stats);
    }

    /// What was collected, as that of version `version` of the model `name`.
    pub fn stats(&self, name: &str, version: &str) -> ModelStats {
        let Sums { last_ms, stats } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let InferenceStats { compute_input, compute_infer, compute_output, .. } = stats;
        let batch = BatchStats { batch_size: 1, compute_input, compute_infer, compute_output };
        ModelStats {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: last_ms,
            inference_count: stats.success.count,
            execution_count: stats.success.count,
            inference_stats: stats,
            batch_stats: if stats.success.count > 0 { vec![batch] } else { Vec::new() },
        }
    }
}
