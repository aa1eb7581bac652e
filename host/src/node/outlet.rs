//! Where a slot's output goes: to the next node, which is dialed, or to the dispatcher, which collects.

use super::generation::Hop;
use super::slot::{Counters, Identity};
use crate::relay::hello::dial;
use crate::relay::traffic::{Outgoing, send};
use crate::relay::{Connection, Hello, Limits, LinkError, Role, Token};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Encoded frames that wait for the link.
pub const QUEUE: usize = 2;
const CONNECT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where to.
pub enum Next {
    /// The next stage's node.
    Dial(Hop),
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
            Next::Dial(hop) => self.dial_all(hop, frames).await,
            Next::Collected(connections) => self.collect_all(connections, frames).await,
        }
    }

    async fn dial_all(&self, hop: Hop, mut frames: mpsc::Receiver<Outgoing>) {
        let Identity { pipeline, generation, stage, .. } = &self.identity;
        let mut held = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.connect(&hop).await {
                Ok((connection, credit)) => {
                    pause = FIRST_PAUSE;
                    tracing::debug!(pipeline, generation, stage, to = hop.relay, "connected to the next stage");
                    match self.send(connection, credit, &mut frames, &mut held).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            // The next node may not have loaded its stage yet, so a first refusal is no news.
            if pause > FIRST_PAUSE * 8 {
                tracing::warn!(pipeline, generation, stage, to = hop.relay, %error, "no link to the next stage; retrying");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self, hop: &Hop) -> Result<(Connection, u32), LinkError> {
        let stream = timeout(CONNECT, TcpStream::connect(&hop.relay))
            .await
            .map_err(|_| LinkError::Timeout(CONNECT.as_secs()))??;
        let Identity { node, pipeline, generation, .. } = &self.identity;
        let hello = Hello::new(node, Role::Feed, pipeline, *generation, self.incarnation, hop.stage);
        dial(stream, &hello, &self.token, self.limits.clone()).await
    }

    async fn collect_all(&self, mut connections: mpsc::Receiver<Connection>, mut frames: mpsc::Receiver<Outgoing>) {
        let mut held = None;
        let mut connection = connections.recv().await;
        while let Some(current) = connection {
            connection = tokio::select! {
                result = self.send(current, 0, &mut frames, &mut held) => {
                    if result.is_ok() {
                        return;
                    }
                    connections.recv().await
                }
                newer = connections.recv() => newer,
            };
        }
    }

    async fn send(
        &self,
        connection: Connection,
        credit: u32,
        frames: &mut mpsc::Receiver<Outgoing>,
        held: &mut Option<Outgoing>,
    ) -> Result<(), LinkError> {
        let sent = |frame: &Outgoing, took| {
            let bytes = frame.bytes();
            self.counters.sent.add(1);
            self.counters.bytes_out.add(bytes);
            self.counters.link.record(bytes, took);
        };
        let origin = self.identity.origin();
        send(connection, credit, &origin, frames, held, &self.limits.pool, &sent).await
    }
}
