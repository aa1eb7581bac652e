//! Sends requests, several at once, and keeps count.

use super::InferArgs;
use super::endpoint::{Endpoint, Failure};
use super::wire::{Encoded, Outputs};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest wait between two attempts, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The wait after the first refusal, where the server asks for none longer; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// What it doubles up to.
const LONGEST_OWN_WAIT: Duration = Duration::from_secs(10);

/// What came of all requests.
#[derive(Debug, Default)]
pub struct Load {
    /// Of each request that was answered, from its first attempt to its answer, waits between attempts included.
    pub latencies: Vec<Duration>,
    /// When each of them was answered, counted from the start.
    pub answered_at: Vec<Duration>,
    /// Failed requests by kind.
    pub failures: BTreeMap<String, Failed>,
    /// Attempts that were put off by the server and made again.
    pub retries: u64,
    pub elapsed: Duration,
    /// For each distinct request its first answer, or why there is none.
    pub answers: Vec<Result<Outputs, String>>,
}

/// Failures of one kind.
#[derive(Debug)]
pub struct Failed {
    pub count: u64,
    /// The first one's message, as an example.
    pub example: String,
}

/// Sends each of `requests` `args.repeat` times, round after round.
pub(super) async fn run(endpoint: Arc<Endpoint>, requests: Vec<Encoded>, args: &InferArgs) -> Load {
    let total = args.repeat.saturating_mul(requests.len() as u64);
    let workers = u64::from(args.concurrency).min(total);
    let bar = progress(total);
    let answers = requests.iter().map(|_| Err("not sent".to_owned())).collect();
    let load = Arc::new(Mutex::new(Load { answers, ..Load::default() }));
    let requests: Arc<[Encoded]> = requests.into();
    let next = Arc::new(AtomicU64::new(0));
    let retries = args.retries;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (endpoint, requests, next) = (endpoint.clone(), requests.clone(), next.clone());
        let (load, bar) = (load.clone(), bar.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= total {
                    break;
                }
                let which = (n % requests.len() as u64) as usize;
                let first = n < requests.len() as u64;
                let began = Instant::now();
                let (answer, attempts) = persist(&endpoint, &requests[which], retries).await;
                let took = began.elapsed();
                let mut load = load.lock().unwrap_or_else(PoisonError::into_inner);
                load.record(answer, took, start.elapsed(), attempts, first.then_some(which));
                bar.inc(1);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    bar.finish_and_clear();
    let mut load = std::mem::take(&mut *load.lock().unwrap_or_else(PoisonError::into_inner));
    load.elapsed = start.elapsed();
    load
}

impl Load {
    fn record(
        &mut self,
        answer: Result<Outputs, Failure>,
        took: Duration,
        at: Duration,
        attempts: u32,
        first: Option<usize>,
    ) {
        self.retries += u64::from(attempts - 1);
        match &answer {
            Ok(_) => {
                self.latencies.push(took);
                self.answered_at.push(at);
            }
            Err(failure) => {
                let new = || Failed { count: 0, example: failure.to_string() };
                self.failures.entry(failure.kind()).or_insert_with(new).count += 1;
            }
        }
        if let Some(slot) = first.and_then(|which| self.answers.get_mut(which)) {
            *slot = answer.map_err(|failure| failure.to_string());
        }
    }

    /// How many requests were not answered.
    pub fn failed(&self) -> u64 {
        self.failures.values().map(|f| f.count).sum()
    }
}

/// Sends one request until it is answered, refused for good, or put off too often; the number of attempts too.
async fn persist(endpoint: &Endpoint, request: &Encoded, retries: u32) -> (Result<Outputs, Failure>, u32) {
    let mut attempts = 1;
    let mut backoff = FIRST_WAIT;
    loop {
        let answer = endpoint.infer(request).await;
        let Some(asked) = answer.as_ref().err().and_then(Failure::retry_after).filter(|_| attempts <= retries) else {
            return (answer, attempts);
        };
        tokio::time::sleep(asked.max(backoff).min(LONGEST_WAIT)).await;
        backoff = (backoff * 2).min(LONGEST_OWN_WAIT);
        attempts += 1;
    }
}

/// On stderr; hidden where that is no terminal.
fn progress(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}").expect("a fixed template");
    ProgressBar::new(total).with_style(style)
}
