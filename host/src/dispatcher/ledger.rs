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

/// A chain that has frames and gives no answer for this long is taken to have lost them,
const PATIENCE: Duration = Duration::from_secs(5);
/// unless its slowest answer lately took over a quarter of that.
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
    /// Frames that went onto the first link so far.
    sent: u64,
    /// When a frame last went into an empty chain, or an answer came out of it.
    progress: Instant,
    /// Slowest answer lately; it decays, so that one slow moment does not make the ledger patient for ever.
    slowest: Duration,
}

#[derive(Debug)]
struct Pending {
    parts: Arc<[Part]>,
    attempt: u32,
    trace: u128,
    deadline: Instant,
    place: Place,
    reply: oneshot::Sender<Answer>,
}

/// Where the frame of a pending request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first link.
    Queued,
    /// In the chain, as the `order`-th frame that went in.
    Sent { at: Instant, order: u64 },
    /// A later one came out, and frames do not overtake each other.
    Lost,
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
        let state = State {
            generation,
            next_seq: 1,
            pending: BTreeMap::new(),
            sent: 0,
            progress: Instant::now(),
            slowest: Duration::ZERO,
        };
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
        let pending = Pending { parts: parts.into(), attempt: 0, trace, deadline, place: Place::Queued, reply };
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

    /// Notes that a frame went onto the first link.
    pub fn sent(&self, tag: &Tag) {
        let mut state = self.lock();
        if !state.pending.values().any(|pending| matches!(pending.place, Place::Sent { .. })) {
            state.progress = Instant::now();
        }
        state.sent += 1;
        let order = state.sent;
        if let Some(pending) = state.pending.get_mut(&tag.seq).filter(|pending| pending.attempt == tag.attempt) {
            pending.place = Place::Sent { at: Instant::now(), order };
        }
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
        state.progress = Instant::now();
        if let Place::Sent { at, order: answered } = pending.place {
            state.slowest = at.elapsed().max(state.slowest.mul_f32(0.99));
            for overtaken in state.pending.values_mut() {
                if matches!(overtaken.place, Place::Sent { order, .. } if order < answered) {
                    overtaken.place = Place::Lost;
                }
            }
        }
        drop(state);
        // The client may be gone.
        let _ = pending.reply.send(answer);
        true
    }

    /// Frames to send again since a link broke: all that were in the chain.
    pub fn replay_sent(&self) -> Vec<Outgoing> {
        self.replay(|place| place != Place::Queued)
    }

    /// Frames to send again since they were lost: those that were overtaken, and all if the chain gives no answers.
    pub fn replay_lost(&self) -> Vec<Outgoing> {
        let stalled = {
            let state = self.lock();
            state.progress.elapsed() > PATIENCE.max(state.slowest * SLACK)
        };
        self.replay(|place| if stalled { place != Place::Queued } else { place == Place::Lost })
    }

    fn replay(&self, due: impl Fn(Place) -> bool) -> Vec<Outgoing> {
        let mut state = self.lock();
        let generation = state.generation;
        let mut frames = Vec::new();
        for (&seq, pending) in &mut state.pending {
            if due(pending.place) {
                pending.attempt += 1;
                pending.place = Place::Queued;
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
        ledger.sent(&first);
        let again = ledger.replay_sent();
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].tag.seq, again[0].tag.attempt), (first.seq, 1));
        assert!(!ledger.answer(&first, Ok(Vec::new())));
        assert!(ledger.answer(&again[0].tag, Ok(Vec::new())));
        assert!(answer.try_recv().is_ok());
    }

    #[test]
    fn an_overtaken_request_is_sent_again_and_one_that_waits_is_not() {
        let ledger = Ledger::new("p", 7, 3);
        let [(lost, ..), (answered, ..), (in_chain, ..), (queued, ..)] = [0; 4].map(|_| {
            let (tag, entry, answer) = enter(&ledger);
            // Struck out only at the end of the test.
            std::mem::forget(entry);
            (tag, answer)
        });
        for tag in [&lost, &answered, &in_chain] {
            ledger.sent(tag);
        }
        assert!(ledger.replay_lost().is_empty());
        assert!(ledger.answer(&answered, Ok(Vec::new())));
        let again: Vec<u64> = ledger.replay_lost().iter().map(|frame| frame.tag.seq).collect();
        assert_eq!(again, [lost.seq]);
        assert!(ledger.expects(&in_chain) && ledger.expects(&queued));
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
}
