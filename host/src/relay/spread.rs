//! Where the sender of a link gets its frames from: a queue of its own, or one that it shares with others.
//!
//! A stage may run on several nodes. Each has a link, all links share one queue, and a frame goes to the link whose peer has
//! the most room at that moment. A link asks for a frame only when it has room and nothing to write, so that a peer that
//! stands still keeps no frame waiting but those that it had room for.

use super::traffic::Outgoing;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, mpsc};

/// Refused frames that are remembered: more than there are links.
const REMEMBERED: usize = 128;

/// What a sender sends.
pub trait Supply: Send {
    /// Waits for a frame, and holds it until it is taken; `false` when no more will come. `room` has the frames that the peer
    /// has room for beside this one.
    fn fill(&mut self, room: &Arc<Semaphore>) -> impl Future<Output = bool> + Send;

    /// The frame that is being sent.
    fn held(&mut self) -> &mut Option<Outgoing>;

    /// The connection broke: what is held may go another way.
    fn hand_back(&mut self);

    /// The peer will not have what is held: whether it waits for another link now. It does so once: a frame that is refused
    /// twice is at fault itself.
    fn pass_on(&mut self) -> bool;
}

/// A queue with one sender. What it holds waits for the next connection.
#[derive(Debug)]
pub struct Queue {
    frames: mpsc::Receiver<Outgoing>,
    held: Option<Outgoing>,
}

impl Queue {
    pub fn new(frames: mpsc::Receiver<Outgoing>) -> Self {
        Self { frames, held: None }
    }
}

impl Supply for Queue {
    async fn fill(&mut self, _room: &Arc<Semaphore>) -> bool {
        if self.held.is_none() {
            self.held = self.frames.recv().await;
        }
        self.held.is_some()
    }

    fn held(&mut self) -> &mut Option<Outgoing> {
        &mut self.held
    }

    fn hand_back(&mut self) {}

    fn pass_on(&mut self) -> bool {
        false
    }
}

/// A queue that several senders share.
#[derive(Debug)]
pub struct Spread {
    state: Mutex<State>,
    /// Some sender waits for a frame.
    wanted: Notify,
    /// A sender was given a frame, or will never be.
    given: Vec<Notify>,
}

#[derive(Debug)]
struct State {
    /// Frames that no sender has taken.
    waiting: VecDeque<Outgoing>,
    seats: Vec<Seat>,
    /// Frames given so far.
    turn: u64,
    /// The latest frames that were refused.
    refused: VecDeque<(u64, u64, u32)>,
    /// Nothing comes any more.
    is_over: bool,
}

#[derive(Debug)]
struct Seat {
    place: Place,
    /// The turn in which it was last given a frame.
    last: u64,
}

/// What a sender does.
#[derive(Debug)]
enum Place {
    /// Writes, or has no connection.
    Busy,
    /// Waits for a frame; its peer has room for so many more.
    Waiting(Arc<Semaphore>),
    Given(Outgoing),
}

impl Spread {
    /// A queue for `senders`, and the share of each.
    pub fn new(senders: usize) -> (Arc<Self>, Vec<Share>) {
        let seats = (0..senders).map(|_| Seat { place: Place::Busy, last: 0 }).collect();
        let state = State { waiting: VecDeque::new(), seats, turn: 0, refused: VecDeque::new(), is_over: false };
        let given = (0..senders).map(|_| Notify::new()).collect();
        let spread = Arc::new(Self { state: Mutex::new(state), wanted: Notify::new(), given });
        let share = |seat| Share { spread: Arc::clone(&spread), seat, held: None };
        let shares = (0..senders).map(share).collect();
        (spread, shares)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out what comes from `frames`, until they end. Takes none as long as no sender wants any.
    pub async fn give_out(&self, mut frames: mpsc::Receiver<Outgoing>) {
        loop {
            while !self.is_wanted() {
                self.wanted.notified().await;
            }
            let Some(frame) = frames.recv().await else { break };
            let mut state = self.lock();
            state.waiting.push_back(frame);
            self.settle(&mut state);
        }
        self.lock().is_over = true;
        self.given.iter().for_each(Notify::notify_one);
    }

    fn is_wanted(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && state.seats.iter().any(|seat| matches!(seat.place, Place::Waiting(_)))
    }

    /// Gives waiting frames to waiting senders: first to the one whose peer has the most room, and of equals to the one
    /// whose turn is longest ago.
    fn settle(&self, state: &mut State) {
        let room = |(at, seat): (usize, &Seat)| match &seat.place {
            Place::Waiting(room) => Some((room.available_permits(), std::cmp::Reverse(seat.last), at)),
            Place::Busy | Place::Given(_) => None,
        };
        while !state.waiting.is_empty()
            && let Some((.., best)) = state.seats.iter().enumerate().filter_map(room).max()
            && let Some(frame) = state.waiting.pop_front()
        {
            state.turn += 1;
            state.seats[best] = Seat { place: Place::Given(frame), last: state.turn };
            self.given[best].notify_one();
        }
    }

    /// Has a frame go to another sender, before all others.
    fn take_back(&self, state: &mut State, frame: Outgoing) {
        state.waiting.push_front(frame);
        self.settle(state);
    }
}

/// A sender's part of a [`Spread`].
#[derive(Debug)]
pub struct Share {
    spread: Arc<Spread>,
    seat: usize,
    held: Option<Outgoing>,
}

/// Gives a place up, with the frame that may just have been given to it.
struct Leave<'a>(&'a Share);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let Share { spread, seat, .. } = self.0;
        let mut state = spread.lock();
        if let Place::Given(frame) = std::mem::replace(&mut state.seats[*seat].place, Place::Busy) {
            spread.take_back(&mut state, frame);
        }
    }
}

impl Supply for Share {
    async fn fill(&mut self, room: &Arc<Semaphore>) -> bool {
        if self.held.is_some() {
            return true;
        }
        let leave = Leave(self);
        let Self { spread, seat, .. } = &*self;
        {
            let mut state = spread.lock();
            state.seats[*seat].place = Place::Waiting(Arc::clone(room));
            spread.settle(&mut state);
        }
        spread.wanted.notify_one();
        let frame = loop {
            {
                let mut state = spread.lock();
                match std::mem::replace(&mut state.seats[*seat].place, Place::Busy) {
                    Place::Given(frame) => break Some(frame),
                    place if !state.is_over => state.seats[*seat].place = place,
                    _ => break None,
                }
            }
            spread.given[*seat].notified().await;
        };
        drop(leave);
        self.held = frame;
        self.held.is_some()
    }

    fn held(&mut self) -> &mut Option<Outgoing> {
        &mut self.held
    }

    fn hand_back(&mut self) {
        if let Some(frame) = self.held.take() {
            let mut state = self.spread.lock();
            self.spread.take_back(&mut state, frame);
        }
    }

    fn pass_on(&mut self) -> bool {
        let Some(frame) = self.held.take() else { return false };
        let which = (frame.tag.incarnation, frame.tag.seq, frame.tag.attempt);
        let mut state = self.spread.lock();
        if state.refused.contains(&which) {
            self.held = Some(frame);
            return false;
        }
        state.refused.push_back(which);
        if state.refused.len() > REMEMBERED {
            state.refused.pop_front();
        }
        self.spread.take_back(&mut state, frame);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::frame::Tag;
    use crate::relay::traffic::Parts;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn frame(seq: u64) -> Outgoing {
        Outgoing { tag: Tag { seq, ..Tag::default() }, deadline: None, content: Ok(Parts::Owned(Vec::new())) }
    }

    fn room(frames: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(frames))
    }

    /// The number of the frame that a sender has been given, if it need not wait for one.
    fn poll(share: &mut Share, room: &Arc<Semaphore>) -> Option<u64> {
        let ready = pin!(share.fill(room)).poll(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(true)).then(|| share.held().take().expect("it holds what it was given").tag.seq)
    }

    #[test]
    fn a_frame_goes_where_the_most_room_is_and_in_turn_among_equals() {
        let (spread, _shares) = Spread::new(3);
        let rooms = [room(1), room(2), room(2)];
        // All wait for a frame; which of them gets it?
        let give = || {
            let mut state = spread.lock();
            for (seat, room) in state.seats.iter_mut().zip(&rooms) {
                seat.place = Place::Waiting(Arc::clone(room));
            }
            state.waiting.push_back(frame(1));
            spread.settle(&mut state);
            state.seats.iter().position(|seat| matches!(seat.place, Place::Given(_)))
        };
        let order: Vec<usize> = (0..4).filter_map(|_| give()).collect();
        assert!(order == [1, 2, 1, 2] || order == [2, 1, 2, 1], "{order:?}");
        rooms[0].add_permits(5);
        assert_eq!(give(), Some(0));
    }

    #[test]
    fn a_frame_is_never_lost_with_a_sender() {
        let (spread, mut shares) = Spread::new(2);
        let (one, few) = (room(1), room(0));
        let mut second = shares.pop().unwrap();
        let mut first = shares.pop().unwrap();
        {
            // The first waits, is given a frame, and goes before it has seen it.
            let mut waiting = pin!(first.fill(&one));
            let mut context = Context::from_waker(Waker::noop());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            let mut state = spread.lock();
            state.waiting.push_back(frame(1));
            spread.settle(&mut state);
            assert!(state.waiting.is_empty() && matches!(state.seats[0].place, Place::Given(_)));
        }
        assert_eq!(poll(&mut second, &few), Some(1));
        // One that holds a frame whose connection broke.
        *second.held() = Some(frame(2));
        second.hand_back();
        assert_eq!(poll(&mut first, &one), Some(2));
        // Nothing is there, and nothing will be.
        assert_eq!(poll(&mut first, &one), None);
        spread.lock().is_over = true;
        assert_eq!(poll(&mut first, &one), None);
    }

    #[test]
    fn a_frame_that_one_refuses_goes_to_another_and_no_further() {
        let (_spread, mut shares) = Spread::new(2);
        let one = room(1);
        let mut second = shares.pop().unwrap();
        let mut first = shares.pop().unwrap();
        *first.held() = Some(frame(7));
        assert!(first.pass_on() && first.held().is_none());
        assert!(pin!(second.fill(&one)).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(!second.pass_on(), "it is the frame that is wrong");
        assert_eq!(second.held().take().unwrap().tag.seq, 7);
        // Another one is not judged by it.
        *second.held() = Some(frame(8));
        assert!(second.pass_on());
        assert_eq!(poll(&mut first, &one), Some(8));
    }

    #[tokio::test]
    async fn nothing_is_taken_from_the_queue_as_long_as_nobody_wants_it() {
        let (spread, mut shares) = Spread::new(1);
        let (tx, frames) = mpsc::channel(1);
        let of = Arc::clone(&spread);
        let giving = tokio::spawn(async move { of.give_out(frames).await });
        tx.send(frame(1)).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(tx.try_send(frame(2)).is_err(), "the first still waits in the queue");
        let mut share = shares.pop().unwrap();
        let one = room(1);
        assert!(share.fill(&one).await);
        assert_eq!(share.held().take().unwrap().tag.seq, 1);
        tx.send(frame(2)).await.unwrap();
        drop(tx);
        assert!(share.fill(&one).await);
        assert_eq!(share.held().take().unwrap().tag.seq, 2);
        assert!(!share.fill(&one).await);
        giving.await.unwrap();
    }
}
