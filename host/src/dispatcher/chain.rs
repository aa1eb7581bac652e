//! The dispatcher's links to a running generation: it feeds the nodes of the first stage and collects from those of the last.

use super::deploy::Deployment;
use super::fleet::Member;
use super::ingress::Ingress;
use super::ledger::{Ledger, Order};
use crate::relay::codec;
use crate::relay::feed::{End, Pause, Watcher, feed};
use crate::relay::traffic::{Incoming, Origin, Outgoing, receive};
use crate::relay::{Hello, Limits, LinkError, Role, Token};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Results of one node that may wait here to be decoded.
const WINDOW: u32 = 4;
/// How often lost requests are looked for.
const TICK: Duration = Duration::from_millis(500);
/// The same where a stage has replicas, of which the others go on.
const SHORT_TICK: Duration = Duration::from_millis(25);

/// A generation's links. Dropping it ends them.
pub struct Chain {
    frames: mpsc::Sender<Outgoing>,
    pub ingress: Arc<Ingress>,
    links: Arc<Links>,
    /// The nodes of the first stage.
    first: Arc<[End]>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// Which links are up, by the place of their node among those of the stage.
#[derive(Debug)]
struct Links {
    feed: Vec<Link>,
    collect: Vec<Link>,
    broken: mpsc::UnboundedSender<Broken>,
}

/// A link to one node.
#[derive(Debug)]
struct Link {
    node: Arc<Member>,
    is_up: AtomicBool,
}

impl Link {
    fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }
}

/// Where frames may have been lost.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// What went in over the link of this number.
    Feed(usize),
    /// Any that are in the chain.
    Beyond,
}

impl Links {
    fn new(deployment: &Deployment) -> (Self, mpsc::UnboundedReceiver<Broken>) {
        let link = |node: &Arc<Member>| Link { node: Arc::clone(node), is_up: AtomicBool::new(false) };
        let down = |stage: usize| deployment.nodes_of(stage).map(link).collect();
        let (broken, news) = mpsc::unbounded_channel();
        (Self { feed: down(0), collect: down(deployment.pipeline.stages.len() - 1), broken }, news)
    }

    fn turn(&self, link: &Link, is_up: bool, what: Broken) {
        link.is_up.store(is_up, Ordering::Relaxed);
        if !is_up {
            // Its process may have died this moment.
            link.node.suspect();
            self.tell(what);
        }
    }

    fn tell(&self, what: Broken) {
        // A chain that is being closed needs nothing again.
        let _ = self.broken.send(what);
    }
}

fn is_any(links: &[Link]) -> bool {
    links.iter().any(Link::is_up)
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
        let ends = |role, stage: usize, max_parts| -> Vec<End> {
            let Deployment { pipeline, generation, owner, .. } = deployment;
            let end = |node: &Arc<Member>| End {
                relay: node.relay(),
                hello: Hello::new(name, role, &pipeline.name, *generation, owner.incarnation, stage),
                token: token.clone(),
                limits: Limits { max_parts, ..limits.clone() },
                cut: Arc::default(),
            };
            deployment.nodes_of(stage).map(end).collect()
        };
        let first: Arc<[End]> = ends(Role::Feed, 0, 0).into();
        let last = ends(Role::Collect, deployment.pipeline.stages.len() - 1, outputs.len());
        let (links, broken) = Links::new(deployment);
        let links = Arc::new(links);
        let ingress = Arc::new(Ingress::new(deployment.codec_in));
        // A replay goes through the same queue as new requests, so that order is kept.
        let (frames, to_send) = mpsc::channel(1);
        let results = spawn_decoder(Arc::clone(ledger), limits.clone(), outputs)?;
        let feeder = Feeder { ledger: Arc::clone(ledger), ingress: Arc::clone(&ingress), links: Arc::clone(&links) };
        let fed = Arc::clone(&first);
        let mut tasks = vec![tokio::spawn(async move {
            let origin = Origin { node: "dispatcher".to_owned(), stage: usize::MAX };
            feed(&fed, to_send, &origin, &feeder).await;
        })];
        for (link, end) in last.into_iter().enumerate() {
            tasks.push(tokio::spawn(collect_all(link, end, results.clone(), Arc::clone(&links))));
        }
        let tick = match deployment.order() {
            Order::Kept => TICK,
            Order::Free => SHORT_TICK,
        };
        let (ledger, generation, again) = (Arc::clone(ledger), deployment.generation, frames.clone());
        tasks.push(tokio::spawn(replay(ledger, generation, again, broken, tick)));
        let tasks = Mutex::new(tasks.into_iter().map(AbortOnDropHandle::new).collect());
        Ok(Self { frames, ingress, links, first, tasks })
    }

    /// Sends a frame; waits while the chain has no room for it.
    pub async fn feed(&self, frame: Outgoing) {
        // Where it was closed meanwhile, what is pending is sent another way.
        let _ = self.frames.send(frame).await;
    }

    /// Sends again what is in the chain, since a node in it was lost.
    pub fn replay(&self) {
        self.links.tell(Broken::Beyond);
    }

    /// Gives up what is being written to the relay at `relay`, which may stand still: it goes to another node.
    pub fn cut(&self, relay: &str) {
        self.first.iter().filter(|end| end.relay == relay).for_each(|end| end.cut.notify_waiters());
    }

    /// Ends the links for good.
    pub fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.all().for_each(|link| link.is_up.store(false, Ordering::Relaxed));
    }

    fn all(&self) -> impl Iterator<Item = &Link> {
        self.links.feed.iter().chain(&self.links.collect)
    }

    /// Whether a request can go in and its answer come out.
    pub fn is_up(&self) -> bool {
        is_any(&self.links.feed) && is_any(&self.links.collect)
    }

    /// Waits until every link is up.
    pub async fn wait_until_up(&self) {
        while !self.all().all(Link::is_up) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The stage, and the place among its nodes, of one to which there is no link: 0 where there are links to all.
    pub fn missing(&self, last_stage: usize) -> (usize, usize) {
        let down = |links: &[Link]| links.iter().position(|link| !link.is_up());
        match (down(&self.links.feed), down(&self.links.collect)) {
            (None, Some(place)) => (last_stage, place),
            (place, _) => (0, place.unwrap_or(0)),
        }
    }
}

/// What the sending end is watched for.
struct Feeder {
    ledger: Arc<Ledger>,
    ingress: Arc<Ingress>,
    links: Arc<Links>,
}

impl Watcher for Feeder {
    fn sent(&self, link: usize, frame: &Outgoing, took: Duration) {
        self.ingress.sent(frame.bytes(), took);
        self.ledger.sent(&frame.tag, link);
    }

    fn turned(&self, link: usize, _end: &End, is_up: bool) {
        self.links.turn(&self.links.feed[link], is_up, Broken::Feed(link));
    }

    fn failed(&self, end: &End, error: &LinkError, pause: &Pause) {
        if pause.is_first() {
            tracing::warn!(relay = end.relay, %error, "no link to the first stage; retrying");
        }
    }
}

async fn collect_all(link: usize, end: End, results: mpsc::UnboundedSender<Incoming>, links: Arc<Links>) {
    let origin = Origin { node: end.hello.name.clone(), stage: usize::MAX };
    let mut pause = Pause::default();
    loop {
        let error = match end.connect().await {
            Ok((connection, _)) => {
                pause.reset();
                links.turn(&links.collect[link], true, Broken::Beyond);
                let mut deliver = |incoming| results.send(incoming).map_err(|_| "the dispatcher stops".to_owned());
                let result = receive(connection, &origin, WINDOW, &CancellationToken::new(), &mut deliver).await;
                links.turn(&links.collect[link], false, Broken::Beyond);
                result.err().unwrap_or(LinkError::Closed)
            }
            Err(error) => error,
        };
        if pause.is_first() {
            tracing::warn!(relay = end.relay, %error, "no link to the last stage; retrying");
        }
        pause.wait().await;
    }
}

/// Sends again what a broken link may have lost, and what the chain lost otherwise.
async fn replay(
    ledger: Arc<Ledger>,
    generation: u64,
    frames: mpsc::Sender<Outgoing>,
    mut broken: mpsc::UnboundedReceiver<Broken>,
    tick: Duration,
) {
    loop {
        let again = tokio::select! {
            Some(what) = broken.recv() => {
                // More may have gathered while there was no way to send. What one takes out of the chain is not in it for the next.
                let gathered = std::iter::from_fn(|| broken.try_recv().ok());
                std::iter::once(what).chain(gathered).flat_map(|what| replay_broken(&ledger, generation, what)).collect()
            }
            () = tokio::time::sleep(tick) => ledger.replay_lost(generation),
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

fn replay_broken(ledger: &Ledger, generation: u64, what: Broken) -> Vec<Outgoing> {
    match what {
        Broken::Feed(link) => ledger.replay_sent_over(generation, link),
        Broken::Beyond => ledger.replay_sent(generation),
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
