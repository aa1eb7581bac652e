//! What the ledger knows of requests, and of the chains that they are in.

use super::{Order, Reply};
use crate::relay::frame::Part;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct State {
    pub next_seq: u64,
    pub pending: BTreeMap<u64, Pending>,
    pub lanes: BTreeMap<u64, Lane>,
}

/// What goes on in the chain of one generation.
#[derive(Debug)]
pub(super) struct Lane {
    /// Whether requests may enter.
    pub open: bool,
    pub order: Order,
    /// Frames that went onto the first link so far.
    pub sent: u64,
    /// When a frame last went into an empty chain, or an answer came out of it.
    pub progress: Instant,
    /// Replays since the last answer.
    pub fruitless: u32,
    /// Slowest answer lately; it decays, so that one slow moment does not make the ledger patient for ever.
    pub slowest: Duration,
}

impl Lane {
    pub fn new(order: Order) -> Self {
        Self { open: false, order, sent: 0, progress: Instant::now(), fruitless: 0, slowest: Duration::ZERO }
    }
}

#[derive(Debug)]
pub(super) struct Pending {
    pub generation: u64,
    pub parts: Arc<[Part]>,
    pub attempt: u32,
    pub trace: u128,
    pub deadline: Instant,
    pub place: Place,
    /// When its first attempt went into a chain.
    pub first_sent: Option<Instant>,
    /// When its first attempt went into the chain of its generation.
    pub sent_here: Option<Instant>,
    /// When an answer to it came out of the chain.
    pub arrived: Option<Instant>,
    pub reply: oneshot::Sender<Reply>,
}

impl Pending {
    /// Whether its frame is in the chain of `generation`.
    pub fn is_inside(&self, generation: u64) -> bool {
        self.generation == generation && matches!(self.place, Place::Sent { .. })
    }
}

/// Where the frame of a pending request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the first link.
    Queued,
    /// In the chain since `at`, as the `order`-th frame that went in, over the link of that number.
    Sent { order: u64, at: Instant, overtaken: bool, link: usize },
    /// A later one came out, and frames do not overtake each other.
    Lost,
}
