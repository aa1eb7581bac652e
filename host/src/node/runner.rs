//! The thread of a slot that computes, and what becomes of the slot when the engine does not give that thread back.
//!
//! In the ordinary case nothing is handed from thread to thread. The watchdog knows each call; one that is over its time
//! although the engine was told to stop is given up: a new thread answers its request with a failure, takes over the
//! slot's queues, and goes on with a fresh session. The old thread ends when the engine returns, if it ever does.

use super::loaded::Loaded;
use super::slot::{Job, Shared, Tensors};
use crate::engine::abandoned::{self, Charge};
use crate::engine::watchdog::{Alarm, watch};
use crate::engine::{Named, SharedSession};
use crate::relay::frame::{Failure, FailureKind, Tag};
use crate::sandbox::{Instance, RunError};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a request waits for the fresh session before it fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two attempts at a fresh session.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(10);
/// How often a slot that does not compute looks whether it can again, where nobody asks it to.
const LOOK: Duration = Duration::from_secs(1);
/// Requests that are remembered for having taken too long.
const REMEMBERED: usize = 64;

/// Whether a slot computes, and what it will not compute again.
#[derive(Debug, Default)]
pub struct Health(Mutex<Condition>);

#[derive(Debug, Default)]
struct Condition {
    failure: Option<String>,
    /// Since when no fresh session is to be had, either.
    given_up: Option<Instant>,
    /// Dispatcher incarnation and number of requests that took too long. A dispatcher that had no answer for a while sends
    /// them again, and each would cost its full time again, or a thread.
    late: VecDeque<(u64, u64)>,
}

impl Health {
    /// Why the slot does not compute, if it does not.
    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Why it does not, and since when, where this is no matter of moments.
    pub fn given_up(&self) -> Option<(String, Instant)> {
        let condition = self.lock();
        Some((condition.failure.clone()?, condition.given_up?))
    }

    fn recover(&self) {
        let mut condition = self.lock();
        (condition.failure, condition.given_up) = (None, None);
    }

    /// For as long as it takes to have a fresh session.
    fn fail(&self, cause: String) {
        self.lock().failure = Some(cause);
    }

    fn give_up(&self, cause: String) {
        let mut condition = self.lock();
        condition.failure = Some(cause);
        condition.given_up.get_or_insert_with(Instant::now);
    }

    fn remember(&self, tag: &Tag) {
        let late = &mut self.lock().late;
        if late.len() == REMEMBERED {
            late.pop_front();
        }
        late.push_back((tag.incarnation, tag.seq));
    }

    fn was_late(&self, tag: &Tag) -> bool {
        self.lock().late.contains(&(tag.incarnation, tag.seq))
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot's queues around the computation.
pub(super) struct Queues {
    pub jobs: Receiver<Job<Vec<Named>>>,
    pub next: SyncSender<Job<Vec<Named>>>,
}

/// What is left of a job while its tensors are in the engine.
struct Stub {
    tag: Tag,
    deadline: Option<Instant>,
    limit: Limit,
}

/// When a call has to be over, and who says so. An engine is told to stop at the first limit that comes; its thread is given
/// up at the node's own only: what a client's impatience, or a queue, has cost is no reason to give up a healthy engine.
#[derive(Clone, Copy)]
struct Limit {
    at: Instant,
    kind: FailureKind,
}

impl Limit {
    /// The node's limit for a call that begins now.
    fn own(loaded: &Loaded) -> Self {
        Self { at: Instant::now() + loaded.limits().engine_time, kind: FailureKind::Stage }
    }

    /// The job's deadline, if that comes before `self`.
    fn or_deadline(self, deadline: Option<Instant>) -> Self {
        match deadline {
            Some(deadline) if deadline <= self.at => Self { at: deadline, kind: FailureKind::Expired },
            _ => self,
        }
    }

    fn cause(self, loaded: &Loaded) -> String {
        match self.kind {
            FailureKind::Expired => "its time budget ended while the engine computed".to_owned(),
            _ => {
                let seconds = loaded.limits().engine_time.as_secs_f64();
                format!("the engine computed for longer than {seconds} s (serve --engine-timeout)")
            }
        }
    }
}

/// A call that the watchdog knows.
struct Call {
    shared: Arc<Shared>,
    charge: Charge<(Queues, Stub)>,
    session: Mutex<Option<SharedSession>>,
}

impl Alarm for Call {
    fn ring(&self) {
        let Some((queues, stub)) = self.charge.give_up() else { return };
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let shared = Arc::clone(&self.shared);
        // Without a thread the queues end here, and with them the slot.
        let of = Arc::clone(&shared);
        if let Err(error) = of.thread("run", move || shared.take_over(queues, stub, session)) {
            tracing::error!(%error, "cannot replace a thread that the engine keeps");
            of.health.give_up(format!("no thread in the place of one that the engine keeps: {error}"));
        }
    }
}

/// What the thread computes on.
enum Seat {
    Ready(Instance),
    /// A fresh session is on its way.
    Awaited {
        told: Receiver<Result<Instance, String>>,
        until: Instant,
        cause: String,
    },
    Failed {
        cause: String,
        again: Instant,
    },
}

impl Shared {
    /// Computes whatever `queues` bring, until they end.
    pub fn compute_all(self: &Arc<Self>, instance: Instance, queues: Queues) {
        self.compute(Seat::Ready(instance), queues);
    }

    fn compute(self: &Arc<Self>, mut seat: Seat, mut queues: Queues) {
        let call = Arc::new(Call { shared: Arc::clone(self), charge: Charge::default(), session: Mutex::default() });
        while let Some(mut job) = self.next_job(&mut seat, &queues) {
            // From here on there is room for another frame.
            job.credit = None;
            let Job { tag, deadline, content, mut work, .. } = job;
            let content = match content.and_then(|tensors| Ok((self.ready(&mut seat, &tag, deadline)?, tensors))) {
                Err(failure) => Err(failure),
                Ok((instance, Tensors { own, forwards })) => {
                    let own_limit = Limit::own(&self.loaded);
                    let limit = own_limit.or_deadline(deadline);
                    *call.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(instance.session()));
                    call.charge.begin((queues, Stub { tag, deadline, limit: own_limit }));
                    let watch = watch(own_limit.at + self.loaded.grace(), Arc::clone(&call) as Arc<dyn Alarm>);
                    let result = instance.run_until(Some(limit.at), own);
                    drop(watch);
                    let Some((back, _)) = call.charge.end() else {
                        tracing::info!(stage = self.identity.stage, "the engine gave an abandoned thread back");
                        return;
                    };
                    queues = back;
                    match result {
                        Ok(outcome) => {
                            work = self.cores.together(work, outcome.total);
                            self.counters.compute.record(outcome.engine);
                            self.counters.drift.record(outcome.engine);
                            self.counters.sandbox.record(outcome.total.saturating_sub(outcome.engine));
                            Ok(Tensors { own: outcome.outputs, forwards })
                        }
                        Err(RunError::Stopped) => {
                            self.health.remember(&tag);
                            Err(self.failure(limit.kind, limit.cause(&self.loaded)))
                        }
                        Err(error) => Err(self.run_failure(&error)),
                    }
                }
            };
            if queues.next.send(Job { tag, deadline, content, work, credit: None }).is_err() {
                return;
            }
        }
    }

    /// The next request; until it comes, a slot that does not compute tries to again.
    fn next_job(self: &Arc<Self>, seat: &mut Seat, queues: &Queues) -> Option<Job<Vec<Named>>> {
        loop {
            if matches!(seat, Seat::Ready(_)) {
                return queues.jobs.recv().ok();
            }
            match queues.jobs.recv_timeout(LOOK) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.settle(seat, Some(Instant::now())),
            }
        }
    }

    /// The instance to compute on, if there is one and the request is worth its time.
    fn ready<'a>(
        self: &Arc<Self>,
        seat: &'a mut Seat,
        tag: &Tag,
        deadline: Option<Instant>,
    ) -> Result<&'a mut Instance, Failure> {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(self.failure(FailureKind::Expired, "its time budget was used up".to_owned()));
        }
        if self.health.was_late(tag) {
            let cause = "the same request took too long before, and is not computed again".to_owned();
            return Err(self.failure(FailureKind::Stage, cause));
        }
        self.settle(seat, deadline);
        match seat {
            Seat::Ready(instance) => {
                // Another slot of this artifact may have had to replace the session.
                if !self.loaded.is_current(instance.session()) {
                    *instance = self.loaded.instance().map_err(|error| self.run_failure(&error.into()))?;
                }
                Ok(instance)
            }
            Seat::Awaited { cause, .. } | Seat::Failed { cause, .. } => {
                Err(self.failure(FailureKind::Stage, format!("the stage does not compute at present: {cause}")))
            }
        }
    }

    /// Takes in a fresh session that has come, waiting for it a little, and asks for another if the last could not be had.
    fn settle(self: &Arc<Self>, seat: &mut Seat, deadline: Option<Instant>) {
        if let Seat::Failed { cause, again } = seat
            && Instant::now() >= *again
            && abandoned::count() < abandoned::LIMIT
        {
            *seat = self.await_fresh(cause.clone(), None);
        }
        let Seat::Awaited { told, until: patience, cause } = seat else { return };
        let until = deadline.map_or(*patience, |deadline| deadline.min(*patience));
        match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Ok(instance)) => {
                tracing::info!(stage = self.identity.stage, "computing again, on a fresh session");
                self.health.recover();
                *seat = Seat::Ready(instance);
            }
            Ok(Err(error)) => *seat = self.failed(format!("{cause}; and then: {error}")),
            Err(RecvTimeoutError::Timeout) if Instant::now() < *patience => {}
            // It may still come; until then somebody else had better have the stage.
            Err(RecvTimeoutError::Timeout) => self.health.give_up(cause.clone()),
            Err(RecvTimeoutError::Disconnected) => *seat = self.failed(cause.clone()),
        }
    }

    fn failed(&self, cause: String) -> Seat {
        self.health.give_up(cause.clone());
        Seat::Failed { cause, again: Instant::now() + BETWEEN_ATTEMPTS }
    }

    /// Goes on with the queues of a call that was given up.
    fn take_over(self: &Arc<Self>, queues: Queues, stub: Stub, session: Option<SharedSession>) {
        let Stub { tag, deadline, limit } = stub;
        let cause = format!("{}, and would not stop", limit.cause(&self.loaded));
        let abandoned = abandoned::count();
        tracing::warn!(stage = self.identity.stage, abandoned, cause, "a thread is abandoned to the engine");
        self.health.remember(&tag);
        self.health.fail(cause.clone());
        if let Some(session) = &session {
            self.loaded.stick(session);
        }
        let failure = self.failure(limit.kind, cause.clone());
        // Before the failure is out: who has heard it and then asks for the stage's state must hear what follows from it.
        let seat = match abandoned < abandoned::LIMIT {
            true => self.await_fresh(cause, session),
            false => self.failed(format!("{cause}; {abandoned} threads are in that state, no more are given")),
        };
        if queues.next.send(Job { tag, deadline, content: Err(failure), work: Duration::ZERO, credit: None }).is_err() {
            return;
        }
        self.compute(seat, queues);
    }

    /// Has a fresh session loaded in place of `stuck`, or of the one that is in use.
    fn await_fresh(self: &Arc<Self>, cause: String, stuck: Option<SharedSession>) -> Seat {
        let (tell, told) = sync_channel(1);
        let of = Arc::clone(self);
        let started = self.thread("renew", move || {
            let fresh = of.loaded.renew(stuck.as_ref()).and_then(|()| Ok(of.loaded.instance()?));
            if fresh.is_ok() {
                // Who goes by readiness sends nothing until it is said.
                of.health.recover();
            }
            // Nobody listens any more where the slot is gone.
            let _ = tell.send(fresh.map_err(|error| error.to_string()));
        });
        match started {
            Ok(()) => Seat::Awaited { told, until: Instant::now() + PATIENCE, cause },
            Err(error) => self.failed(format!("{cause}; and then: {error}")),
        }
    }

    fn thread(&self, what: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let name = format!("{what} {}/{}", self.identity.pipeline, self.identity.stage);
        thread::Builder::new().name(name).spawn(work).map(drop)
    }
}
