//! The requests that were accepted and not answered yet, with what is needed to send each again.
//!
//! Nodes keep no delivery state: a result counts only if incarnation, generation and seq are those of a pending entry
//! here, and its attempt is one that was made. Which attempt it is does not matter: one generation computes the same
//! from the same input. The first one answers, and strikes the entry out; anything later is an echo.
//!
//! Each generation has a *lane* here while its chain is open. A request belongs to one lane at a time; where its
//! generation goes before it is answered, it starts again from its input in another one.

use crate::engine::Named;
use crate::relay::frame::{Failure, FailureKind, Part, PipelineId, Tag};
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
    /// The generation that answers.
    pub generation: u64,
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
    next_seq: u64,
    pending: BTreeMap<u64, Pending>,
    lanes: BTreeMap<u64, Lane>,
}

/// What goes on in the chain of one generation.
#[derive(Debug)]
struct Lane {
    /// Whether requests may enter.
    open: bool,
    /// Frames that went onto the first link so far.
    sent: u64,
    /// When a frame last went into an empty chain, or an answer came out of it.
    progress: Instant,
    /// Replays since the last answer.
    fruitless: u32,
    /// Slowest answer lately; it decays, so that one slow moment does not make the ledger patient for ever.
    slowest: Duration,
}

impl Lane {
    fn new() -> Self {
        Self { open: false, sent: 0, progress: Instant::now(), fruitless: 0, slowest: Duration::ZERO }
    }
}

#[derive(Debug)]
struct Pending {
    generation: u64,
    parts: Arc<[Part]>,
    attempt: u32,
    trace: u128,
    deadline: Instant,
    place: Place,
    /// When its first attempt went into a chain.
    first_sent: Option<Instant>,
    /// When its first attempt went into the chain of its generation.
    sent_here: Option<Instant>,
    /// When an answer to it came out of the chain.
    arrived: Option<Instant>,
    reply: oneshot::Sender<Reply>,
}

impl Pending {
    /// Whether its frame is in the chain of `generation`.
    fn is_inside(&self, generation: u64) -> bool {
        self.generation == generation && matches!(self.place, Place::Sent { .. })
    }
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
    pub fn new(pipeline: &str, incarnation: u64, patience: Duration) -> Arc<Self> {
        let state = State { next_seq: 1, pending: BTreeMap::new(), lanes: BTreeMap::new() };
        Arc::new(Self { pipeline: PipelineId::of(pipeline), incarnation, patience, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets requests into `generation`, none of which has a lower number than this gives.
    pub fn open(&self, generation: u64) -> u64 {
        let mut state = self.lock();
        state.lanes.entry(generation).or_insert_with(Lane::new).open = true;
        state.next_seq
    }

    /// Lets requests into `to` and no more into any other generation, in one moment. The first request that can be
    /// `to`'s has the number that this gives.
    pub fn turn(&self, to: u64) -> u64 {
        let mut state = self.lock();
        state.lanes.entry(to).or_insert_with(Lane::new);
        state.lanes.iter_mut().for_each(|(&generation, lane)| lane.open = generation == to);
        state.next_seq
    }

    /// Lets no more requests into `generation`.
    pub fn shut(&self, generation: u64) {
        if let Some(lane) = self.lock().lanes.get_mut(&generation) {
            lane.open = false;
        }
    }

    /// Forgets `generation`, whose requests have been answered or moved.
    pub fn close(&self, generation: u64) {
        self.lock().lanes.remove(&generation);
    }

    /// Enters a request into `generation`; gives its frame to send, its place, and where its answer will arrive.
    ///
    /// # Errors
    /// The parts, where that generation takes no more requests.
    pub fn enter(
        self: &Arc<Self>,
        generation: u64,
        parts: Vec<Part>,
        trace: u128,
        deadline: Instant,
    ) -> Result<(Outgoing, Entry, oneshot::Receiver<Reply>), Vec<Part>> {
        let mut state = self.lock();
        if !state.lanes.get(&generation).is_some_and(|lane| lane.open) {
            return Err(parts);
        }
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            generation,
            parts: parts.into(),
            attempt: 0,
            trace,
            deadline,
            place: Place::Queued,
            first_sent: None,
            sent_here: None,
            arrived: None,
            reply,
        };
        let seq = state.next_seq;
        state.next_seq += 1;
        let outgoing = self.outgoing(seq, &pending);
        state.pending.insert(seq, pending);
        Ok((outgoing, Entry { ledger: Arc::clone(self), seq }, answer))
    }

    fn outgoing(&self, seq: u64, pending: &Pending) -> Outgoing {
        let Pending { generation, parts, attempt, trace, deadline, .. } = pending;
        let tag = Tag {
            pipeline: self.pipeline,
            incarnation: self.incarnation,
            generation: *generation,
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
        let State { pending, lanes, .. } = &mut *state;
        let Some(lane) = lanes.get_mut(&tag.generation) else { return };
        if !pending.values().any(|pending| pending.is_inside(tag.generation)) {
            lane.progress = Instant::now();
        }
        lane.sent += 1;
        let order = lane.sent;
        let same = |pending: &&mut Pending| pending.attempt == tag.attempt && pending.generation == tag.generation;
        if let Some(pending) = pending.get_mut(&tag.seq).filter(same) {
            pending.place = Place::Sent { order };
            let sent = *pending.sent_here.get_or_insert_with(Instant::now);
            pending.first_sent.get_or_insert(sent);
        }
    }

    /// Whether a frame with this tag answers a pending request.
    pub fn expects(&self, tag: &Tag) -> bool {
        let state = self.lock();
        tag.pipeline == self.pipeline
            && tag.incarnation == self.incarnation
            && state.pending.get(&tag.seq).is_some_and(|pending| {
                // Attempts count on from one generation to the next, and none is made in two.
                tag.generation == pending.generation && tag.attempt <= pending.attempt
            })
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
        if let Some(lane) = state.lanes.get_mut(&tag.generation) {
            lane.progress = Instant::now();
            lane.fruitless = 0;
            let took = pending.sent_here.map_or(Duration::ZERO, |at| at.elapsed());
            lane.slowest = took.max(lane.slowest.mul_f32(0.99));
        }
        // Where an earlier attempt has answered, the order of this one says nothing.
        if let (Place::Sent { order: answered }, true) = (pending.place, tag.attempt == pending.attempt) {
            let beside = state.pending.values_mut().filter(|other| other.generation == tag.generation);
            for overtaken in beside {
                if matches!(overtaken.place, Place::Sent { order, .. } if order < answered) {
                    overtaken.place = Place::Lost;
                }
            }
        }
        drop(state);
        // The client may be gone.
        let Pending { generation, first_sent: sent, arrived, reply, .. } = pending;
        let _ = reply.send(Reply { answer, generation, sent, arrived });
        true
    }

    /// Frames of `generation` to send again since a link broke: all that were in the chain.
    pub fn replay_sent(&self, generation: u64) -> Vec<Outgoing> {
        self.replay(generation, |place| place != Place::Queued)
    }

    /// Frames of `generation` to send again since they were lost: those that were overtaken, and all if the chain gives no
    /// answers.
    pub fn replay_lost(&self, generation: u64) -> Vec<Outgoing> {
        let stalled = {
            let mut state = self.lock();
            let State { pending, lanes, .. } = &mut *state;
            let Some(lane) = lanes.get_mut(&generation) else { return Vec::new() };
            let patience = self.patience.max(lane.slowest * SLACK) * 2u32.pow(lane.fruitless.min(DOUBLINGS));
            let stalled =
                lane.progress.elapsed() > patience && pending.values().any(|pending| pending.is_inside(generation));
            if stalled {
                lane.progress = Instant::now();
                lane.fruitless += 1;
            }
            stalled
        };
        self.replay(generation, |place| if stalled { place != Place::Queued } else { place == Place::Lost })
    }

    fn replay(&self, generation: u64, due: impl Fn(Place) -> bool) -> Vec<Outgoing> {
        let mut state = self.lock();
        let mut frames = Vec::new();
        for (&seq, pending) in &mut state.pending {
            if pending.generation == generation && due(pending.place) {
                pending.attempt += 1;
                pending.place = Place::Queued;
                frames.push(self.outgoing(seq, pending));
            }
        }
        frames
    }

    /// Has the pending requests of generation `from` start again in `to`, whose frames number tensors as `renumber` says;
    /// gives their frames. A request that cannot be renumbered fails with the cause.
    pub fn restart(
        &self,
        from: u64,
        to: u64,
        renumber: impl Fn(&Arc<[Part]>) -> Result<Arc<[Part]>, String>,
    ) -> Vec<Outgoing> {
        let mut state = self.lock();
        let (mut frames, mut failed) = (Vec::new(), Vec::new());
        for (&seq, pending) in state.pending.iter_mut().filter(|(_, pending)| pending.generation == from) {
            match renumber(&pending.parts) {
                Ok(parts) => {
                    pending.parts = parts;
                    pending.generation = to;
                    pending.attempt += 1;
                    pending.place = Place::Queued;
                    pending.sent_here = None;
                    frames.push(self.outgoing(seq, pending));
                }
                Err(cause) => failed.push((seq, cause)),
            }
        }
        for (seq, cause) in failed {
            let Some(Pending { first_sent: sent, arrived, reply, .. }) = state.pending.remove(&seq) else { continue };
            let failure = Failure {
                node: "dispatcher".to_owned(),
                stage: usize::MAX,
                kind: FailureKind::Stage,
                cause: vec![cause],
            };
            let _ = reply.send(Reply { answer: Err(failure), generation: from, sent, arrived });
        }
        frames
    }

    pub fn pending(&self) -> usize {
        self.lock().pending.len()
    }

    /// Requests that are pending in `generation`.
    pub fn pending_in(&self, generation: u64) -> usize {
        self.lock().pending.values().filter(|pending| pending.generation == generation).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: u64 = 3;

    fn ledger(patience: Duration) -> Arc<Ledger> {
        let ledger = Ledger::new("p", 7, patience);
        ledger.open(GENERATION);
        ledger
    }

    fn enter(ledger: &Arc<Ledger>) -> (Tag, Entry, oneshot::Receiver<Reply>) {
        enter_into(ledger, GENERATION)
    }

    fn enter_into(ledger: &Arc<Ledger>, generation: u64) -> (Tag, Entry, oneshot::Receiver<Reply>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let (outgoing, entry, answer) = ledger.enter(generation, Vec::new(), 0, deadline).expect("an open generation");
        (outgoing.tag, entry, answer)
    }

    #[test]
    fn an_answer_counts_once_and_only_if_everything_in_its_tag_matches() {
        let ledger = ledger(Duration::from_secs(5));
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
        let ledger = ledger(Duration::from_secs(5));
        let entered = Instant::now();
        let (first, _entry, mut answer) = enter(&ledger);
        ledger.sent(&first);
        let sent = Instant::now();
        let again = ledger.replay_sent(GENERATION).remove(0).tag;
        ledger.sent(&again);
        assert!(ledger.arrived(&again));
        assert!(ledger.answer(&again, Ok(Vec::new())));
        let Reply { sent: first_sent, arrived, .. } = answer.try_recv().unwrap();
        assert!((entered..=sent).contains(&first_sent.unwrap()) && arrived.unwrap() >= sent);
    }

    #[test]
    fn whichever_attempt_answers_first_counts_and_no_other() {
        for answering in [0, 1] {
            let ledger = ledger(Duration::from_secs(5));
            let (first, _entry, mut answer) = enter(&ledger);
            ledger.sent(&first);
            let again = ledger.replay_sent(GENERATION);
            assert_eq!(again.len(), 1);
            assert_eq!((again[0].tag.seq, again[0].tag.attempt), (first.seq, 1));
            assert!(ledger.answer(&Tag { attempt: answering, ..first }, Ok(Vec::new())));
            assert!(!ledger.answer(&Tag { attempt: 1 - answering, ..first }, Ok(Vec::new())));
            assert!(answer.try_recv().is_ok());
        }
    }

    #[test]
    fn a_silent_chain_is_asked_again_ever_more_patiently() {
        let ledger = ledger(Duration::from_millis(20));
        let (tag, _entry, _answer) = enter(&ledger);
        ledger.sent(&tag);
        let mut attempts = Vec::new();
        let start = Instant::now();
        while attempts.len() < 4 {
            for frame in ledger.replay_lost(GENERATION) {
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
        let ledger = ledger(Duration::from_secs(5));
        let [(lost, ..), (answered, ..), (in_chain, ..), (queued, ..)] = [0; 4].map(|_| {
            let (tag, entry, answer) = enter(&ledger);
            // Struck out only at the end of the test.
            std::mem::forget(entry);
            (tag, answer)
        });
        for tag in [&lost, &answered, &in_chain] {
            ledger.sent(tag);
        }
        assert!(ledger.replay_lost(GENERATION).is_empty());
        assert!(ledger.answer(&answered, Ok(Vec::new())));
        let again: Vec<u64> = ledger.replay_lost(GENERATION).iter().map(|frame| frame.tag.seq).collect();
        assert_eq!(again, [lost.seq]);
        assert!(ledger.expects(&in_chain) && ledger.expects(&queued));
    }

    #[test]
    fn a_request_whose_client_left_is_struck_out() {
        let ledger = ledger(Duration::from_secs(5));
        let (tag, entry, _answer) = enter(&ledger);
        assert_eq!(ledger.pending(), 1);
        drop(entry);
        assert_eq!(ledger.pending(), 0);
        assert!(!ledger.answer(&tag, Ok(Vec::new())));
    }

    #[test]
    fn a_turn_lets_requests_into_one_generation_only_from_one_number_on() {
        let ledger = ledger(Duration::from_secs(5));
        let (before, _entry, _answer) = enter(&ledger);
        let first = ledger.turn(4);
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(ledger.enter(GENERATION, Vec::new(), 0, deadline).is_err());
        let (after, _entry, _answer) = enter_into(&ledger, 4);
        assert!(before.seq < first && after.seq == first && after.generation == 4);
        assert_eq!((ledger.pending_in(GENERATION), ledger.pending_in(4)), (1, 1));
        // Each is answered by its own generation only.
        assert!(!ledger.answer(&Tag { generation: 4, ..before }, Ok(Vec::new())));
        assert!(!ledger.answer(&Tag { generation: GENERATION, ..after }, Ok(Vec::new())));
        assert!(ledger.answer(&before, Ok(Vec::new())) && ledger.answer(&after, Ok(Vec::new())));
    }

    #[test]
    fn a_request_whose_generation_goes_starts_again_in_another_and_only_that_one_answers() {
        let ledger = ledger(Duration::from_secs(5));
        let (sent, _e1, mut answer) = enter(&ledger);
        let (queued, _e2, _a2) = enter(&ledger);
        ledger.sent(&sent);
        ledger.turn(4);
        let again: Vec<Tag> =
            ledger.restart(GENERATION, 4, |parts| Ok(Arc::clone(parts))).iter().map(|frame| frame.tag).collect();
        let tags: Vec<_> = again.iter().map(|tag| (tag.seq, tag.generation, tag.attempt)).collect();
        assert_eq!(tags, [(sent.seq, 4, 1), (queued.seq, 4, 1)]);
        ledger.close(GENERATION);
        // What the old chain still says, or still sends, is an echo.
        ledger.sent(&queued);
        assert!(!ledger.answer(&sent, Ok(Vec::new())));
        assert!(ledger.answer(&again[0], Ok(Vec::new())));
        assert!(answer.try_recv().is_ok_and(|reply| reply.answer.is_ok()));
        let (moved, mut failed) = (again[1], _a2);
        assert!(ledger.restart(4, 5, |_| Err("it needs another input".to_owned())).is_empty());
        assert!(failed.try_recv().is_ok_and(|reply| reply.answer.is_err()));
        assert!(!ledger.expects(&moved));
    }
}
