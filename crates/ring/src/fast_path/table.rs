//! The memory of the table.

use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{ABANDONED, BUCKETS, FlowKey, LIFE, OWNER, SEEN, SLOT_BYTES, SLOTS, UNTIL};
use crate::map::Map;

/// Place of a flow in a [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

/// What became of a flow that was to be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It has an entry that it did not have, or that another worker had.
    Fresh(Slot),
    /// The worker's own entry holds longer now.
    Renewed(Slot),
    /// Its bucket has no place.
    Full,
}

/// The table, mapped.
#[derive(Debug)]
pub struct Table {
    map: Map,
}

impl Table {
    /// Bytes of the table.
    pub const LEN: usize = (BUCKETS * SLOTS * SLOT_BYTES) as usize;

    /// Maps the table with this descriptor.
    ///
    /// # Errors
    /// When it cannot be mapped, as a map of BPF that is smaller cannot.
    pub fn map(file: impl AsFd) -> std::io::Result<Self> {
        Ok(Self { map: Map::new(file, Self::LEN, true)? })
    }

    fn word(&self, slot: Slot, offset: u32) -> &AtomicU64 {
        self.map.u64((slot.0 * SLOT_BYTES + offset) as usize)
    }

    fn key_words<'a>(
        &'a self,
        slot: Slot,
        key: &'a FlowKey,
    ) -> impl Iterator<Item = (&'a AtomicU64, u64)> {
        (0..).step_by(8).map(move |offset| self.word(slot, offset)).zip(key.words().iter().copied())
    }

    fn has(&self, slot: Slot, key: &FlowKey) -> bool {
        self.key_words(slot, key).all(|(word, wanted)| word.load(Ordering::Relaxed) == wanted)
    }

    /// Lets the packets of a flow pass from `now` on, for the worker `owner`. A number of its own tells each worker
    /// from others, also from those of processes that are gone.
    pub fn enter(&self, key: &FlowKey, owner: NonZeroU64, now: u64) -> Entered {
        let first = key.bucket() * SLOTS;
        let slots = || (first..first + SLOTS).map(Slot);
        let until = now + nanoseconds(LIFE);
        for slot in slots().filter(|slot| self.has(*slot, key)) {
            let before = self.word(slot, OWNER).load(Ordering::Acquire);
            if before == owner.get() {
                self.word(slot, UNTIL).store(until, Ordering::Release);
                self.word(slot, SEEN).fetch_max(now, Ordering::Relaxed);
                return Entered::Renewed(slot);
            }
            if before != 0 && self.take(slot, before, owner) {
                self.write(slot, key, now, until);
                return Entered::Fresh(slot);
            }
        }
        for slot in slots() {
            let before = self.word(slot, OWNER).load(Ordering::Acquire);
            if (before == 0 || self.is_abandoned(slot, now)) && self.take(slot, before, owner) {
                self.write(slot, key, now, until);
                return Entered::Fresh(slot);
            }
        }
        Entered::Full
    }

    fn is_abandoned(&self, slot: Slot, now: u64) -> bool {
        let until = self.word(slot, UNTIL).load(Ordering::Relaxed);
        until.saturating_add(nanoseconds(ABANDONED)) < now
    }

    fn take(&self, slot: Slot, before: u64, owner: NonZeroU64) -> bool {
        let word = self.word(slot, OWNER);
        word.compare_exchange(before, owner.get(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Writes an entry that this worker has. The program may meet it half written: then no time holds, or that of
    /// the new flow does for a packet of the old one, which was allowed to pass a moment ago.
    fn write(&self, slot: Slot, key: &FlowKey, now: u64, until: u64) {
        self.word(slot, UNTIL).store(0, Ordering::Release);
        for (word, value) in self.key_words(slot, key) {
            word.store(value, Ordering::Relaxed);
        }
        self.word(slot, SEEN).store(now, Ordering::Relaxed);
        self.word(slot, UNTIL).store(until, Ordering::Release);
    }

    /// When the flow of this slot was last seen, and until when it passes; `None` when another worker has the slot.
    pub fn times(&self, slot: Slot, owner: NonZeroU64) -> Option<(u64, u64)> {
        let is_own = self.word(slot, OWNER).load(Ordering::Acquire) == owner.get();
        let [seen, until] =
            [SEEN, UNTIL].map(|offset| self.word(slot, offset).load(Ordering::Relaxed));
        is_own.then_some((seen, until))
    }

    /// Ends an entry of the worker `owner`: from now on no packet passes.
    pub fn remove(&self, slot: Slot, owner: NonZeroU64) {
        let word = self.word(slot, OWNER);
        if word.load(Ordering::Acquire) == owner.get() {
            self.word(slot, UNTIL).store(0, Ordering::Release);
            // Another worker may just have taken it, after a long time.
            let _ = word.compare_exchange(owner.get(), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::flow::tests::frame;
    use super::*;
    use crate::map::memory_file;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1000 * SECOND;

    fn table() -> Table {
        Table::map(memory_file("table", Table::LEN).unwrap()).unwrap()
    }

    fn worker(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).unwrap()
    }

    fn flow(port: u16) -> FlowKey {
        FlowKey::of(&frame(port.is_multiple_of(2), 17, port, 0)).unwrap()
    }

    #[test]
    fn a_flow_enters_is_renewed_and_leaves() {
        let (table, owner) = (table(), worker(7));
        let Entered::Fresh(slot) = table.enter(&flow(1), owner, START) else { panic!("fresh") };
        assert_eq!(table.times(slot, owner), Some((START, START + 30 * SECOND)));
        assert_eq!(table.times(slot, worker(8)), None, "not its own");
        let later = START + SECOND;
        assert_eq!(table.enter(&flow(1), owner, later), Entered::Renewed(slot));
        assert_eq!(table.times(slot, owner), Some((later, later + 30 * SECOND)));
        // A worker that the flow comes to now has it from then on.
        let other = worker(9);
        assert_eq!(table.enter(&flow(1), other, later), Entered::Fresh(slot));
        table.remove(slot, owner);
        assert_eq!(table.times(slot, other), Some((later, later + 30 * SECOND)));
        table.remove(slot, other);
        assert_eq!(table.times(slot, other), None);
        assert_eq!(table.word(slot, UNTIL).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_bucket_refuses_until_an_entry_is_abandoned() {
        let table = table();
        let bucket = flow(1).bucket();
        let crowd: Vec<FlowKey> = (1..=u16::MAX)
            .map(|port| FlowKey::of(&frame(false, 17, port, 0)).unwrap())
            .chain((1..=u16::MAX).map(|port| FlowKey::of(&frame(true, 17, port, 0)).unwrap()))
            .filter(|flow| flow.bucket() == bucket)
            .take(5)
            .collect();
        let [flows @ .., last] = &crowd[..] else { panic!("no crowd") };
        assert_eq!(flows.len(), 4);
        for flow in flows {
            assert!(matches!(table.enter(flow, worker(1), START), Entered::Fresh(_)));
        }
        assert_eq!(table.enter(last, worker(2), START), Entered::Full);
        let end = START + 60 * SECOND;
        assert_eq!(table.enter(last, worker(2), end), Entered::Full, "its owner may still be");
        assert!(matches!(table.enter(last, worker(2), end + 1), Entered::Fresh(_)));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert!(Table::map(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
