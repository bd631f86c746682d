//! All registrations, found by phantom and identifier (`spec/application.md` 9).

use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::registration::{Identifier, Registration};

/// Independent parts of the store, so that a writer never holds up most readers.
const SHARDS: usize = 64;

type Key = (IpAddr, Identifier);

#[derive(Default)]
struct Shard {
    registrations: HashMap<Key, Arc<Registration>>,
    /// Registrations per phantom, valid or not.
    counts: HashMap<IpAddr, u32>,
    /// Valid obfs4 registrations per phantom, in the order of their numbers: no tag names them, so
    /// a connection has to be compared with each.
    obfs4: HashMap<IpAddr, Vec<Numbered>>,
    /// Number of the last of them.
    last_number: u64,
}

/// An obfs4 registration and its number within its shard.
struct Numbered {
    number: u64,
    registration: Arc<Registration>,
}

/// When a registration has to be looked at again; the heap's top is the earliest.
#[derive(PartialEq, Eq)]
struct Due {
    at: Instant,
    key: Key,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What became of a registration that was to be tracked.
#[derive(Debug)]
pub enum Tracked {
    /// It is new and stored, not valid yet.
    New(Arc<Registration>),
    /// Phantom and identifier are known already; the one that is stored.
    Duplicate(Arc<Registration>),
    /// The store is full.
    Full,
}

/// All registrations of the process. Each method is one look-up in one shard.
pub struct Store {
    shards: Box<[RwLock<Shard>]>,
    hasher: RandomState,
    due: Mutex<BinaryHeap<Due>>,
    tracked: AtomicUsize,
    capacity: AtomicUsize,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("tracked", &self.len()).finish_non_exhaustive()
    }
}

impl Store {
    /// An empty store that holds at most `capacity` registrations.
    pub fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            due: Mutex::default(),
            tracked: AtomicUsize::new(0),
            capacity: AtomicUsize::new(capacity),
        }
    }

    /// Changes how many registrations are held at most; those that are there stay.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    fn shard(&self, phantom: IpAddr) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(phantom) as usize % SHARDS]
    }

    /// Number of registrations, valid or not.
    pub fn len(&self) -> usize {
        self.tracked.load(Ordering::Relaxed)
    }

    /// Whether there is no registration at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores `registration` unless its phantom and identifier are known: one atomic step, so that
    /// copies of a message that arrive together are handled once.
    pub fn track(&self, registration: Registration) -> Tracked {
        use std::collections::hash_map::Entry;
        let key = (registration.phantom, registration.identifier);
        let due = Due { at: registration.expires(), key };
        let mut shard = self.shard(key.0).write();
        let stored = match shard.registrations.entry(key) {
            Entry::Occupied(known) => {
                known.get().count_copy();
                return Tracked::Duplicate(Arc::clone(known.get()));
            }
            Entry::Vacant(_) if self.len() >= self.capacity.load(Ordering::Relaxed) => {
                return Tracked::Full;
            }
            Entry::Vacant(place) => Arc::clone(place.insert(Arc::new(registration))),
        };
        *shard.counts.entry(key.0).or_default() += 1;
        drop(shard);
        self.tracked.fetch_add(1, Ordering::Relaxed);
        self.due.lock().push(due);
        Tracked::New(stored)
    }

    /// Registrations on `phantom`, valid or not.
    pub fn count(&self, phantom: IpAddr) -> u32 {
        self.shard(phantom).read().counts.get(&phantom).copied().unwrap_or(0)
    }

    /// The valid registration that `identifier` names on `phantom`.
    pub fn find(&self, phantom: IpAddr, identifier: &Identifier) -> Option<Arc<Registration>> {
        let shard = self.shard(phantom).read();
        shard.registrations.get(&(phantom, *identifier)).filter(|r| r.is_valid()).cloned()
    }

    /// Fixes the covert of a tracked registration and makes it valid. True the first time.
    pub fn activate(&self, registration: &Arc<Registration>, covert: SocketAddr) -> bool {
        if registration.obfs4().is_none() {
            return registration.activate(covert);
        }
        let mut shard = self.shard(registration.phantom).write();
        let activated = registration.activate(covert);
        // One that expired meanwhile must not stay in the list for ever.
        let key = (registration.phantom, registration.identifier);
        if activated && shard.registrations.contains_key(&key) {
            shard.last_number += 1;
            let number = shard.last_number;
            let registration = Arc::clone(registration);
            let list = shard.obfs4.entry(registration.phantom).or_default();
            list.push(Numbered { number, registration });
        }
        activated
    }

    /// The valid obfs4 registrations on `phantom` with numbers beyond `after`, in their order.
    pub fn obfs4(&self, phantom: IpAddr, after: u64) -> Vec<(u64, Arc<Registration>)> {
        let shard = self.shard(phantom).read();
        let Some(list) = shard.obfs4.get(&phantom) else { return Vec::new() };
        let first = list.partition_point(|entry| entry.number <= after);
        list[first..].iter().map(|e| (e.number, Arc::clone(&e.registration))).collect()
    }

    /// All registrations, valid or not.
    pub fn all(&self) -> Vec<Arc<Registration>> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.shards {
            all.extend(shard.read().registrations.values().cloned());
        }
        all
    }

    /// All valid registrations.
    pub fn valid(&self) -> Vec<Arc<Registration>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            all.extend(shard.registrations.values().filter(|r| r.is_valid()).cloned());
        }
        all
    }

    /// Removes the registrations that have ended by `now` and returns them. Looks only at those
    /// whose time has come.
    pub fn expire(&self, now: Instant) -> Vec<Arc<Registration>> {
        let mut ended = Vec::new();
        loop {
            let key = {
                let mut due = self.due.lock();
                match due.peek() {
                    Some(first) if first.at <= now => {}
                    _ => return ended,
                }
                match due.pop() {
                    Some(first) => first.key,
                    None => return ended,
                }
            };
            let mut shard = self.shard(key.0).write();
            let Some(registration) = shard.registrations.get(&key) else { continue };
            let at = registration.expires();
            if at > now {
                // It was used since: it ends later.
                drop(shard);
                self.due.lock().push(Due { at, key });
                continue;
            }
            let Some(registration) = shard.registrations.remove(&key) else { continue };
            if let Some(count) = shard.counts.get_mut(&key.0) {
                *count -= 1;
                if *count == 0 {
                    shard.counts.remove(&key.0);
                }
            }
            if let Some(list) = shard.obfs4.get_mut(&key.0) {
                list.retain(|entry| !Arc::ptr_eq(&entry.registration, &registration));
                if list.is_empty() {
                    shard.obfs4.remove(&key.0);
                }
            }
            drop(shard);
            self.tracked.fetch_sub(1, Ordering::Relaxed);
            ended.push(registration);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::registration::{Credentials, Parts, UNUSED_LIFETIME, USED_LIFETIME};
    use session::Proto;
    use std::time::Duration;
    use transports::Transport;
    use transports::obfs4::ServerIdentity;

    pub(crate) fn parts(phantom: u8, tag: u8) -> Parts {
        Parts {
            phantom: [192, 0, 2, phantom].into(),
            dst_port: 443,
            proto: Proto::Tcp,
            client: [203, 0, 113, 9].into(),
            origin: Default::default(),
            transport: Transport::Min,
            identifier: (&[tag; 32]).into(),
            credentials: Credentials::Tag,
            prefix_id: None,
            short_id: [tag; 8],
            source: 2,
            generation: 957,
            lib_version: 4,
            proxy_header: false,
            prescanned: true,
            covert_text: "198.51.100.7:80".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_valid_registrations_match_but_all_count() {
        let store = Store::new(10);
        let Tracked::New(first) = store.track(Registration::new(parts(1, 1))) else { panic!() };
        let id = first.identifier;
        assert_eq!(store.count(first.phantom), 1);
        assert!(store.find(first.phantom, &id).is_none());
        assert!(first.activate("198.51.100.7:80".parse().unwrap()));
        assert!(!first.activate("198.51.100.8:80".parse().unwrap()));
        assert!(store.find(first.phantom, &id).is_some());
        assert!(store.find([192, 0, 2, 2].into(), &id).is_none(), "another phantom");
        let other = Identifier::from(&[2; 32]);
        assert!(store.find(first.phantom, &other).is_none(), "another secret");
        let Tracked::Duplicate(known) = store.track(Registration::new(parts(1, 1))) else {
            panic!()
        };
        assert_eq!(known.copies(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn unused_registrations_end_after_ten_minutes_and_used_ones_after_six_hours() {
        let store = Store::new(10);
        let start = Instant::now();
        for tag in [1, 2] {
            let Tracked::New(new) = store.track(Registration::new(parts(1, tag))) else { panic!() };
            new.activate("198.51.100.7:80".parse().unwrap());
            if tag == 2 {
                new.mark_used();
            }
        }
        let second = Duration::from_secs(1);
        assert!(store.expire(start + UNUSED_LIFETIME - second).is_empty());
        assert_eq!(store.expire(start + UNUSED_LIFETIME).len(), 1);
        assert_eq!(store.count([192, 0, 2, 1].into()), 1);
        assert!(store.expire(start + USED_LIFETIME - second).is_empty());
        assert_eq!(store.expire(start + USED_LIFETIME).len(), 1);
        assert!(store.is_empty());
        assert_eq!(store.count([192, 0, 2, 1].into()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn obfs4_registrations_are_listed_while_they_are_valid() {
        let store = Store::new(10);
        let phantom = [192, 0, 2, 1].into();
        let covert = "198.51.100.7:80".parse().unwrap();
        let mut tracked = Vec::new();
        for tag in 1..=3 {
            let secret = keys::SharedSecret::new(&[tag; 32]);
            let keys = secret.session_keys(keys::ClientVersion(4)).obfs4();
            let new = Registration::new(Parts {
                transport: Transport::Obfs4,
                identifier: keys.identifier().into(),
                credentials: Credentials::Obfs4(Box::new(ServerIdentity::new(keys))),
                ..parts(1, tag)
            });
            let Tracked::New(new) = store.track(new) else { panic!() };
            tracked.push(new);
        }
        assert!(store.obfs4(phantom, 0).is_empty(), "none is valid");
        for index in [2, 0] {
            assert!(store.activate(&tracked[index], covert));
            assert!(!store.activate(&tracked[index], covert));
        }
        let listed = |after| -> Vec<usize> {
            let position = |r: &Arc<Registration>| tracked.iter().position(|t| Arc::ptr_eq(t, r));
            store.obfs4(phantom, after).iter().map(|(_, r)| position(r).unwrap()).collect()
        };
        assert_eq!(listed(0), [2, 0]);
        assert_eq!(listed(1), [0]);
        assert!(listed(2).is_empty());
        assert!(store.obfs4([192, 0, 2, 2].into(), 0).is_empty());
        tracked[0].mark_used();
        assert_eq!(store.expire(Instant::now() + UNUSED_LIFETIME).len(), 2);
        assert_eq!(listed(0), [0]);
        assert_eq!(store.expire(Instant::now() + USED_LIFETIME).len(), 1);
        assert!(store.obfs4(phantom, 0).is_empty());
        assert!(!store.activate(&tracked[0], covert));
        assert!(store.activate(&tracked[1], covert));
        assert!(store.obfs4(phantom, 0).is_empty(), "it has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_store_refuses_and_keeps_what_it_has() {
        let store = Store::new(1);
        assert!(matches!(store.track(Registration::new(parts(1, 1))), Tracked::New(_)));
        assert!(matches!(store.track(Registration::new(parts(1, 2))), Tracked::Full));
        assert!(matches!(store.track(Registration::new(parts(1, 1))), Tracked::Duplicate(_)));
        assert_eq!(store.len(), 1);
    }
}
