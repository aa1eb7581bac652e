//! Stages that wait here, loaded, for the dispatcher of their pipeline to make a generation with them.

use crate::dispatcher::nodes::{CandidateInfo, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A dispatcher that lives asks several times a second; one that has not for so long is not coming back to what it took.
const SILENCE: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Candidates(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Number of the latest.
    last: u64,
    offered: BTreeMap<u64, Offer>,
    /// Pipelines of which a stage is being swapped.
    busy: BTreeSet<String>,
    /// When a dispatcher last asked.
    asked: Option<Instant>,
}

#[derive(Debug)]
struct Offer {
    info: CandidateInfo,
    /// Gone once the candidate was taken.
    taken: Option<oneshot::Sender<()>>,
    verdict: mpsc::UnboundedSender<Verdict>,
}

/// The right to swap a stage of one pipeline.
#[derive(Debug)]
pub(super) struct Turn {
    candidates: Arc<Candidates>,
    pipeline: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.candidates.lock().busy.remove(&self.pipeline);
    }
}

/// How an offer ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Settled(Verdict),
    /// No dispatcher took it.
    Ignored,
    /// One took it, and was not heard of again.
    Unknown,
}

impl Candidates {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to swap a stage of `pipeline`; `None` while another one is being swapped.
    pub fn begin(self: &Arc<Self>, pipeline: &str) -> Option<Turn> {
        let pipeline = pipeline.to_owned();
        self.lock().busy.insert(pipeline.clone()).then(|| Turn { candidates: Arc::clone(self), pipeline })
    }

    /// What waits to be taken; a dispatcher asks.
    pub fn waiting(&self) -> Vec<CandidateInfo> {
        let mut state = self.lock();
        state.asked = Some(Instant::now());
        state.offered.values().filter(|offer| offer.taken.is_some()).map(|offer| offer.info.clone()).collect()
    }

    /// Offers a candidate to the dispatcher, whose word must come within `patience`, and waits for what becomes of it.
    pub async fn offer(&self, info: CandidateInfo, patience: Duration) -> Outcome {
        let (take, taken) = oneshot::channel();
        let (verdict, mut said) = mpsc::unbounded_channel();
        let id = {
            let mut state = self.lock();
            state.last += 1;
            let id = state.last;
            state.offered.insert(id, Offer { info: CandidateInfo { id, ..info }, taken: Some(take), verdict });
            id
        };
        let outcome = async {
            if tokio::time::timeout(patience, taken).await.is_err() && self.withdraw(id) {
                return Outcome::Ignored;
            }
            loop {
                match tokio::time::timeout(LOOK, said.recv()).await {
                    Ok(Some(verdict)) => return Outcome::Settled(verdict),
                    Ok(None) => return Outcome::Unknown,
                    Err(_) if self.is_silent() => return Outcome::Unknown,
                    Err(_) => {}
                }
            }
        }
        .await;
        self.lock().offered.remove(&id);
        outcome
    }

    /// Takes an offer back, unless it was taken at the last moment.
    fn withdraw(&self, id: u64) -> bool {
        let mut state = self.lock();
        let open = state.offered.get(&id).is_some_and(|offer| offer.taken.is_some());
        open && state.offered.remove(&id).is_some()
    }

    fn is_silent(&self) -> bool {
        self.lock().asked.is_none_or(|at| at.elapsed() > SILENCE)
    }

    /// A dispatcher's word on a candidate; `false` where there is none that it could be of.
    pub fn settle(&self, id: u64, verdict: Verdict) -> bool {
        let mut state = self.lock();
        let Some(offer) = state.offered.get_mut(&id) else { return false };
        match verdict {
            Verdict::Taken => offer.taken.take().is_some_and(|taken| taken.send(()).is_ok()),
            verdict => offer.taken.is_none() && offer.verdict.send(verdict).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> CandidateInfo {
        let digest = "0".repeat(64).parse().unwrap();
        CandidateInfo { id: 0, pipeline: "p".to_owned(), index: 0, digest, incarnation: 7 }
    }

    #[tokio::test]
    async fn a_candidate_is_taken_once_and_settled_by_whoever_took_it() {
        let candidates = Candidates::default();
        let dispatcher = async {
            let offered = loop {
                if let Some(offered) = candidates.waiting().pop() {
                    break offered;
                }
                tokio::task::yield_now().await;
            };
            let switched = Verdict::Switched { generation: 2, first_seq: 9 };
            assert!(!candidates.settle(offered.id, switched.clone()), "nobody has taken it yet");
            assert!(candidates.settle(offered.id, Verdict::Taken));
            assert!(!candidates.settle(offered.id, Verdict::Taken));
            assert!(candidates.waiting().is_empty());
            assert!(candidates.settle(offered.id, switched));
        };
        let (outcome, ()) = tokio::join!(candidates.offer(info(), Duration::from_secs(60)), dispatcher);
        assert!(matches!(outcome, Outcome::Settled(Verdict::Switched { generation: 2, first_seq: 9 })), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_candidate_that_nobody_takes_is_withdrawn() {
        let candidates = Candidates::default();
        assert!(matches!(candidates.offer(info(), Duration::from_millis(10)).await, Outcome::Ignored));
        assert!(candidates.waiting().is_empty() && !candidates.settle(1, Verdict::Taken));
    }

    #[test]
    fn one_swap_of_a_pipeline_at_a_time() {
        let candidates = Arc::new(Candidates::default());
        let turn = candidates.begin("p").unwrap();
        assert!(candidates.begin("p").is_none() && candidates.begin("q").is_some());
        drop(turn);
        assert!(candidates.begin("p").is_some());
    }
}
