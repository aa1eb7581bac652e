//! Threads that an engine does not give back. They cannot be ended, so they are counted until they return, and there is a
//! limit to how many a process takes upon itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many at once: each keeps its session's memory, and the processor busy. At the limit no stage gets another thread,
/// and no further one is loaded.
pub const LIMIT: usize = 4;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many there are.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// Counts one thread until dropped.
#[derive(Debug)]
struct Counted(());

impl Counted {
    fn new() -> Self {
        COUNT.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Work that one thread does and another may give up. Who gives it up gets the `T` that belongs to the work, and the
/// thread that comes back finds it gone.
#[derive(Debug)]
pub struct Charge<T>(Mutex<Phase<T>>);

#[derive(Debug)]
enum Phase<T> {
    Idle,
    Working(T),
    Abandoned { _counted: Counted },
}

impl<T> Default for Charge<T> {
    fn default() -> Self {
        Self(Mutex::new(Phase::Idle))
    }
}

impl<T> Charge<T> {
    /// The work begins.
    pub fn begin(&self, held: T) {
        *self.lock() = Phase::Working(held);
    }

    /// The work is over. `None` if it was given up: then its thread counts no longer, and nobody waits for its result.
    pub fn end(&self) -> Option<T> {
        match std::mem::replace(&mut *self.lock(), Phase::Idle) {
            Phase::Working(held) => Some(held),
            Phase::Idle | Phase::Abandoned { .. } => None,
        }
    }

    /// Gives the work up, if it is under way.
    pub fn give_up(&self) -> Option<T> {
        let mut phase = self.lock();
        match std::mem::replace(&mut *phase, Phase::Idle) {
            Phase::Working(held) => {
                *phase = Phase::Abandoned { _counted: Counted::new() };
                Some(held)
            }
            other => {
                *phase = other;
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Phase<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Charge, count};

    #[test]
    fn what_is_given_up_is_counted_until_it_comes_back() {
        let charge = Charge::default();
        assert_eq!(charge.give_up(), None);
        charge.begin("a");
        assert_eq!((charge.end(), charge.give_up(), count()), (Some("a"), None, 0));
        charge.begin("b");
        assert_eq!((charge.give_up(), charge.give_up(), count()), (Some("b"), None, 1));
        assert_eq!((charge.end(), count()), (None, 0));
    }
}
