//! Where a slot's output goes: to the nodes of the next stage, which are dialed, or to the dispatcher, which collects.

use super::generation::Hop;
use super::slot::{Counters, Identity};
use crate::relay::feed::{End, Pause, Watcher, feed};
use crate::relay::spread::Queue;
use crate::relay::traffic::{Outgoing, send};
use crate::relay::{Connection, Hello, Limits, LinkError, Role, Token};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Encoded frames that wait for a link.
pub const QUEUE: usize = 2;

/// Where to.
pub enum Next {
    /// The nodes of the next stage.
    Dial(Vec<Hop>),
    /// Whoever collects; the latest one counts.
    Collected(mpsc::Receiver<Connection>),
}

/// The sending end of one slot.
pub struct Outlet {
    pub identity: Identity,
    pub incarnation: u64,
    pub token: Token,
    pub limits: Limits,
    pub counters: Arc<Counters>,
}

impl Outlet {
    /// Sends all of `frames`, over as many connections as it takes.
    pub async fn run(self, next: Next, frames: mpsc::Receiver<Outgoing>) {
        match next {
            Next::Dial(hops) => {
                let ends: Vec<End> = hops.into_iter().map(|hop| self.end(hop)).collect();
                feed(&ends, frames, &self.identity.origin(), &self).await;
            }
            Next::Collected(connections) => self.collect_all(connections, Queue::new(frames)).await,
        }
    }

    fn end(&self, hop: Hop) -> End {
        let Identity { node, pipeline, generation, .. } = &self.identity;
        End {
            relay: hop.relay,
            hello: Hello::new(node, Role::Feed, pipeline, *generation, self.incarnation, hop.stage),
            token: self.token.clone(),
            limits: self.limits.clone(),
            cut: Arc::default(),
        }
    }

    async fn collect_all(&self, mut connections: mpsc::Receiver<Connection>, mut frames: Queue) {
        let mut connection = connections.recv().await;
        while let Some(current) = connection {
            connection = tokio::select! {
                is_over = self.send(current, &mut frames) => {
                    if is_over {
                        return;
                    }
                    connections.recv().await
                }
                newer = connections.recv() => newer,
            };
        }
    }

    /// Sends until the connection breaks, or nothing comes any more: `true`.
    async fn send(&self, connection: Connection, frames: &mut Queue) -> bool {
        let sent = |frame: &Outgoing, took| self.sent(0, frame, took);
        send(connection, 0, &self.identity.origin(), frames, &self.limits.pool, &sent).await.is_ok()
    }
}

impl Watcher for Outlet {
    fn sent(&self, _link: usize, frame: &Outgoing, took: Duration) {
        let bytes = frame.bytes();
        self.counters.sent.add(1);
        self.counters.bytes_out.add(bytes);
        self.counters.link.record(bytes, took);
    }

    fn turned(&self, _link: usize, end: &End, is_up: bool) {
        if is_up {
            self.counters.unreached.reached(&end.relay);
        }
        let Identity { pipeline, generation, stage, .. } = &self.identity;
        tracing::debug!(pipeline, generation, stage, is_up, "link to the next stage");
    }

    fn failed(&self, end: &End, error: &LinkError, pause: &Pause) {
        self.counters.unreached.failed(&end.relay, error);
        // The next node may not have loaded its stage yet, so a first refusal is no news.
        if pause.has_become_long() {
            let Identity { pipeline, generation, stage, .. } = &self.identity;
            tracing::warn!(pipeline, generation, stage, to = end.relay, %error, "no link to the next stage; retrying");
        }
    }
}
