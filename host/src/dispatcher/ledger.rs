//! The requests that were accepted and not answered yet, with what is needed to send each again.
//!
//! Nodes keep no delivery state: a result counts only if incarnation, generation and seq are those of a pending entry
//! here, and its attempt is one that was made. Which attempt it is does not matter: one generation computes the same
//! from the same input. The first one answers, and strikes the entry out; anything later is an echo.
//!
//! Each generation has a *lane* here while its chain is open. A request belongs to one lane at a time; where its
//! generation goes before it is answered, it starts again from its input in another one.

mod state;

use crate::engine::Named;
use crate::relay::frame::{Failure, FailureKind, Part, PipelineId, Tag};
use crate::relay::traffic::{Outgoing, Parts};
use state::{Lane, Pending, Place, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A chain that has frames and gives no answer is taken to have lost them after so many times its slowest answer lately,
/// or after the patience that the ledger was given, whichever is longer.
const SLACK: u32 = 4;
/// Replays without any answer in between double the patience, so often at most.
const DOUBLINGS: u32 = 6;
/// Where frames may overtake each other, one that was overtaken is taken to be lost after so many times the slowest answer
/// lately …
const LATE: u32 = 2;
/// … or after this part of the ledger's patience, whichever is longer. One that was not is given twice that time, and each
/// further attempt twice the time of the one before.
const LEAST_LATE: u32 = 100;

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

/// How frames come out of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they went in: each stage runs on one node.
    Kept,
    /// They may overtake each other: a stage runs on several.
    Free,
}

/// Pending requests of one pipeline.
#[derive(Debug)]
pub struct Ledger {
    pipeline: PipelineId,
    incarnation: u64,
    patience: Duration,
    state: Mutex<State>,
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
    pub fn open(&self, generation: u64, order: Order) -> u64 {
        let mut state = self.lock();
        state.lanes.entry(generation).or_insert_with(|| Lane::new(order)).open = true;
        state.next_seq
    }

    /// Lets requests into `to` and no more into any other generation, in one moment. The first request that can be
    /// `to`'s has the number that this gives.
    pub fn turn(&self, to: u64, order: Order) -> u64 {
        let mut state = self.lock();
        state.lanes.entry(to).or_insert_with(|| Lane::new(order));
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

    /// Notes that a frame went into its chain over link number `link` of those to the nodes of the first stage.
    pub fn sent(&self, tag: &Tag, link: usize) {
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
            let at = Instant::now();
            pending.place = Place::Sent { order, at, overtaken: false, link };
            pending.sent_here.get_or_insert(at);
            pending.first_sent.get_or_insert(at);
        }
    }

    /// Whether a frame with this tag answers a pending request.
    pub fn expects(&self, tag: &Tag) -> bool {
        self.is_expected(&self.lock(), tag)
    }

    fn is_expected(&self, state: &State, tag: &Tag) -> bool {
        tag.pipeline == self.pipeline
            && tag.incarnation == self.incarnation
            && state.pending.get(&tag.seq).is_some_and(|pending| {
                // Attempts count on from one generation to the next, and none is made in two.
                tag.generation == pending.generation && tag.attempt <= pending.attempt
            })
    }

    /// As [`Self::expects`], and notes that the frame came out of the chain.
    pub fn arrived(&self, tag: &Tag) -> bool {
        let mut state = self.lock();
        let expected = self.is_expected(&state, tag);
        if let Some(pending) = state.pending.get_mut(&tag.seq).filter(|_| expected) {
            pending.arrived = Some(Instant::now());
        }
        expected
    }

    /// Delivers an answer, once; `false` for an echo.
    pub fn answer(&self, tag: &Tag, answer: Answer) -> bool {
        // Looked at and struck out in one moment: the request may be on its way into another generation.
        let mut state = self.lock();
        let expected = self.is_expected(&state, tag);
        let Some(pending) = expected.then(|| state.pending.remove(&tag.seq)).flatten() else { return false };
        // Where an earlier attempt has answered, the place of this one says nothing.
        let (answered, since) = match pending.place {
            Place::Sent { order, at, .. } if tag.attempt == pending.attempt => (Some(order), Some(at)),
            _ => (None, pending.sent_here),
        };
        let State { pending: others, lanes, .. } = &mut *state;
        if let Some(lane) = lanes.get_mut(&tag.generation) {
            lane.progress = Instant::now();
            lane.fruitless = 0;
            let took = since.map_or(Duration::ZERO, |at| at.elapsed());
            lane.slowest = took.max(lane.slowest.mul_f32(0.99));
            for other in others.values_mut().filter(|other| other.generation == tag.generation) {
                if let Place::Sent { order, overtaken, .. } = &mut other.place
                    && answered.is_some_and(|answered| *order < answered)
                {
                    match lane.order {
                        Order::Kept => other.place = Place::Lost,
                        Order::Free => *overtaken = true,
                    }
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
        self.replay(generation, |pending| pending.place != Place::Queued)
    }

    /// Of these, those that went in over link number `link`: since it broke, what its node had of the first stage is lost.
    pub fn replay_sent_over(&self, generation: u64, link: usize) -> Vec<Outgoing> {
        self.replay(generation, |pending| match pending.place {
            Place::Sent { link: over, .. } => over == link,
            place => place == Place::Lost,
        })
    }

    /// Frames of `generation` to send again since they were lost: those that were overtaken, or, where frames may overtake each
    /// other, those that are late, and all if the chain gives no answers.
    pub fn replay_lost(&self, generation: u64) -> Vec<Outgoing> {
        let (stalled, late) = {
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
            // Before its first answer nothing is known of a chain.
            let knows = lane.order == Order::Free && lane.slowest > Duration::ZERO;
            (stalled, knows.then(|| (self.patience / LEAST_LATE).max(lane.slowest * LATE)))
        };
        self.replay(generation, |pending| match pending.place {
            Place::Queued => false,
            Place::Sent { at, overtaken, .. } => {
                let times = if overtaken { 1 } else { 2 } * 2u32.pow(pending.attempt.min(DOUBLINGS));
                stalled || late.is_some_and(|late| at.elapsed() > late * times)
            }
            Place::Lost => true,
        })
    }

    fn replay(&self, generation: u64, due: impl Fn(&Pending) -> bool) -> Vec<Outgoing> {
        let mut state = self.lock();
        let mut frames = Vec::new();
        for (&seq, pending) in &mut state.pending {
            if pending.generation == generation && due(pending) {
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
mod tests;
