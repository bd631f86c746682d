//! Parts of registrations in progress, and the replies to those that are whole
//! (`spec/registrar.md` 9.8). Bounded in number, bytes and age; when it is full the oldest entry goes,
//! because a registration that is not whole after its table has turned over never will be.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Most parts of one registration.
pub const MAX_PARTS: u32 = 10;

/// Bounds of a [`Parts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartsLimits {
    /// Registrations.
    pub ids: usize,
    /// Bytes of parts and replies.
    pub bytes: usize,
    /// Time from the first part on.
    pub age: Duration,
}

impl Default for PartsLimits {
    fn default() -> Self {
        Self { ids: 100_000, bytes: 64 << 20, age: Duration::from_secs(30) }
    }
}

/// What was thrown away, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops {
    /// Registrations that were never whole in time.
    pub expired: u64,
    /// Registrations, whole or not, that made room for newer ones.
    pub evicted: u64,
    /// Parts without a usable id, number or total.
    pub malformed: u64,
    /// Parts that contradict an earlier one.
    pub contradicting: u64,
}

/// Name of a registration: the client's id for parts, the hash of a whole message.
pub(super) type Id = [u8; 32];

/// One part, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) id: Id,
    pub(super) number: u32,
    pub(super) total: u32,
    /// A part without data leaves its place empty; empty data fills it.
    pub(super) data: Option<Vec<u8>>,
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing to say.
    Silent,
    /// Other parts are missing.
    Waiting,
    /// The reply to the whole registration.
    Done(Vec<u8>),
}

#[derive(Debug)]
enum Entry {
    Gathering {
        parts: Vec<Option<Vec<u8>>>,
    },
    /// The reply; `None` when there is none to give.
    Done {
        total: usize,
        reply: Option<Vec<u8>>,
    },
}

impl Entry {
    fn total(&self) -> usize {
        match self {
            Self::Gathering { parts } => parts.len(),
            Self::Done { total, .. } => *total,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Gathering { parts } => parts.iter().flatten().map(Vec::len).sum(),
            Self::Done { reply, .. } => reply.as_ref().map_or(0, Vec::len),
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Parts {
    limits: PartsLimits,
    /// Ordered, so that no choice of ids makes it slow.
    entries: BTreeMap<Id, Entry>,
    /// Ids by the time of their first part.
    order: VecDeque<(Duration, Id)>,
    bytes: usize,
    drops: Drops,
}

impl Parts {
    /// An empty table.
    pub fn new(limits: PartsLimits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            drops: Drops::default(),
        }
    }

    /// Registrations in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of parts and replies.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was thrown away.
    pub const fn drops(&self) -> Drops {
        self.drops
    }

    /// Takes one part at the time `now`. When it completes a registration, `finish` makes the reply
    /// from the whole; later copies of its parts get the same reply without `finish`.
    pub(super) fn take(
        &mut self,
        now: Duration,
        part: &Part,
        finish: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Progress {
        self.expire(now);
        if part.total == 0 || part.total > MAX_PARTS || part.number >= part.total {
            self.drops.malformed += 1;
            return Progress::Silent;
        }
        let (number, total) = (part.number as usize, part.total as usize);
        let entry = self.entries.entry(part.id).or_insert_with(|| {
            self.order.push_back((now, part.id));
            Entry::Gathering { parts: vec![None; total] }
        });
        if entry.total() != total {
            self.drops.contradicting += 1;
            return Progress::Silent;
        }
        self.bytes -= entry.bytes();
        if let Entry::Gathering { parts } = entry {
            parts[number].clone_from(&part.data);
            let whole = parts.iter().map(Option::as_deref).collect::<Option<Vec<_>>>();
            if let Some(whole) = whole {
                *entry = Entry::Done { total, reply: finish(&whole.concat()) };
            }
        }
        self.bytes += entry.bytes();
        let progress = match entry {
            Entry::Gathering { .. } => Progress::Waiting,
            Entry::Done { reply: None, .. } => Progress::Silent,
            Entry::Done { reply: Some(reply), .. } => Progress::Done(reply.clone()),
        };
        self.make_room();
        progress
    }

    fn expire(&mut self, now: Duration) {
        while let Some(&(since, id)) = self.order.front()
            && now.saturating_sub(since) > self.limits.age
        {
            self.order.pop_front();
            if self.remove(&id) {
                self.drops.expired += 1;
            }
        }
    }

    fn make_room(&mut self) {
        while self.entries.len() > self.limits.ids || self.bytes > self.limits.bytes {
            let Some((_, id)) = self.order.pop_front() else { return };
            self.remove(&id);
            self.drops.evicted += 1;
        }
    }

    /// Returns true when the registration was not whole.
    fn remove(&mut self, id: &Id) -> bool {
        let Some(entry) = self.entries.remove(id) else { return false };
        self.bytes -= entry.bytes();
        matches!(entry, Entry::Gathering { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn part(id: u8, number: u32, total: u32, data: &[u8]) -> Part {
        Part { id: [id; 32], number, total, data: Some(data.to_vec()) }
    }

    fn echo(whole: &[u8]) -> Option<Vec<u8>> {
        Some(whole.to_vec())
    }

    #[test]
    fn parts_in_any_order_are_one_registration_answered_once() {
        let mut parts = Parts::new(PartsLimits::default());
        let mut made = 0;
        for _ in 0..2 {
            for (number, data) in [(2, b"c"), (0, b"a"), (1, b"b")] {
                let progress = parts.take(SECOND, &part(1, number, 3, data), |whole| {
                    made += 1;
                    echo(whole)
                });
                let expected =
                    if made == 0 { Progress::Waiting } else { Progress::Done(b"abc".to_vec()) };
                assert_eq!(progress, expected);
            }
        }
        assert_eq!(made, 1);
        assert_eq!((parts.len(), parts.bytes()), (1, 3));
    }

    #[test]
    fn absent_data_leaves_a_place_empty_and_empty_data_fills_it() {
        let mut parts = Parts::new(PartsLimits::default());
        let absent = Part { data: None, ..part(1, 0, 1, b"") };
        assert_eq!(parts.take(SECOND, &absent, echo), Progress::Waiting);
        let done = parts.take(SECOND, &part(1, 0, 1, b""), echo);
        assert_eq!(done, Progress::Done(Vec::new()));
    }

    #[test]
    fn what_makes_no_sense_is_counted_and_not_answered() {
        let mut parts = Parts::new(PartsLimits::default());
        for (number, total) in [(0, 0), (0, 11), (2, 2), (u32::MAX, 2), (0, u32::MAX)] {
            let progress = parts.take(SECOND, &part(1, number, total, b"x"), echo);
            assert_eq!(progress, Progress::Silent);
        }
        assert!(parts.is_empty());
        parts.take(SECOND, &part(1, 0, 2, b"x"), echo);
        assert_eq!(parts.take(SECOND, &part(1, 0, 3, b"x"), echo), Progress::Silent);
        assert_eq!(parts.drops(), Drops { malformed: 5, contradicting: 1, ..Drops::default() });
    }

    #[test]
    fn age_number_and_bytes_are_bounded() {
        let limits = PartsLimits { ids: 4, bytes: 100, age: 30 * SECOND };
        let mut parts = Parts::new(limits);
        for id in 0..6 {
            parts.take(SECOND * u32::from(id), &part(id, 0, 2, b"x"), echo);
        }
        assert_eq!((parts.len(), parts.drops().evicted), (4, 2));
        parts.take(33 * SECOND, &part(9, 0, 2, &[0; 99]), echo);
        assert_eq!(parts.drops().expired, 1, "the one of second 2");
        assert_eq!((parts.len(), parts.bytes()), (2, 100), "bytes push out as well");
        parts.take(100 * SECOND, &part(9, 0, 2, b"x"), echo);
        assert_eq!((parts.len(), parts.bytes()), (1, 1));
    }

    proptest! {
        #[test]
        fn bounds_hold_whatever_comes(
            sent in prop::collection::vec(
                (0u8..12, 0u32..12, 0u32..12, prop::option::of(0usize..40), 0u64..3), 1..200),
        ) {
            let limits = PartsLimits { ids: 5, bytes: 150, age: 5 * SECOND };
            let mut parts = Parts::new(limits);
            let mut now = Duration::ZERO;
            for (id, number, total, length, wait) in sent {
                now += SECOND * wait as u32;
                let data = length.map(|length| vec![id; length]);
                let part = Part { id: [id; 32], number, total, data };
                parts.take(now, &part, echo);
                prop_assert!(parts.len() <= limits.ids && parts.bytes() <= limits.bytes);
                prop_assert_eq!(parts.len(), parts.order.len());
                let real: usize = parts.entries.values().map(Entry::bytes).sum();
                prop_assert_eq!(parts.bytes(), real);
            }
        }
    }
}
