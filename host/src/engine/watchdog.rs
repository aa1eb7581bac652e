//! Rings when something takes too long. One thread for the whole process, asleep until the earliest deadline: a call that
//! ends in time costs two short locks and no thread switch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// What to do about something that took too long.
pub trait Alarm: Send + Sync {
    /// Called once, at the deadline, while the watchdog is locked: it must be quick, and not call the watchdog.
    fn ring(&self);
}

/// An alarm that stops a session's runs.
pub trait Brake: Alarm {
    /// Lets the session run again.
    fn release(&self);
}

/// Deadline and number, which tells equal deadlines apart.
type Key = (Instant, u64);

#[derive(Default)]
struct State {
    alarms: BTreeMap<Key, Arc<dyn Alarm>>,
    number: u64,
    /// When the thread wakes up without being woken; `None` for never.
    wakes: Option<Instant>,
}

#[derive(Default)]
struct Watchdog {
    state: Mutex<State>,
    earlier: Condvar,
}

static WATCHDOG: LazyLock<Arc<Watchdog>> = LazyLock::new(|| {
    let watchdog = Arc::new(Watchdog::default());
    let of = Arc::clone(&watchdog);
    let started = thread::Builder::new().name("watchdog".to_owned()).spawn(move || of.watch());
    started.expect("a process that runs stages can start one more thread");
    watchdog
});

/// Starts the thread, with the priority of the calling one, unless there is one.
pub fn start() {
    LazyLock::force(&WATCHDOG);
}

/// Something that is being watched, until this is dropped. After that its alarm does not ring any more.
#[must_use = "dropping it ends the watch"]
pub struct Watch(Key);

/// Rings `alarm` at `deadline`, unless the result is dropped before.
pub fn watch(deadline: Instant, alarm: Arc<dyn Alarm>) -> Watch {
    let mut state = WATCHDOG.lock();
    state.number += 1;
    let key = (deadline, state.number);
    state.alarms.insert(key, alarm);
    if state.wakes.is_none_or(|wakes| deadline < wakes) {
        // Said here, so that a second call before the thread is awake does not wake it again.
        state.wakes = Some(deadline);
        WATCHDOG.earlier.notify_one();
    }
    Watch(key)
}

impl Watch {
    /// Ends the watch; whether the alarm has rung.
    pub fn end(self) -> bool {
        let rang = WATCHDOG.lock().alarms.remove(&self.0).is_none();
        std::mem::forget(self);
        rang
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHDOG.lock().alarms.remove(&self.0);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.0.0).finish()
    }
}

impl Watchdog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            while let Some(first) = state.alarms.first_entry().filter(|first| first.key().0 <= now) {
                first.remove().ring();
            }
            state.wakes = state.alarms.first_key_value().map(|((deadline, _), _)| *deadline);
            state = match state.wakes {
                Some(deadline) => {
                    let waited = self.earlier.wait_timeout(state, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.earlier.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    struct Told(u32, Mutex<Sender<u32>>);

    impl Alarm for Told {
        fn ring(&self) {
            self.1.lock().unwrap_or_else(PoisonError::into_inner).send(self.0).unwrap_or_default();
        }
    }

    #[test]
    fn alarms_ring_in_the_order_of_their_deadlines_and_not_after_the_watch_ends() {
        let (tell, told) = channel();
        let now = Instant::now();
        let watches: Vec<Watch> = [60, 10, 30, 20, 10_000]
            .map(|ms| watch(now + Duration::from_millis(ms), Arc::new(Told(ms as u32, Mutex::new(tell.clone())))))
            .into();
        let mut watches = watches.into_iter();
        let (last, first) = (watches.next().expect("five"), watches.next().expect("five"));
        drop(watches.next()); // that of 30 ms
        let rest: Vec<Watch> = watches.collect();
        let heard: Vec<u32> = (0..3).filter_map(|_| told.recv_timeout(Duration::from_secs(5)).ok()).collect();
        assert_eq!(heard, [10, 20, 60]);
        assert!(now.elapsed() >= Duration::from_millis(60));
        assert!(last.end() && first.end());
        assert_eq!(rest.into_iter().map(Watch::end).collect::<Vec<_>>(), [true, false]);
    }
}
