//! The dispatcher's two links to a running generation: it feeds the first stage and collects from the last.

use super::deploy::Deployment;
use super::ingress::Ingress;
use super::ledger::Ledger;
use crate::relay::codec;
use crate::relay::hello::dial;
use crate::relay::traffic::{Incoming, Origin, Outgoing, receive, send};
use crate::relay::{Connection, Hello, Limits, LinkError, Role, Token};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Results that may wait here to be decoded.
const WINDOW: u32 = 4;
const CONNECT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often lost requests are looked for.
const TICK: Duration = Duration::from_millis(500);

/// A generation's links. Dropping it ends them.
pub struct Chain {
    frames: mpsc::Sender<Outgoing>,
    pub ingress: Arc<Ingress>,
    links: Arc<Links>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// Which links are up.
#[derive(Debug, Default)]
struct Links {
    feed: AtomicBool,
    collect: AtomicBool,
}

/// What a link needs to be dialed, again and again.
struct End {
    relay: String,
    hello: Box<dyn Fn() -> Hello + Send + Sync>,
    token: Token,
    limits: Limits,
}

impl End {
    async fn connect(&self) -> Result<(Connection, u32), LinkError> {
        let stream = timeout(CONNECT, TcpStream::connect(&self.relay))
            .await
            .map_err(|_| LinkError::Timeout(CONNECT.as_secs()))??;
        // A hello of its own for each connection: one nonce is good for one handshake.
        dial(stream, &(self.hello)(), &self.token, self.limits.clone()).await
    }
}

impl Chain {
    /// Opens the links of `deployment`. `name` is the dispatcher's; `outputs` the tensors that leave the last stage, in
    /// the order in which frames number them.
    ///
    /// # Errors
    /// When a thread cannot be started; links that are down are retried for ever.
    pub fn open(
        deployment: &Deployment,
        name: &str,
        token: &Token,
        limits: &Limits,
        ledger: &Arc<Ledger>,
        outputs: Vec<String>,
    ) -> io::Result<Self> {
        let end = |role, stage: usize, max_parts| {
            let placed = &deployment.stages[stage];
            let Deployment { pipeline, generation, owner, .. } = deployment;
            let (name, pipeline) = (name.to_owned(), pipeline.name.clone());
            let (generation, incarnation) = (*generation, owner.incarnation);
            let hello = Box::new(move || Hello::new(&name, role, &pipeline, generation, incarnation, stage));
            let limits = Limits { max_parts, ..limits.clone() };
            End { relay: placed.node.relay(), hello, token: token.clone(), limits }
        };
        let links = Arc::new(Links::default());
        let ingress = Arc::new(Ingress::new(deployment.codec_in));
        // A replay goes through the same queue as new requests, so that order is kept.
        let (frames, to_send) = mpsc::channel(1);
        let feed = end(Role::Feed, 0, 0);
        let collect = end(Role::Collect, deployment.stages.len() - 1, outputs.len());
        let results = spawn_decoder(Arc::clone(ledger), limits.clone(), outputs)?;
        let broken = Arc::new(tokio::sync::Notify::new());
        let tasks = [
            tokio::spawn(feed_all(
                feed,
                to_send,
                Arc::clone(ledger),
                Arc::clone(&ingress),
                Arc::clone(&links),
                Arc::clone(&broken),
            )),
            tokio::spawn(collect_all(
                collect,
                results,
                Origin { node: name.to_owned(), stage: usize::MAX },
                Arc::clone(&links),
                Arc::clone(&broken),
            )),
            tokio::spawn(replay(Arc::clone(ledger), deployment.generation, frames.clone(), broken)),
        ];
        let tasks = Mutex::new(tasks.into_iter().map(AbortOnDropHandle::new).collect());
        Ok(Self { frames, ingress, links, tasks })
    }

    /// Sends a frame; waits while the chain has no room for it.
    pub async fn feed(&self, frame: Outgoing) {
        // Where it was closed meanwhile, what is pending is sent another way.
        let _ = self.frames.send(frame).await;
    }

    /// Ends the links for good.
    pub fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.links.feed.store(false, Ordering::Relaxed);
        self.links.collect.store(false, Ordering::Relaxed);
    }

    /// Whether the link to the first stage is up.
    pub fn is_fed(&self) -> bool {
        self.links.feed.load(Ordering::Relaxed)
    }

    /// Whether both links are up.
    pub fn is_up(&self) -> bool {
        self.links.feed.load(Ordering::Relaxed) && self.links.collect.load(Ordering::Relaxed)
    }

    /// Waits until both links are up.
    pub async fn wait_until_up(&self) {
        while !self.is_up() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn feed_all(
    end: End,
    mut frames: mpsc::Receiver<Outgoing>,
    ledger: Arc<Ledger>,
    ingress: Arc<Ingress>,
    links: Arc<Links>,
    broken: Arc<tokio::sync::Notify>,
) {
    let origin = Origin { node: "dispatcher".to_owned(), stage: usize::MAX };
    let sent = |frame: &Outgoing, took| {
        ingress.sent(frame.bytes(), took);
        ledger.sent(&frame.tag);
    };
    let mut held = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match end.connect().await {
            Ok((connection, credit)) => {
                pause = FIRST_PAUSE;
                links.feed.store(true, Ordering::Relaxed);
                let result = send(connection, credit, &origin, &mut frames, &mut held, &end.limits.pool, &sent).await;
                links.feed.store(false, Ordering::Relaxed);
                broken.notify_one();
                match result {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        tracing::warn!(relay = end.relay, %error, "no link to the first stage; retrying");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn collect_all(
    end: End,
    results: mpsc::UnboundedSender<Incoming>,
    origin: Origin,
    links: Arc<Links>,
    broken: Arc<tokio::sync::Notify>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match end.connect().await {
            Ok((connection, _)) => {
                pause = FIRST_PAUSE;
                links.collect.store(true, Ordering::Relaxed);
                let mut deliver = |incoming| results.send(incoming).map_err(|_| "the dispatcher stops".to_owned());
                let result = receive(connection, &origin, WINDOW, &CancellationToken::new(), &mut deliver).await;
                links.collect.store(false, Ordering::Relaxed);
                broken.notify_one();
                result.err().unwrap_or(LinkError::Closed)
            }
            Err(error) => error,
        };
        tracing::warn!(relay = end.relay, %error, "no link to the last stage; retrying");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sends again what a broken link may have lost, and what the chain lost otherwise.
async fn replay(
    ledger: Arc<Ledger>,
    generation: u64,
    frames: mpsc::Sender<Outgoing>,
    broken: Arc<tokio::sync::Notify>,
) {
    loop {
        let again = tokio::select! {
            () = broken.notified() => ledger.replay_sent(generation),
            () = tokio::time::sleep(TICK) => ledger.replay_lost(generation),
        };
        if !again.is_empty() {
            tracing::info!(generation, requests = again.len(), "sending pending requests again");
        }
        for frame in again {
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    }
}

/// Decodes results on a thread of its own, so that large ones hold up no connection.
fn spawn_decoder(
    ledger: Arc<Ledger>,
    limits: Limits,
    names: Vec<String>,
) -> io::Result<mpsc::UnboundedSender<Incoming>> {
    let (results, mut incoming) = mpsc::unbounded_channel::<Incoming>();
    std::thread::Builder::new().name("results".to_owned()).spawn(move || {
        while let Some(Incoming { tag, content, credit, .. }) = incoming.blocking_recv() {
            if !ledger.arrived(&tag) {
                tracing::debug!(seq = tag.seq, attempt = tag.attempt, "an echo of a given-up attempt");
                continue;
            }
            let answer = content.and_then(|parts| {
                let mut outputs = Vec::with_capacity(parts.len());
                for part in parts {
                    let name = names.get(usize::from(part.name)).cloned().unwrap_or_default();
                    let tensor = codec::decode(part.tensor, &limits.pool).map_err(|error| crate::relay::Failure {
                        node: "dispatcher".to_owned(),
                        stage: usize::MAX,
                        kind: crate::relay::FailureKind::Damaged,
                        cause: vec![format!("result \"{name}\": {error}")],
                    })?;
                    outputs.push((name, tensor));
                }
                Ok(outputs)
            });
            drop(credit);
            ledger.answer(&tag, answer);
        }
    })?;
    Ok(results)
}
