//! Frames under credit: the sending and the receiving end of a connection whose handshake is done.
//!
//! A receiver grants as many frames as it has room for, and one more whenever it has taken one up; a sender without
//! credit waits. So no queue grows beyond its bound, and kernel buffers hide nothing.

use super::frame::{Failure, FailureKind, Part, Tag};
use super::hello::refuse;
use super::link::{Connection, Frame, FrameReader, FrameWriter, LinkError};
use super::spread::Supply;
use crate::buffer::Pool;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Time to tell a peer why its connection ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Frames under way that a peer may grant: more than any window.
const MOST_CREDIT: u32 = 1 << 16;

/// Tensors to send.
#[derive(Debug)]
pub enum Parts {
    /// Their buffers go back to the pool once they are sent.
    Owned(Vec<Part>),
    /// Somebody keeps them, to send them again if need be.
    Kept(Arc<[Part]>),
}

impl Parts {
    fn as_slice(&self) -> &[Part] {
        match self {
            Self::Owned(parts) => parts,
            Self::Kept(parts) => parts,
        }
    }
}

/// A frame to send.
#[derive(Debug)]
pub struct Outgoing {
    pub tag: Tag,
    /// When its time budget ends; the tag's `budget_us` is written from it at the last moment.
    pub deadline: Option<Instant>,
    /// The tensors, or the failure that stands in their place.
    pub content: Result<Parts, Failure>,
}

impl Outgoing {
    /// Bytes of its encoded tensors.
    pub fn bytes(&self) -> u64 {
        self.content.iter().flat_map(Parts::as_slice).map(|part| part.tensor.data.len() as u64).sum()
    }

    /// Whether nobody waits for it any more: its sender kept the tensors to send them again, and has let go of them.
    fn is_abandoned(&self) -> bool {
        matches!(&self.content, Ok(Parts::Kept(parts)) if Arc::strong_count(parts) == 1)
    }

    /// Puts a failure in the place of the tensors.
    fn fail(&mut self, origin: &Origin, kind: FailureKind, cause: String) {
        self.content = Err(origin.failure(kind, cause));
    }

    fn tag_now(&self) -> Tag {
        let budget_us = self.deadline.map_or(0, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_micros();
            u64::try_from(left).unwrap_or(u64::MAX).max(1)
        });
        Tag { budget_us, ..self.tag }
    }
}

/// Where in the chain something happened.
#[derive(Clone, Debug)]
pub struct Origin {
    pub node: String,
    pub stage: usize,
}

impl Origin {
    pub fn failure(&self, kind: FailureKind, cause: String) -> Failure {
        Failure { node: self.node.clone(), stage: self.stage, kind, cause: vec![cause] }
    }
}

/// A frame that arrived. Dropping `credit` tells the sender that there is room for another.
#[derive(Debug)]
pub struct Incoming {
    pub tag: Tag,
    pub deadline: Option<Instant>,
    pub content: Result<Vec<Part>, Failure>,
    pub credit: Credit,
}

/// One frame's place in the receiver's queue.
#[derive(Debug)]
pub struct Credit {
    outstanding: Arc<AtomicU32>,
    back: mpsc::UnboundedSender<Reply>,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
        // The connection may be gone, and its credit with it.
        let _ = self.back.send(Reply::Credit);
    }
}

#[derive(Debug)]
enum Reply {
    Credit,
    Refuse(String),
}

/// Told of a frame that was written, and of the time that the socket took to take it.
pub type Sent<'a> = dyn Fn(&Outgoing, Duration) + Send + Sync + 'a;

/// Sends what `frames` yields until the connection ends or `frames` does (`Ok`). A frame that was not wholly written stays
/// held, for the next connection; where the peer said that it will not have it, it goes to another one if there is one, and
/// else, or where its time is over, its failure goes in its place. `sent` is told of each frame written, and how long that took.
pub async fn send(
    connection: Connection,
    credit: u32,
    origin: &Origin,
    frames: &mut impl Supply,
    pool: &Pool,
    sent: &Sent<'_>,
) -> Result<(), LinkError> {
    let Connection { reader, mut writer, .. } = connection;
    let allowed = Arc::new(Semaphore::new(credit.min(MOST_CREDIT) as usize));
    let dead = CancellationToken::new();
    let listener = AbortOnDropHandle::new(tokio::spawn(take_credit(reader, Arc::clone(&allowed), dead.clone())));
    let result = tokio::select! {
        () = dead.cancelled() => None,
        result = send_allowed(&mut writer, &allowed, origin, frames, pool, sent) => Some(result),
    };
    if let Some(Ok(())) = result {
        return Ok(());
    }
    // A write that failed says less than what the peer said before it closed.
    let said = timeout(FAREWELL, listener).await.ok().and_then(Result::ok);
    let error = match (said, result) {
        (Some(LinkError::Closed) | None, Some(Err(error))) => error,
        (said, _) => said.unwrap_or(LinkError::Closed),
    };
    if let LinkError::Refused { peer, cause } = &error
        && !frames.pass_on()
        && let Some(frame) = frames.held().as_mut()
    {
        frame.fail(origin, FailureKind::Stage, format!("{peer} refused its frame: {cause}"));
    }
    if matches!(error, LinkError::Order(..) | LinkError::Frame(_)) {
        refuse(&mut writer, &origin.node, &error.to_string()).await;
    }
    Err(error)
}

async fn send_allowed(
    writer: &mut FrameWriter,
    allowed: &Arc<Semaphore>,
    origin: &Origin,
    frames: &mut impl Supply,
    pool: &Pool,
    sent: &Sent<'_>,
) -> Result<(), LinkError> {
    loop {
        // The semaphore is never closed while this runs.
        let Ok(permit) = allowed.acquire().await else { return Ok(()) };
        if !frames.fill(allowed).await {
            return Ok(());
        }
        let held = frames.held();
        let Some(frame) = held.as_mut() else { return Ok(()) };
        if frame.is_abandoned() {
            *held = None;
            continue;
        }
        if frame.content.is_ok() && frame.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            frame.fail(origin, FailureKind::Expired, "its time budget was used up before the link was free".to_owned());
        }
        permit.forget();
        let started = Instant::now();
        match &frame.content {
            Ok(parts) => writer.data(&frame.tag_now(), parts.as_slice()).await?,
            Err(failure) => writer.error(&frame.tag_now(), failure).await?,
        }
        sent(frame, started.elapsed());
        if let Some(Outgoing { content: Ok(Parts::Owned(parts)), .. }) = held.take() {
            parts.into_iter().for_each(|part| pool.give(part.tensor.data));
        }
    }
}

/// Reads what a receiver says back, until the connection ends; gives the reason.
async fn take_credit(mut reader: FrameReader, allowed: Arc<Semaphore>, dead: CancellationToken) -> LinkError {
    let _guard = dead.drop_guard();
    loop {
        match reader.next().await {
            Ok(Some(Frame::Credit(frames))) => {
                if allowed.available_permits().saturating_add(frames as usize) > MOST_CREDIT as usize {
                    return LinkError::Order("boundless credit", "a window's");
                }
                allowed.add_permits(frames as usize);
            }
            Ok(Some(Frame::Ping)) => {}
            Ok(Some(Frame::Error(_, failure))) => {
                return LinkError::Refused { peer: failure.node, cause: failure.cause.join(": ") };
            }
            Ok(Some(Frame::Data(..) | Frame::Unfit(..) | Frame::Hello(_))) => {
                return LinkError::Order("data", "credit");
            }
            Ok(None) => return LinkError::Closed,
            Err(error) => return error,
        }
    }
}

/// Grants `window` frames and hands each to `deliver`, until the peer closes the connection (`Ok`). Where `deliver` says
/// that a frame has no business here, the peer is told why and cut off. From `closing` on no more credit is given: what
/// the peer may still send is taken, and no more comes.
pub async fn receive(
    connection: Connection,
    origin: &Origin,
    window: u32,
    closing: &CancellationToken,
    deliver: &mut (dyn FnMut(Incoming) -> Result<(), String> + Send),
) -> Result<(), LinkError> {
    let Connection { mut reader, mut writer, .. } = connection;
    writer.credit(window).await?;
    let (back, mut replies) = mpsc::unbounded_channel();
    let outstanding = Arc::new(AtomicU32::new(0));
    let name = origin.node.clone();
    let closing = closing.clone();
    let mut replier = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(reply) = replies.recv().await {
            let mut credit = 0;
            let mut next = Some(reply);
            while let Some(reply) = next {
                match reply {
                    Reply::Credit => credit += 1,
                    Reply::Refuse(cause) => return refuse(&mut writer, &name, &cause).await,
                }
                next = replies.try_recv().ok();
            }
            if !closing.is_cancelled() && writer.credit(credit).await.is_err() {
                return;
            }
        }
    }));
    let result = loop {
        let (tag, content) = match reader.next().await {
            Ok(Some(Frame::Data(tag, parts))) => (tag, Ok(parts)),
            Ok(Some(Frame::Error(tag, failure))) => (tag, Err(failure)),
            Ok(Some(Frame::Unfit(tag, error))) => (tag, Err(origin.failure(FailureKind::Invalid, error.to_string()))),
            Ok(Some(Frame::Ping)) => continue,
            Ok(Some(Frame::Hello(_) | Frame::Credit(_))) => break Err(LinkError::Order("handshake", "data")),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if outstanding.fetch_add(1, Ordering::AcqRel) >= window {
            break Err(LinkError::Order("data", "patience: more were sent than credit was given,"));
        }
        let credit = Credit { outstanding: Arc::clone(&outstanding), back: back.clone() };
        let deadline = (tag.budget_us > 0).then(|| Instant::now() + Duration::from_micros(tag.budget_us.min(1 << 50)));
        if let Err(cause) = deliver(Incoming { tag, deadline, content, credit }) {
            break Err(LinkError::Refused { peer: origin.node.clone(), cause });
        }
    };
    if let Err(error) = &result {
        let _ = back.send(Reply::Refuse(error.to_string()));
        // A peer that does not listen is not waited for.
        let _ = timeout(FAREWELL, &mut replier).await;
    }
    result
}
