//! A port's connections: how many there may be, and who makes room when there are too many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The places of one port. Clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Seat>,
}

/// So much longer may a peer be idle that was served than one that never asked for anything: the next request may be on
/// its way.
const SERVED: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Seat {
    /// Since when it has been idle, [`SERVED`] later where it was served; `None` while it is being served.
    idle: Option<Instant>,
    evicted: CancellationToken,
}

/// Everybody is being served, and there are no more places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {0} connections of this port are in use (--max-connections); come again later")]
pub struct Full(pub usize);

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    number: u64,
    evicted: CancellationToken,
}

/// While it lives, its connection is being served and keeps its place.
#[derive(Debug)]
pub struct Busy {
    shared: Arc<Shared>,
    number: u64,
}

impl Places {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit: limit.max(1), seats: Mutex::default() }))
    }

    /// A place for a new connection. Where there is none, the one that has been idle the longest loses its own.
    ///
    /// # Errors
    /// When all are being served.
    pub fn take(&self) -> Result<Place, Full> {
        let mut seats = self.0.lock();
        if seats.taken.len() >= self.0.limit {
            let idle = seats.taken.iter().filter_map(|(&number, seat)| Some((seat.idle?, number)));
            let Some((_, number)) = idle.min() else { return Err(Full(self.0.limit)) };
            if let Some(seat) = seats.taken.remove(&number) {
                seat.evicted.cancel();
            }
        }
        let number = seats.next;
        seats.next += 1;
        let evicted = CancellationToken::new();
        let seat = Seat { idle: Some(Instant::now()), evicted: evicted.clone() };
        seats.taken.insert(number, seat);
        Ok(Place { shared: Arc::clone(&self.0), number, evicted })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_idle(&self, number: u64, idle: Option<Instant>) {
        // One that was evicted has no place any more.
        if let Some(seat) = self.lock().taken.get_mut(&number) {
            seat.idle = idle;
        }
    }
}

impl Place {
    /// Keeps the place until the result is dropped.
    pub fn busy(&self) -> Busy {
        self.shared.set_idle(self.number, None);
        Busy { shared: Arc::clone(&self.shared), number: self.number }
    }

    /// Completes when somebody else got the place: the connection must end.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().taken.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.set_idle(self.number, Some(Instant::now() + SERVED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(place: &Place) -> bool {
        place.evicted.is_cancelled()
    }

    #[test]
    fn the_idlest_makes_room_and_who_is_served_keeps_his_place() {
        let places = Places::new(3);
        let served = places.take().unwrap();
        drop(served.busy());
        let (silent, busy) = (places.take().unwrap(), places.take().unwrap());
        let held = busy.busy();
        // The one that was served has been idle for longer, but not by so much.
        let newer = places.take().unwrap();
        assert!(is_evicted(&silent) && !is_evicted(&served) && !is_evicted(&busy));
        let _held_too = newer.busy();
        let last = places.take().unwrap();
        assert!(is_evicted(&served) && !is_evicted(&newer));
        let _held_as_well = last.busy();
        assert_eq!(places.take().unwrap_err(), Full(3));
        // An evicted one's end gives nothing back twice.
        drop((silent, served));
        assert_eq!(places.take().unwrap_err(), Full(3));
        drop(held);
        assert!(places.take().is_ok() && is_evicted(&busy));
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let places = Places::new(1);
        for _ in 0..3 {
            let place = places.take().unwrap();
            let _busy = place.busy();
            assert!(places.take().is_err());
        }
    }
}
