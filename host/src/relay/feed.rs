//! Sends frames to the nodes of a stage: dials each of them, again and again, and spreads the frames over the links that are
//! up.

use super::hello::{Hello, Token, connect};
use super::link::{Connection, Limits, LinkError};
use super::spread::{Queue, Spread, Supply};
use super::traffic::{Origin, Outgoing, send};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One end of a link, which can be dialed again and again.
#[derive(Clone, Debug)]
pub struct End {
    /// Address of the relay, `host:port`.
    pub relay: String,
    pub hello: Hello,
    pub token: Token,
    pub limits: Limits,
    /// Ends the connection, if there is one, when it is notified: another one is dialed.
    pub cut: Arc<Notify>,
}

impl End {
    /// Dials; gives the connection and the credit that came with it.
    pub async fn connect(&self) -> Result<(Connection, u32), LinkError> {
        connect(&self.relay, &self.hello.again(), &self.token, self.limits.clone()).await
    }
}

/// The pauses between attempts to dial: longer and longer.
#[derive(Debug, Default)]
pub struct Pause {
    attempts: u32,
}

impl Pause {
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Whether the latest attempt was the first one that failed.
    pub fn is_first(&self) -> bool {
        self.attempts == 0
    }

    /// Whether it was the first one after the time that a node may need to load a stage that was asked of it at the same time.
    pub fn has_become_long(&self) -> bool {
        self.attempts == 4
    }

    pub async fn wait(&mut self) {
        sleep((FIRST_PAUSE * 2u32.pow(self.attempts.min(10))).min(LONGEST_PAUSE)).await;
        self.attempts = self.attempts.saturating_add(1);
    }
}

/// Told of what becomes of links.
pub trait Watcher: Sync {
    /// A frame was written to link number `link`, which took so long.
    fn sent(&self, link: usize, frame: &Outgoing, took: Duration);
    /// Link number `link`, to `end`, is up now, or no more.
    fn turned(&self, link: usize, end: &End, is_up: bool);
    /// There is no link to `end`, which is tried again after `pause`.
    fn failed(&self, end: &End, error: &LinkError, pause: &Pause);
}

/// Sends all of `frames`, each to one of `ends`, over as many connections as it takes.
pub async fn feed(ends: &[End], frames: mpsc::Receiver<Outgoing>, origin: &Origin, watcher: &dyn Watcher) {
    if let [only] = ends {
        return keep_sending(0, only, Queue::new(frames), origin, watcher).await;
    }
    let (spread, shares) = Spread::new(ends.len());
    let links = ends.iter().zip(shares).enumerate();
    let links = links.map(|(link, (end, share))| keep_sending(link, end, share, origin, watcher));
    tokio::join!(spread.give_out(frames), join_all(links));
}

async fn keep_sending(link: usize, end: &End, mut frames: impl Supply, origin: &Origin, watcher: &dyn Watcher) {
    let mut pause = Pause::default();
    loop {
        let error = match end.connect().await {
            Ok((connection, credit)) => {
                pause.reset();
                watcher.turned(link, end, true);
                let sent = |frame: &Outgoing, took| watcher.sent(link, frame, took);
                let result = tokio::select! {
                    result = send(connection, credit, origin, &mut frames, &end.limits.pool, &sent) => result,
                    () = end.cut.notified() => Err(LinkError::Closed),
                };
                watcher.turned(link, end, false);
                frames.hand_back();
                match result {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        watcher.failed(end, &error, &pause);
        pause.wait().await;
    }
}
