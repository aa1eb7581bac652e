//! What a chain does while a fixed number of requests is kept under way.

use super::percentile;
use anyhow::{Result, bail};
use defer_host::client::{self, InferArgs, Load, Outputs};
use defer_host::engine::Named;
use std::time::Duration;

/// A chain in its steady state: without the time in which it fills and empties.
pub struct Steady {
    pub throughput_rps: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// All that were answered, the first and last ones too: what per-node totals are divided by.
    pub requests: u64,
    /// The first answer to each distinct request.
    pub answers: Vec<Outputs>,
}

/// Where requests go, and how.
pub struct Client {
    pub url: String,
    pub model: String,
    pub in_flight: u16,
    pub inputs: Vec<Vec<Named>>,
}

impl Client {
    /// Fills the chain, and tells how many answers a second it gives.
    pub async fn warm_up(&self) -> Result<f64> {
        let load = self.send(3 * u64::from(self.in_flight)).await?;
        Ok(self.rate(&load))
    }

    /// Keeps the chain busy for about `seconds`, at `rate` answers a second.
    pub async fn measure(&self, rate: f64, seconds: f64) -> Result<Steady> {
        let requests = (rate * seconds).ceil() as u64 + 2 * u64::from(self.in_flight);
        let load = self.send(requests).await?;
        let throughput_rps = self.rate(&load);
        let mut latencies = load.latencies;
        let requests = latencies.len() as u64;
        latencies.sort_unstable();
        let (p50_ms, p99_ms) = (percentile(&latencies, 50), percentile(&latencies, 99));
        let answers =
            load.answers.into_iter().map(|answer| answer.map_err(anyhow::Error::msg)).collect::<Result<_>>()?;
        Ok(Steady { throughput_rps, p50_ms, p99_ms, requests, answers })
    }

    async fn send(&self, requests: u64) -> Result<Load> {
        let args = InferArgs {
            url: self.url.clone(),
            model: self.model.clone(),
            inputs: Vec::new(),
            output: None,
            repeat: requests.div_ceil(self.inputs.len() as u64),
            concurrency: self.in_flight,
            timeout: 600,
            retries: 8,
            token_file: None,
            json: false,
        };
        let load = client::send(&args, &self.inputs).await?;
        if let Some((kind, failed)) = load.failures.first_key_value() {
            bail!("{} of {requests} requests failed, the first ones by {kind}: {}", load.failed(), failed.example);
        }
        Ok(load)
    }

    /// Answers per second between the one after which the chain was full and the one after which it ran empty.
    fn rate(&self, load: &Load) -> f64 {
        let mut at: Vec<Duration> = load.answered_at.clone();
        at.sort_unstable();
        let edge = usize::from(self.in_flight).min(at.len().saturating_sub(2) / 2);
        match at.get(edge..at.len().saturating_sub(edge)) {
            Some([first, .., last]) if last > first => {
                (at.len() - 2 * edge - 1) as f64 / (*last - *first).as_secs_f64()
            }
            _ => at.len() as f64 / load.elapsed.as_secs_f64(),
        }
    }
}
