//! Stages that wait here, loaded, for the dispatcher of their pipeline to make a generation with them.

use crate::dispatcher::nodes::{CandidateInfo, LOAD, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A dispatcher that lives asks several times a second; one that has not for so long is not coming back to what it took.
const SILENCE: Duration = Duration::from_secs(15);
/// The longest that one may have to load the stages of a generation, links and all.
const LONGEST: Duration = LOAD.saturating_add(Duration::from_secs(60));
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
}

#[derive(Debug)]
struct Offer {
    info: CandidateInfo,
    /// When the dispatcher that it waits for last asked.
    asked: Instant,
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
    /// One took it, and said no more about it.
    Unknown,
}

impl Candidates {
    /// Candidates are numbered from `first` on. Each life of a node has numbers of its own, so that a late word about one
    /// of the life before meets none of this one.
    pub fn numbered_from(first: u64) -> Self {
        Self(Mutex::new(State { last: first, ..State::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to swap a stage of `pipeline`; `None` while another one is being swapped.
    pub fn begin(self: &Arc<Self>, pipeline: &str) -> Option<Turn> {
        let pipeline = pipeline.to_owned();
        self.lock().busy.insert(pipeline.clone()).then(|| Turn { candidates: Arc::clone(self), pipeline })
    }

    /// What waits to be taken by dispatcher `incarnation`, which asks; by whomever where it does not say who it is.
    pub fn waiting(&self, incarnation: Option<u64>) -> Vec<CandidateInfo> {
        let mut state = self.lock();
        for offer in state.offered.values_mut().filter(|offer| Some(offer.info.incarnation) == incarnation) {
            offer.asked = Instant::now();
        }
        let its = |offer: &&Offer| incarnation.is_none_or(|incarnation| offer.info.incarnation == incarnation);
        let waiting = state.offered.values().filter(|offer| offer.taken.is_some()).filter(its);
        waiting.map(|offer| offer.info.clone()).collect()
    }

    /// Offers a candidate to the dispatcher, whose word must come within `patience`, and waits for what becomes of it.
    pub async fn offer(&self, info: CandidateInfo, patience: Duration) -> Outcome {
        let (take, taken) = oneshot::channel();
        let (verdict, mut said) = mpsc::unbounded_channel();
        let id = {
            let mut state = self.lock();
            state.last += 1;
            let id = state.last;
            let info = CandidateInfo { id, ..info };
            state.offered.insert(id, Offer { info, asked: Instant::now(), taken: Some(take), verdict });
            id
        };
        let outcome = async {
            if tokio::time::timeout(patience, taken).await.is_err() && self.withdraw(id) {
                return Outcome::Ignored;
            }
            let end = Instant::now() + LONGEST;
            loop {
                match tokio::time::timeout(LOOK, said.recv()).await {
                    Ok(Some(verdict)) => return Outcome::Settled(verdict),
                    Ok(None) => return Outcome::Unknown,
                    Err(_) if self.is_silent(id) || Instant::now() > end => return Outcome::Unknown,
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

    fn is_silent(&self, id: u64) -> bool {
        self.lock().offered.get(&id).is_none_or(|offer| offer.asked.elapsed() > SILENCE)
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
                assert!(candidates.waiting(Some(8)).is_empty(), "it is no other life's");
                if let Some(offered) = candidates.waiting(Some(7)).pop() {
                    break offered;
                }
                tokio::task::yield_now().await;
            };
            let switched = Verdict::Switched { generation: 2, first_seq: 9 };
            assert!(!candidates.settle(offered.id, switched.clone()), "nobody has taken it yet");
            assert!(candidates.settle(offered.id, Verdict::Taken));
            assert!(!candidates.settle(offered.id, Verdict::Taken));
            assert!(candidates.waiting(Some(7)).is_empty());
            let silent_since = || candidates.lock().offered[&offered.id].asked;
            let before = silent_since();
            candidates.waiting(Some(8));
            candidates.waiting(None);
            assert_eq!(silent_since(), before, "others say nothing about its own dispatcher");
            candidates.waiting(Some(7));
            assert!(silent_since() > before);
            assert!(candidates.settle(offered.id, switched));
        };
        let (outcome, ()) = tokio::join!(candidates.offer(info(), Duration::from_secs(60)), dispatcher);
        assert!(matches!(outcome, Outcome::Settled(Verdict::Switched { generation: 2, first_seq: 9 })), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_candidate_that_nobody_takes_is_withdrawn() {
        let candidates = Candidates::default();
        assert!(matches!(candidates.offer(info(), Duration::from_millis(10)).await, Outcome::Ignored));
        assert!(candidates.waiting(None).is_empty() && !candidates.settle(1, Verdict::Taken));
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
