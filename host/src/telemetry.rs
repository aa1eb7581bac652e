//! Counters, timings and logs.

use serde::Serialize;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Timings kept per series: enough for a steady median, little memory.
const KEPT: usize = 512;

/// Durations of one kind of work: all are counted and summed, the latest few hundred kept for quantiles.
#[derive(Debug, Default)]
pub struct Timings(Mutex<Series>);

#[derive(Debug, Default)]
struct Series {
    recent: Vec<u64>,
    next: usize,
    count: u64,
    sum_ns: u64,
}

/// What a series has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub count: u64,
    /// Sum of all, in µs.
    pub sum_us: f64,
    /// Median of the latest, in µs.
    pub median_us: f64,
    /// Largest of the latest, in µs.
    pub max_us: f64,
}

impl Timings {
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        series.count += 1;
        series.sum_ns = series.sum_ns.saturating_add(ns);
        let next = series.next;
        if series.recent.len() < KEPT {
            series.recent.push(ns);
        } else {
            series.recent[next] = ns;
        }
        series.next = (next + 1) % KEPT;
    }

    pub fn summary(&self) -> Summary {
        let (mut recent, count, sum_ns) = {
            let series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (series.recent.clone(), series.count, series.sum_ns)
        };
        recent.sort_unstable();
        let us = |ns: Option<&u64>| ns.map_or(0.0, |&ns| ns as f64 / 1e3);
        Summary {
            count,
            sum_us: sum_ns as f64 / 1e3,
            median_us: us(recent.get(recent.len() / 2)),
            max_us: us(recent.last()),
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Memory of this process, in bytes, from `/proc/self/status`; zeros where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub resident_bytes: u64,
    /// Not backed by a file: what cannot be dropped and read again.
    pub anonymous_bytes: u64,
    /// The largest that `resident_bytes` ever was.
    pub peak_bytes: u64,
}

impl Memory {
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or(0) * 1024
        };
        Self { resident_bytes: field("VmRSS"), anonymous_bytes: field("RssAnon"), peak_bytes: field("VmHWM") }
    }
}

/// Sends logs to stderr, filtered by `DEFER_LOG` (`info` by default, as in `RUST_LOG`).
pub fn init_logs() {
    // wasmtime-wasi-nn logs each failed inference; it is the request's error already.
    let filter = EnvFilter::try_from_env("DEFER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = ["wasmtime_wasi_nn=off", "ort=warn"]
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = logs.with_target(false).with_ansi(colours).try_init();
}
