//! The requests that were accepted and not answered yet, with what is needed to send each again.
//!
//! Nodes keep no delivery state: a result counts only if incarnation, generation, seq and attempt are those of a pending
//! entry here. Anything else is an echo of an attempt that was given up.

use crate::engine::Named;
use crate::relay::frame::{Failure, Part, PipelineId, Tag};
use crate::relay::traffic::{Outgoing, Parts};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A replay is due at the earliest after this time without an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// And after this many times the slowest answer seen lately.
const SLACK: u32 = 4;

/// What a chain answered.
pub type Answer = Result<Vec<Named>, Failure>;

/// Pending requests of one pipeline.
#[derive(Debug)]
pub struct Ledger {
    pipeline: PipelineId,
    incarnation: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    generation: u64,
    next_seq: u64,
    pending: BTreeMap<u64, Pending>,
    /// Slowest answer lately; it decays, so that one slow moment does not make the ledger patient for ever.
    slowest: Duration,
}

#[derive(Debug)]
struct Pending {
    parts: Arc<[Part]>,
    attempt: u32,
    trace: u128,
    deadline: Instant,
    sent: Instant,
    reply: oneshot::Sender<Answer>,
}

/// A request's place in the ledger; dropping it strikes the request out.
#[derive(Debug)]
pub struct Entry {
    ledger: Arc<Ledger>,
    seq: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.lock().pending.remove(&self.seq);
    }
}

impl Ledger {
    pub fn new(pipeline: &str, incarnation: u64, generation: u64) -> Arc<Self> {
        let state = State { generation, next_seq: 1, pending: BTreeMap::new(), slowest: Duration::ZERO };
        Arc::new(Self { pipeline: PipelineId::of(pipeline), incarnation, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a request; gives its frame to send, its place, and where its answer will arrive.
    pub fn enter(
        self: &Arc<Self>,
        parts: Vec<Part>,
        trace: u128,
        deadline: Instant,
    ) -> (Outgoing, Entry, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let pending = Pending { parts: parts.into(), attempt: 0, trace, deadline, sent: Instant::now(), reply };
        let mut state = self.lock();
        let seq = state.next_seq;
        state.next_seq += 1;
        let outgoing = self.outgoing(state.generation, seq, &pending);
        state.pending.insert(seq, pending);
        (outgoing, Entry { ledger: Arc::clone(self), seq }, answer)
    }

    fn outgoing(&self, generation: u64, seq: u64, pending: &Pending) -> Outgoing {
        let Pending { parts, attempt, trace, deadline, .. } = pending;
        let tag = Tag {
            pipeline: self.pipeline,
            incarnation: self.incarnation,
            generation,
            seq,
            attempt: *attempt,
            budget_us: 0,
            trace: *trace,
        };
        Outgoing { tag, deadline: Some(*deadline), content: Ok(Parts::Kept(Arc::clone(parts))) }
    }

    /// Whether a frame with this tag answers a pending request.
    pub fn expects(&self, tag: &Tag) -> bool {
        let state = self.lock();
        tag.pipeline == self.pipeline
            && tag.incarnation == self.incarnation
            && tag.generation == state.generation
            && state.pending.get(&tag.seq).is_some_and(|pending| pending.attempt == tag.attempt)
    }

    /// Delivers an answer, once; `false` for an echo.
    pub fn answer(&self, tag: &Tag, answer: Answer) -> bool {
        if !self.expects(tag) {
            return false;
        }
        let mut state = self.lock();
        let Some(pending) = state.pending.remove(&tag.seq) else { return false };
        let took = pending.sent.elapsed();
        state.slowest = took.max(state.slowest.mul_f32(0.99));
        drop(state);
        // The client may be gone.
        let _ = pending.reply.send(answer);
        true
    }

    /// Frames to send again: all pending ones, since a link they may have been on broke.
    pub fn replay_all(&self) -> Vec<Outgoing> {
        self.replay(|_, _| true)
    }

    /// Frames to send again: those whose answer is overdue by what is usual here.
    pub fn replay_overdue(&self) -> Vec<Outgoing> {
        self.replay(|pending, slowest| pending.sent.elapsed() > PATIENCE.max(slowest * SLACK))
    }

    fn replay(&self, due: impl Fn(&Pending, Duration) -> bool) -> Vec<Outgoing> {
        let mut state = self.lock();
        let (generation, slowest) = (state.generation, state.slowest);
        let mut frames = Vec::new();
        for (&seq, pending) in &mut state.pending {
            if due(pending, slowest) {
                pending.attempt += 1;
                pending.sent = Instant::now();
                frames.push(self.outgoing(generation, seq, pending));
            }
        }
        frames
    }

    pub fn pending(&self) -> usize {
        self.lock().pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(ledger: &Arc<Ledger>) -> (Tag, Entry, oneshot::Receiver<Answer>) {
        let (outgoing, entry, answer) = ledger.enter(Vec::new(), 0, Instant::now() + Duration::from_secs(60));
        (outgoing.tag, entry, answer)
    }

    #[test]
    fn an_answer_counts_once_and_only_if_everything_in_its_tag_matches() {
        let ledger = Ledger::new("p", 7, 3);
        let (tag, _entry, mut answer) = enter(&ledger);
        for wrong in [
            Tag { pipeline: PipelineId::of("q"), ..tag },
            Tag { incarnation: 8, ..tag },
            Tag { generation: 2, ..tag },
            Tag { seq: tag.seq + 1, ..tag },
            Tag { attempt: 1, ..tag },
        ] {
            assert!(!ledger.answer(&wrong, Ok(Vec::new())), "{wrong:?}");
        }
        assert!(answer.try_recv().is_err());
        assert!(ledger.answer(&tag, Ok(Vec::new())));
        assert!(!ledger.answer(&tag, Ok(Vec::new())));
        assert!(answer.try_recv().is_ok());
    }

    #[test]
    fn a_replay_makes_the_attempt_before_it_an_echo() {
        let ledger = Ledger::new("p", 7, 3);
        let (first, _entry, mut answer) = enter(&ledger);
        let again = ledger.replay_all();
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].tag.seq, again[0].tag.attempt), (first.seq, 1));
        assert!(!ledger.answer(&first, Ok(Vec::new())));
        assert!(ledger.answer(&again[0].tag, Ok(Vec::new())));
        assert!(answer.try_recv().is_ok());
    }

    #[test]
    fn a_request_whose_client_left_is_struck_out() {
        let ledger = Ledger::new("p", 7, 3);
        let (tag, entry, _answer) = enter(&ledger);
        assert_eq!(ledger.pending(), 1);
        drop(entry);
        assert_eq!(ledger.pending(), 0);
        assert!(!ledger.answer(&tag, Ok(Vec::new())));
    }

    #[test]
    fn a_fresh_request_is_not_overdue() {
        let ledger = Ledger::new("p", 7, 3);
        let (_tag, _entry, _answer) = enter(&ledger);
        assert!(ledger.replay_overdue().is_empty());
    }
}
