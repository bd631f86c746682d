//! Places for connections: when all are taken, the connection that has waited longest without a request
//! makes room, so half-open connections keep nobody out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::connection::Pace;

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Seats {
    limit: AtomicUsize,
    next: AtomicU64,
    /// By age.
    taken: Mutex<BTreeMap<u64, (Pace, Arc<Notify>)>>,
}

/// The place of one connection.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// Where the connection is between its requests.
    pub(crate) pace: Pace,
    evicted: Arc<Notify>,
}

/// How a connection got its place.
#[derive(Debug)]
pub(crate) enum Entry {
    /// There was room.
    Free(Seat),
    /// Another connection has to go.
    Evicting(Seat),
    /// Every connection is busy with a request.
    Full,
}

impl Seats {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let taken = Mutex::new(BTreeMap::new());
        Arc::new(Self { limit: AtomicUsize::new(limit), next: AtomicU64::new(0), taken })
    }

    /// Changes the number of places; who has one keeps it.
    pub(crate) fn resize(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Places that are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.lock().len()
    }

    /// Takes a place.
    pub(crate) fn enter(self: &Arc<Self>) -> Entry {
        let number = self.next.fetch_add(1, Relaxed);
        let seat = Seat {
            seats: Arc::clone(self),
            number,
            pace: Pace::new(),
            evicted: Arc::new(Notify::new()),
        };
        let mut taken = self.taken.lock();
        let mut evicting = false;
        if taken.len() >= self.limit.load(Relaxed) {
            let idle = taken.iter().find(|(_, (pace, _))| !pace.is_busy()).map(|(n, _)| *n);
            let Some((_, evicted)) = idle.and_then(|number| taken.remove(&number)) else {
                // The seat's drop takes this lock.
                drop(taken);
                return Entry::Full;
            };
            evicted.notify_one();
            evicting = true;
        }
        taken.insert(number, (seat.pace.clone(), Arc::clone(&seat.evicted)));
        drop(taken);
        if evicting { Entry::Evicting(seat) } else { Entry::Free(seat) }
    }
}

impl Seat {
    /// Returns when the place is given to another connection.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(entry: Entry) -> Seat {
        match entry {
            Entry::Free(seat) | Entry::Evicting(seat) => seat,
            Entry::Full => panic!("full"),
        }
    }

    #[tokio::test]
    async fn the_oldest_without_a_request_makes_room() {
        let seats = Seats::new(2);
        let busy = seat(seats.enter());
        busy.pace.request();
        let idle = seat(seats.enter());
        let third = seats.enter();
        assert!(matches!(third, Entry::Evicting(_)));
        idle.evicted().await;
        drop(idle);
        let third = seat(third);
        third.pace.request();
        assert!(matches!(seats.enter(), Entry::Full));
        drop(busy);
        assert!(matches!(seats.enter(), Entry::Free(_)));
        assert_eq!(seats.taken.lock().len(), 1, "the free one left again");
    }
}
