//! The requests that were accepted and not answered yet, with what is needed to send each again.
//!
//! Nodes keep no delivery state: a result counts only if incarnation, generation and seq are those of a pending entry
//! here, and its attempt is one that was made. Which attempt it is does not matter: one generation computes the same
//! from the same input. The first one answers, and strikes the entry out; anything later is an echo.

use crate::engine::Named;
use crate::relay::frame::{Failure, Part, PipelineId, Tag};
use crate::relay::traffic::{Outgoing, Parts};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A chain that has frames and gives no answer is taken to have lost them after so many times its slowest answer lately,
/// or after the patience that the ledger was given, whichever is longer.
const SLACK: u32 = 4;
/// Replays without any answer in between double the patience, so often at most.
const DOUBLINGS: u32 = 6;

/// What a chain answered.
pub type Answer = Result<Vec<Named>, Failure>;

/// An answer, and when its request passed the ends of the chain.
#[derive(Debug)]
pub struct Reply {
    pub answer: Answer,
    /// When a frame of it first went onto the first link.
    pub sent: Option<Instant>,
    /// When the frame that answers came out of the last.
    pub arrived: Option<Instant>,
}

/// Pending requests of one pipeline.
#[derive(Debug)]
pub struct Ledger {
    pipeline: PipelineId,
    incarnation: u64,
    patience: Duration,
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
    /// Replays since the last answer.
    fruitless: u32,
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
    /// When its first attempt went into the chain.
    first_sent: Option<Instant>,
    /// When an answer to it came out of the chain.
    arrived: Option<Instant>,
    reply: oneshot::Sender<Reply>,
}

/// Where the frame of a pending request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first link.
    Queued,
    /// In the chain, as the `order`-th frame that went in.
    Sent { order: u64 },
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
    /// `patience` is how long a chain may at least give no answer before its frames are sent again.
    pub fn new(pipeline: &str, incarnation: u64, generation: u64, patience: Duration) -> Arc<Self> {
        let state = State {
            generation,
            next_seq: 1,
            pending: BTreeMap::new(),
            sent: 0,
            progress: Instant::now(),
            fruitless: 0,
            slowest: Duration::ZERO,
        };
        Arc::new(Self { pipeline: PipelineId::of(pipeline), incarnation, patience, state: Mutex::new(state) })
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
    ) -> (Outgoing, Entry, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            parts: parts.into(),
            attempt: 0,
            trace,
            deadline,
            place: Place::Queued,
            first_sent: None,
            arrived: None,
            reply,
        };
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
            pending.place = Place::Sent { order };
            pending.first_sent.get_or_insert_with(Instant::now);
        }
    }

    /// Whether a frame with this tag answers a pending request.
    pub fn expects(&self, tag: &Tag) -> bool {
        let state = self.lock();
        tag.pipeline == self.pipeline
            && tag.incarnation == self.incarnation
            && tag.generation == state.generation
            && state.pending.get(&tag.seq).is_some_and(|pending| tag.attempt <= pending.attempt)
    }

    /// As [`Self::expects`], and notes that the frame came out of the chain: what follows is the dispatcher's own work.
    pub fn arrived(&self, tag: &Tag) -> bool {
        let expected = self.expects(tag);
        if let Some(pending) = self.lock().pending.get_mut(&tag.seq).filter(|_| expected) {
            pending.arrived = Some(Instant::now());
        }
        expected
    }

    /// Delivers an answer, once; `false` for an echo.
    pub fn answer(&self, tag: &Tag, answer: Answer) -> bool {
        if !self.expects(tag) {
            return false;
        }
        let mut state = self.lock();
        let Some(pending) = state.pending.remove(&tag.seq) else { return false };
        state.progress = Instant::now();
        state.fruitless = 0;
        let took = pending.first_sent.map_or(Duration::ZERO, |at| at.elapsed());
        state.slowest = took.max(state.slowest.mul_f32(0.99));
        // Where an earlier attempt has answered, the order of this one says nothing.
        if let (Place::Sent { order: answered }, true) = (pending.place, tag.attempt == pending.attempt) {
            for overtaken in state.pending.values_mut() {
                if matches!(overtaken.place, Place::Sent { order, .. } if order < answered) {
                    overtaken.place = Place::Lost;
                }
            }
        }
        drop(state);
        // The client may be gone.
        let Pending { first_sent: sent, arrived, reply, .. } = pending;
        let _ = reply.send(Reply { answer, sent, arrived });
        true
    }

    /// Frames to send again since a link broke: all that were in the chain.
    pub fn replay_sent(&self) -> Vec<Outgoing> {
        self.replay(|place| place != Place::Queued)
    }

    /// Frames to send again since they were lost: those that were overtaken, and all if the chain gives no answers.
    pub fn replay_lost(&self) -> Vec<Outgoing> {
        let stalled = {
            let mut state = self.lock();
            let patience = self.patience.max(state.slowest * SLACK) * 2u32.pow(state.fruitless.min(DOUBLINGS));
            let stalled = state.progress.elapsed() > patience
                && state.pending.values().any(|pending| matches!(pending.place, Place::Sent { .. }));
            if stalled {
                state.progress = Instant::now();
                state.fruitless += 1;
            }
            stalled
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

    fn enter(ledger: &Arc<Ledger>) -> (Tag, Entry, oneshot::Receiver<Reply>) {
        let (outgoing, entry, answer) = ledger.enter(Vec::new(), 0, Instant::now() + Duration::from_secs(60));
        (outgoing.tag, entry, answer)
    }

    #[test]
    fn an_answer_counts_once_and_only_if_everything_in_its_tag_matches() {
        let ledger = Ledger::new("p", 7, 3, Duration::from_secs(5));
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
    fn an_answer_tells_when_its_request_first_went_in_and_came_out() {
        let ledger = Ledger::new("p", 7, 3, Duration::from_secs(5));
        let entered = Instant::now();
        let (first, _entry, mut answer) = enter(&ledger);
        ledger.sent(&first);
        let sent = Instant::now();
        let again = ledger.replay_sent().remove(0).tag;
        ledger.sent(&again);
        assert!(ledger.arrived(&again));
        assert!(ledger.answer(&again, Ok(Vec::new())));
        let Reply { sent: first_sent, arrived, .. } = answer.try_recv().unwrap();
        assert!((entered..=sent).contains(&first_sent.unwrap()) && arrived.unwrap() >= sent);
    }

    #[test]
    fn whichever_attempt_answers_first_counts_and_no_other() {
        for answering in [0, 1] {
            let ledger = Ledger::new("p", 7, 3, Duration::from_secs(5));
            let (first, _entry, mut answer) = enter(&ledger);
            ledger.sent(&first);
            let again = ledger.replay_sent();
            assert_eq!(again.len(), 1);
            assert_eq!((again[0].tag.seq, again[0].tag.attempt), (first.seq, 1));
            assert!(ledger.answer(&Tag { attempt: answering, ..first }, Ok(Vec::new())));
            assert!(!ledger.answer(&Tag { attempt: 1 - answering, ..first }, Ok(Vec::new())));
            assert!(answer.try_recv().is_ok());
        }
    }

    #[test]
    fn a_silent_chain_is_asked_again_ever_more_patiently() {
        let ledger = Ledger::new("p", 7, 3, Duration::from_millis(20));
        let (tag, _entry, _answer) = enter(&ledger);
        ledger.sent(&tag);
        let mut attempts = Vec::new();
        let start = Instant::now();
        while attempts.len() < 4 {
            for frame in ledger.replay_lost() {
                ledger.sent(&frame.tag);
                attempts.push(start.elapsed());
            }
        }
        // 20, then 40, 80 and 160 ms after one another, at least.
        for (i, gap) in [20, 40, 80, 160].into_iter().enumerate() {
            let before = if i == 0 { Duration::ZERO } else { attempts[i - 1] };
            assert!(attempts[i] - before >= Duration::from_millis(gap), "{attempts:?}");
        }
    }

    #[test]
    fn an_overtaken_request_is_sent_again_and_one_that_waits_is_not() {
        let ledger = Ledger::new("p", 7, 3, Duration::from_secs(5));
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
        let ledger = Ledger::new("p", 7, 3, Duration::from_secs(5));
        let (tag, entry, _answer) = enter(&ledger);
        assert_eq!(ledger.pending(), 1);
        drop(entry);
        assert_eq!(ledger.pending(), 0);
        assert!(!ledger.answer(&tag, Ok(Vec::new())));
    }
}
