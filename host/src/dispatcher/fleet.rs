//! The nodes that a dispatcher knows, whether each lives, and what waits on it.
//!
//! Each node is asked for its pulse a few times a second. How long an answer may take follows from how long answers took
//! lately, so that a slow machine is not taken for a dead one, and a dead one not waited for.

use super::ailing::Ailing;
use super::nodes::{CandidateInfo, NodeClient, NodeInfo, Pulse};
use crate::relay::Token;
use anyhow::{Context as _, Result, bail};
use futures_util::future::join_all;
use reqwest::Url;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// Between two beats of a node that answers.
const BEAT: Duration = Duration::from_millis(200);
/// Before one that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(40);
/// Between two beats of one that is taken for dead.
const DEAD_BEAT: Duration = Duration::from_millis(250);
/// Before a node is asked again who it is, where the dispatcher waits for it to start.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Missed in a row, so many are a death.
const MISSES: u32 = 2;

/// How long an answer may take.
#[derive(Debug)]
struct Rhythm {
    /// The slowest answer lately; it decays.
    slowest: Duration,
}

impl Rhythm {
    /// An answer may take so many times the slowest of late.
    const SLACK: u32 = 4;
    const LEAST: Duration = Duration::from_millis(300);
    const MOST: Duration = Duration::from_secs(5);

    fn new() -> Self {
        // Of what was never seen, patience.
        Self { slowest: Duration::from_millis(125) }
    }

    fn record(&mut self, took: Duration) {
        self.slowest = took.max(self.slowest.mul_f32(0.95));
    }

    fn deadline(&self, misses: u32) -> Duration {
        // The second try may take longer: the first may have met a hiccup.
        ((self.slowest * Self::SLACK).max(Self::LEAST) * (misses + 2) / 2).min(Self::MOST)
    }
}

/// A node that this dispatcher knows.
#[derive(Debug)]
pub struct Member {
    pub client: NodeClient,
    seen: Mutex<Seen>,
    suspected: Notify,
}

#[derive(Debug)]
struct Seen {
    info: Option<NodeInfo>,
    epoch: Option<u64>,
    down: Option<Down>,
    /// When it was last found to answer after it had not.
    up_since: Instant,
    ailing: Vec<Ailing>,
}

/// A node that does not answer.
#[derive(Clone, Debug)]
pub struct Down {
    pub since: Instant,
    /// Why that is thought.
    pub cause: String,
    pub certainty: Certainty,
}

/// How sure it is that a node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Nobody listens there, or it says so itself.
    Certain,
    /// Its answer is late, and may yet come.
    Late,
}

impl Member {
    fn new(client: NodeClient) -> Self {
        let down =
            Some(Down { since: Instant::now(), cause: "it was not asked yet".to_owned(), certainty: Certainty::Late });
        Self {
            client,
            seen: Mutex::new(Seen { info: None, epoch: None, down, up_since: Instant::now(), ailing: Vec::new() }),
            suspected: Notify::new(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn url(&self) -> &Url {
        &self.client.url
    }

    /// Its own name; its URL as long as it has not said it.
    pub fn name(&self) -> String {
        self.seen().info.as_ref().map_or_else(|| self.url().to_string(), |info| info.name.clone())
    }

    pub fn info(&self) -> Option<NodeInfo> {
        self.seen().info.clone()
    }

    /// Where its relay is reached; the node's host alone as long as it has not said it.
    pub fn relay(&self) -> String {
        let said = self.seen().info.as_ref().and_then(|info| self.client.relay(info).ok());
        said.unwrap_or_else(|| self.url().host_str().unwrap_or_default().to_owned())
    }

    pub fn is_up(&self) -> bool {
        self.seen().down.is_none()
    }

    pub fn down(&self) -> Option<Down> {
        self.seen().down.clone()
    }

    /// For how long it has answered, as far as it does.
    pub fn up_for(&self) -> Duration {
        self.seen().up_since.elapsed()
    }

    /// As if it had answered `up_for` ago for the first time, and said that this ails its stages.
    #[cfg(test)]
    pub fn said(&self, up_for: Duration, ailing: Vec<Ailing>) {
        let mut seen = self.seen();
        seen.down = None;
        seen.up_since = Instant::now().checked_sub(up_for).expect("the machine runs for longer");
        seen.ailing = ailing;
    }

    /// Has its pulse felt at once.
    pub fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// What keeps its stages from their work, as it said last.
    pub fn ailing(&self) -> Vec<Ailing> {
        self.seen().ailing.clone()
    }

    /// A number that changes whenever the node is started anew.
    pub fn epoch(&self) -> Option<u64> {
        self.seen().epoch
    }

    /// Asks it who it is.
    async fn meet(&self) -> Result<()> {
        let info = self.client.describe().await?;
        let mut seen = self.seen();
        seen.info = Some(info);
        seen.down = None;
        Ok(())
    }
}

/// All nodes of a dispatcher, in the order in which they were given.
#[derive(Debug)]
pub struct Fleet {
    members: Vec<Arc<Member>>,
    /// Changes whenever a node dies, comes back, or starts anew.
    news: watch::Sender<u64>,
}

impl Fleet {
    pub fn new(urls: impl IntoIterator<Item = Url>, token: &Token) -> Result<Self> {
        let mut members: Vec<Arc<Member>> = Vec::new();
        for url in urls {
            members.push(Arc::new(Member::new(NodeClient::new(url, token.clone())?)));
        }
        Ok(Self { members, news: watch::Sender::new(0) })
    }

    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    pub fn by_url(&self, url: &str) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| member.url().as_str() == url)
    }

    /// Those that answer.
    pub fn up(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().filter(|member| member.is_up())
    }

    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Asks everyone who they are, those for whom `is_awaited` again and again for `patience`, and gives the error of the
    /// first of those that did not answer. All that did must differ in their names.
    pub async fn meet(&self, patience: Duration, is_awaited: impl Fn(&Url) -> bool) -> Result<Option<anyhow::Error>> {
        let until = Instant::now() + patience;
        let mut missing: Vec<&Arc<Member>> = self.members.iter().collect();
        let mut waited = Vec::new();
        let awaited = loop {
            let met = join_all(missing.iter().map(|member| member.meet())).await;
            let errors = missing.drain(..).zip(met).filter_map(|(member, met)| Some((member, met.err()?)));
            let (errors, spares): (Vec<_>, Vec<_>) = errors.partition(|(member, _)| is_awaited(member.url()));
            for (member, error) in spares {
                let error = format!("{error:#}");
                tracing::warn!(node = %member.url(), error, "a spare node does not answer; it may come later");
            }
            // What answers, but not as a node does, will not do so later either.
            let may_come = errors.iter().all(|(_, error)| is_away(error));
            if errors.is_empty() || !may_come || Instant::now() >= until {
                break errors.into_iter().map(|(_, error)| error).min_by_key(is_away);
            }
            for (member, error) in errors {
                if !waited.contains(member.url()) {
                    let (error, seconds) = (format!("{error:#}"), patience.as_secs());
                    tracing::info!(node = %member.url(), error, "waiting for a node, for up to {seconds} s (--wait-for-nodes)");
                    waited.push(member.url().clone());
                }
                missing.push(member);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        };
        let mut named = BTreeMap::new();
        for member in self.up() {
            if let Some(other) = named.insert(member.name(), member.url()) {
                let (url, name) = (member.url(), member.name());
                bail!("the nodes at {other} and {url} are both called \"{name}\"; give each its own --name");
            }
        }
        Ok(awaited)
    }

    /// Feels everyone's pulse, for ever, as dispatcher `incarnation`; candidates that are seen go to `candidates`.
    pub fn watch(
        self: &Arc<Self>,
        incarnation: u64,
        candidates: &mpsc::UnboundedSender<(Arc<Member>, CandidateInfo)>,
    ) -> Vec<AbortOnDropHandle<()>> {
        let watch = |member: &Arc<Member>| {
            let task = Arc::clone(self).watch_one(Arc::clone(member), incarnation, candidates.clone());
            AbortOnDropHandle::new(tokio::spawn(task))
        };
        self.members.iter().map(watch).collect()
    }

    async fn watch_one(
        self: Arc<Self>,
        member: Arc<Member>,
        incarnation: u64,
        candidates: mpsc::UnboundedSender<(Arc<Member>, CandidateInfo)>,
    ) {
        let mut rhythm = Rhythm::new();
        let mut misses = 0;
        loop {
            let (started, deadline) = (Instant::now(), rhythm.deadline(misses));
            let beat = tokio::time::timeout(deadline, member.client.pulse(incarnation)).await;
            let beat = beat.unwrap_or_else(|_| bail_late(deadline));
            let pause = match beat {
                Ok(Pulse { draining: true, .. }) => {
                    misses = MISSES;
                    self.gone(&member, "it is shutting down".to_owned(), Certainty::Certain);
                    DEAD_BEAT
                }
                Ok(Pulse { epoch, candidates: waiting, ailing, .. }) => {
                    rhythm.record(started.elapsed());
                    misses = 0;
                    member.seen().ailing = ailing;
                    self.alive(&member, epoch).await;
                    for candidate in waiting {
                        // Its receiver lives as long as the dispatcher.
                        let _ = candidates.send((Arc::clone(&member), candidate));
                    }
                    BEAT
                }
                Err(error) => {
                    misses += 1;
                    self.missed(&member, misses, &error);
                    if misses < MISSES { AGAIN } else { DEAD_BEAT }
                }
            };
            match misses {
                0 => drop(tokio::time::timeout(pause, member.suspected.notified()).await),
                _ => tokio::time::sleep(pause).await,
            }
        }
    }

    async fn alive(&self, member: &Member, epoch: u64) {
        let (was_down, before) = {
            let seen = member.seen();
            (seen.down.is_some(), seen.epoch)
        };
        if !was_down && before == Some(epoch) {
            return;
        }
        // It may be another program with other addresses by now.
        if (before.is_some() && before != Some(epoch) || member.info().is_none()) && member.meet().await.is_err() {
            return;
        }
        let mut seen = member.seen();
        seen.epoch = Some(epoch);
        if seen.down.take().is_some() || before != Some(epoch) {
            seen.up_since = Instant::now();
        }
        drop(seen);
        if was_down {
            tracing::info!(node = member.name(), "the node answers");
        }
        self.news.send_modify(|news| *news += 1);
    }

    fn missed(&self, member: &Member, misses: u32, error: &anyhow::Error) {
        if misses < MISSES {
            return;
        }
        let nobody_there = is_away(error);
        let certainty = if nobody_there { Certainty::Certain } else { Certainty::Late };
        self.gone(member, format!("{error:#}"), certainty);
    }

    fn gone(&self, member: &Member, cause: String, certainty: Certainty) {
        if !member.is_up() {
            return;
        }
        let name = member.name();
        tracing::warn!(node = name, cause, "the node is gone");
        member.seen().down = Some(Down { since: Instant::now(), cause, certainty });
        self.news.send_modify(|news| *news += 1);
    }
}

/// The highest generation of `pipeline` that any of `nodes` has; 0 where there is none.
pub async fn highest(nodes: impl IntoIterator<Item = &Arc<Member>>, pipeline: &str) -> Result<u64> {
    let all = join_all(nodes.into_iter().map(|node| async {
        let slots = node.client.slots().await;
        slots.with_context(|| format!("cannot tell which generations are on node \"{}\"", node.name()))
    }));
    let mut highest = 0;
    for slots in all.await {
        let own = slots?.into_iter().filter(|slot| slot.pipeline == pipeline).map(|slot| slot.generation);
        highest = highest.max(own.max().unwrap_or(0));
    }
    Ok(highest)
}

/// Whether nobody listens there.
fn is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
}

fn bail_late<T>(deadline: Duration) -> Result<T> {
    bail!("no answer within {} ms", deadline.as_millis())
}

#[cfg(test)]
mod tests {
    use super::Rhythm;
    use std::time::Duration;

    #[test]
    fn a_slow_node_gets_more_time_and_a_quick_one_less_in_the_end() {
        let mut rhythm = Rhythm::new();
        for _ in 0..200 {
            rhythm.record(Duration::from_millis(2));
        }
        assert_eq!(rhythm.deadline(0), Rhythm::LEAST);
        rhythm.record(Duration::from_millis(400));
        assert_eq!(rhythm.deadline(0), Duration::from_millis(1600));
        assert!(rhythm.deadline(1) > rhythm.deadline(0), "a hiccup is not a death");
        rhythm.record(Duration::from_secs(60));
        assert_eq!(rhythm.deadline(1), Rhythm::MOST);
    }
}
