//! The generations of a dispatcher: one is active, one may be tried on a share of the requests, and older ones finish what
//! is in them.
//!
//! A change is two-phase. [`Generations::prepare`] has every node load the next generation and opens its chain; nothing
//! has changed until [`Generations::commit`] notes it durably and turns the ingress, in one moment, under the lock that
//! requests enter by. So each request is one generation's, and a change that cannot be made costs nothing.

use super::deploy::{self, Progress};
use super::failure::BrokenOff;
use super::fleet::{self, Fleet, Member};
use super::record::Record;
use super::running::{Place, Running};
use super::setup::Setup;
use super::tentative::{Preparing, Tentative};
use crate::artifact::Digest;
use crate::pipeline::Pipeline;
use anyhow::{Context as _, Result, bail};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, watch};
use tokio_util::sync::CancellationToken;

/// How long a generation that was replaced may finish what is in it, before that starts again in the new one.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a node then waits for what is left inside: echoes.
const ECHOES: Duration = Duration::from_secs(1);
/// How often a generation that drains is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How often a change that is in the way is broken off again: it may have begun only just now.
const INSIST: Duration = Duration::from_millis(50);

/// A generation on trial.
pub struct Canary {
    pub running: Arc<Running>,
    /// The part of all requests that goes to it.
    pub share: f64,
}

/// Where requests go.
struct Ingress {
    active: Option<Arc<Running>>,
    canary: Option<Canary>,
}

/// What keeps requests out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// They would not be answered; why.
    Stuck(String),
}

pub struct Generations {
    pub fleet: Arc<Fleet>,
    pub place: Place,
    pub setup: Setup,
    record: Record,
    ingress: RwLock<Ingress>,
    retiring: Mutex<Vec<Arc<Running>>>,
    /// What was stopped for another one that could not take its place, and could not be had back either.
    stranded: Mutex<Option<Arc<Running>>>,
    /// The change that is being made is an attempt to have it back.
    pub returning: AtomicBool,
    /// Requests that chose between the active one and the canary.
    chosen: AtomicU64,
    /// The highest number that was ever given out, whatever became of it: a late word about an attempt that failed must
    /// not meet another generation.
    highest: AtomicU64,
    preparing: Preparing,
    /// One change at a time.
    change: AsyncMutex<()>,
    /// Breaks off the change that is being made.
    interrupt: Mutex<CancellationToken>,
    pub trouble: watch::Sender<Trouble>,
}

impl Generations {
    pub fn new(fleet: Arc<Fleet>, place: Place, setup: Setup, record: Record) -> Arc<Self> {
        let highest = AtomicU64::new(record.active().map_or(0, |active| active.generation));
        Arc::new(Self {
            fleet,
            place,
            setup,
            record,
            ingress: RwLock::new(Ingress { active: None, canary: None }),
            retiring: Mutex::default(),
            stranded: Mutex::default(),
            returning: AtomicBool::new(false),
            chosen: AtomicU64::new(0),
            highest,
            preparing: Preparing::default(),
            change: AsyncMutex::new(()),
            interrupt: Mutex::default(),
            trouble: watch::Sender::new(Trouble::None),
        })
    }

    /// Notes that this life asks things of nodes.
    pub fn begin(&self) -> Result<()> {
        self.record.begin(self.setup.owner.incarnation)
    }

    fn ingress(&self) -> RwLockReadGuard<'_, Ingress> {
        self.ingress.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn retiring(&self) -> MutexGuard<'_, Vec<Arc<Running>>> {
        self.retiring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn active(&self) -> Option<Arc<Running>> {
        self.ingress().active.clone()
    }

    pub fn canary(&self) -> Option<(Arc<Running>, f64)> {
        self.ingress().canary.as_ref().map(|canary| (Arc::clone(&canary.running), canary.share))
    }

    /// All that have links, by what they are.
    pub fn all(&self) -> Vec<(&'static str, Arc<Running>)> {
        let ingress = self.ingress();
        let active = ingress.active.iter().map(|running| ("active", Arc::clone(running)));
        let canary = ingress.canary.iter().map(|canary| ("canary", Arc::clone(&canary.running)));
        let all = active.chain(canary).collect::<Vec<_>>();
        drop(ingress);
        let retiring = self.retiring();
        all.into_iter().chain(retiring.iter().map(|running| ("draining", Arc::clone(running)))).collect()
    }

    /// The one with this number, if it has links.
    pub fn find(&self, number: u64) -> Option<Arc<Running>> {
        let ingress = self.ingress();
        let canary = ingress.canary.as_ref().map(|canary| &canary.running);
        let found = ingress.active.iter().chain(canary).find(|running| running.number() == number).cloned();
        drop(ingress);
        found.or_else(|| self.retiring().iter().find(|running| running.number() == number).cloned())
    }

    /// The generation for the next request.
    pub fn pick(&self) -> Option<Arc<Running>> {
        let ingress = self.ingress();
        if let Some(canary) = ingress.canary.as_ref().filter(|canary| canary.running.is_up()) {
            let before = self.chosen.fetch_add(1, Ordering::Relaxed) as f64;
            if (before * canary.share).floor() < ((before + 1.0) * canary.share).floor() {
                return Some(Arc::clone(&canary.running));
            }
        }
        ingress.active.clone()
    }

    /// Where nothing is active: what was, and has to be brought back.
    pub fn stranded(&self) -> Option<Arc<Running>> {
        self.stranded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn strand(&self, old: Option<Arc<Running>>) {
        *self.stranded.lock().unwrap_or_else(PoisonError::into_inner) = old;
    }

    /// The right to make a change; `None` while another one is being made.
    pub fn try_change(&self) -> Option<AsyncMutexGuard<'_, ()>> {
        self.change.try_lock().ok()
    }

    /// The same after breaking off whatever is being made: for what cannot wait.
    pub async fn change_now(&self) -> AsyncMutexGuard<'_, ()> {
        loop {
            self.interrupted().cancel();
            if let Ok(change) = tokio::time::timeout(INSIST, self.change.lock()).await {
                return change;
            }
        }
    }

    fn interrupted(&self) -> CancellationToken {
        self.interrupt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a change, until something breaks it off that cannot wait. The caller has the right to make it.
    pub async fn interruptible<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let token = CancellationToken::new();
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        let done = token.run_until_cancelled(work).await;
        done.unwrap_or_else(|| Err(BrokenOff.into()))
    }

    /// Has the next generation prepared, stage i on each of `homes[i]`, and opens its chain.
    pub async fn prepare(
        &self,
        pipeline: &Arc<Pipeline>,
        homes: &[Vec<Arc<Member>>],
        progress: &Arc<dyn Progress>,
    ) -> Result<(Arc<Running>, Tentative)> {
        if let Some(index) = homes.iter().position(Vec::is_empty) {
            bail!("no node of stage {index} answers");
        }
        let known = fleet::highest(homes.iter().flatten(), &pipeline.name).await?;
        let number = known.max(self.highest.load(Ordering::Relaxed)).checked_add(1);
        let number = number.context("a node has a generation of the highest number that there is; drop it there")?;
        self.highest.fetch_max(number, Ordering::Relaxed);
        let mark = self.preparing.mark(number);
        let owner = self.setup.owner.clone();
        let deployment = Arc::new(deploy::place(pipeline, homes, number, owner, self.setup.codec));
        let tentative = Tentative::new(&deployment, mark);
        deployment.prepare(&self.place.artifacts, progress).await?;
        let running = match Running::open(&self.place, Arc::clone(&deployment)).await {
            Ok(running) => running,
            Err(error) => {
                deployment.remove(Duration::ZERO).await;
                return Err(error);
            }
        };
        Ok((running, tentative))
    }

    /// The same, until one of the nodes does not answer.
    pub async fn prepare_on_living(
        &self,
        pipeline: &Arc<Pipeline>,
        homes: &[Vec<Arc<Member>>],
    ) -> Result<(Arc<Running>, Tentative)> {
        const LOOK: Duration = Duration::from_millis(50);
        let progress: Arc<dyn Progress> = Arc::new(());
        let mut prepare = std::pin::pin!(self.prepare(pipeline, homes, &progress));
        loop {
            if let Ok(prepared) = tokio::time::timeout(LOOK, &mut prepare).await {
                return prepared;
            }
            if let Some(lost) = homes.iter().flatten().find(|node| !node.is_up()) {
                bail!("node \"{}\" was lost meanwhile", lost.name());
            }
        }
    }

    /// Makes a prepared generation the active one: requests from the number that this gives on are its own. What was
    /// active before finishes what is in it, unless it is `Lost`.
    ///
    /// # Errors
    /// Where it cannot be noted, or is being dropped; then nothing has changed.
    pub fn commit(self: &Arc<Self>, next: &Arc<Running>, tentative: Option<Tentative>, before: Before) -> Result<u64> {
        if self.retiring().iter().any(|running| Arc::ptr_eq(running, next)) {
            bail!("generation {} is being dropped", next.number());
        }
        let note = || self.record.activate(&next.deployment, &self.setup.given);
        tokio::task::block_in_place(note).context("the new generation cannot be noted as the active one")?;
        let mut ingress = self.ingress.write().unwrap_or_else(PoisonError::into_inner);
        let first = self.place.ledger.turn(next.number(), next.deployment.order());
        let replaced = ingress.active.replace(Arc::clone(next));
        let canary = ingress.canary.take().map(|canary| canary.running);
        let replaced: Vec<_> =
            replaced.into_iter().chain(canary).filter(|running| !Arc::ptr_eq(running, next)).collect();
        // Seen as draining from the first moment.
        self.retiring().extend(replaced.iter().cloned());
        drop(ingress);
        // Not before it is known as the active one.
        if let Some(tentative) = tentative {
            tentative.keep();
        }
        tracing::info!(generation = next.number(), first_seq = first, "active");
        for running in replaced {
            tokio::spawn(Arc::clone(self).retire(running, before));
        }
        Ok(first)
    }

    /// Sends a share of the requests to a prepared generation; none before the number that this gives is its own.
    pub fn try_out(&self, next: &Arc<Running>, tentative: Tentative, share: f64) -> u64 {
        let mut ingress = self.ingress.write().unwrap_or_else(PoisonError::into_inner);
        let first = self.place.ledger.open(next.number(), next.deployment.order());
        ingress.canary = Some(Canary { running: Arc::clone(next), share });
        drop(ingress);
        tentative.keep();
        tracing::info!(generation = next.number(), share, "on trial");
        first
    }

    /// Ends the trial; what is in the canary finishes there.
    pub fn abort(self: &Arc<Self>, before: Before) -> Option<Arc<Running>> {
        let mut ingress = self.ingress.write().unwrap_or_else(PoisonError::into_inner);
        let running = ingress.canary.take()?.running;
        self.place.ledger.shut(running.number());
        self.retiring().push(Arc::clone(&running));
        drop(ingress);
        tracing::info!(generation = running.number(), "trial aborted");
        tokio::spawn(Arc::clone(self).retire(Arc::clone(&running), before));
        Some(running)
    }

    /// Takes the active generation away, before another one is there: requests are refused meanwhile.
    pub async fn stop_active(self: &Arc<Self>) {
        let stopped = {
            let mut ingress = self.ingress.write().unwrap_or_else(PoisonError::into_inner);
            let Some(running) = ingress.active.take() else { return };
            self.place.ledger.shut(running.number());
            self.retiring().push(Arc::clone(&running));
            running
        };
        Arc::clone(self).retire(stopped, Before::Finishes).await;
    }

    async fn retire(self: Arc<Self>, old: Arc<Running>, before: Before) {
        let end = Instant::now() + if before == Before::Finishes { DRAIN } else { Duration::ZERO };
        while self.place.ledger.pending_in(old.number()) > 0 && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        self.restart(&old).await;
        {
            // Held, so that it does not become the active one meanwhile.
            let ingress = self.ingress();
            if ingress.active.as_ref().is_some_and(|active| Arc::ptr_eq(active, &old)) {
                tracing::error!(generation = old.number(), "the active generation was to be dropped; it stays");
                drop(ingress);
                return self.retiring().retain(|running| !Arc::ptr_eq(running, &old));
            }
            old.close();
        }
        self.place.ledger.close(old.number());
        old.deployment.remove(if before == Before::Finishes { ECHOES } else { Duration::ZERO }).await;
        self.retiring().retain(|running| !Arc::ptr_eq(running, &old));
        tracing::info!(generation = old.number(), "dropped");
        self.tidy(None);
    }

    /// Has what is pending in `old` start again in the active generation.
    pub async fn restart(&self, old: &Running) {
        let (frames, to) = {
            // Held: a turn meanwhile would leave them in a generation that nobody looks after.
            let ingress = self.ingress();
            let Some(to) = ingress.active.clone() else { return };
            let renumber = |parts: &_| to.renumber(parts, &old.entering);
            (self.place.ledger.restart(old.number(), to.number(), renumber), to)
        };
        if !frames.is_empty() {
            tracing::info!(requests = frames.len(), from = old.number(), to = to.number(), "starting requests again");
        }
        for frame in frames {
            to.feed(frame).await;
        }
    }

    /// Makes room among the artifacts here, but not by `newest`, which somebody has just sent.
    pub fn tidy(&self, newest: Option<Digest>) {
        let all = self.all();
        let stranded = self.stranded();
        let all = all.iter().map(|(_, running)| running).chain(&stranded);
        let stages = all.flat_map(|running| &running.deployment.stages);
        let mut used: HashSet<Digest> = stages.map(|stage| stage.assignment.artifact).collect();
        used.extend(self.setup.given.iter().copied().chain(newest));
        self.place.artifacts.evict(&used);
    }

    /// Whether `generation` is one that this dispatcher uses, or is about to.
    pub fn knows(&self, generation: u64) -> bool {
        self.preparing.has(generation) || self.all().iter().any(|(_, running)| running.number() == generation)
    }

    /// Ends all links and frees all nodes.
    pub async fn end(&self) {
        let all = self.all();
        all.iter().for_each(|(_, running)| running.close());
        futures_util::future::join_all(all.iter().map(|(_, running)| running.deployment.remove(Duration::ZERO))).await;
    }
}

/// What becomes of the generation that another one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It finishes what is in it.
    Finishes,
    /// It cannot: what is in it starts again in the new one.
    IsLost,
}
