//! Sessions: which packets belong to a registered phantom (`spec/detector.md` 12).
//!
//! All workers share one table. In front of it stands a bitmap over hashed phantom addresses, so
//! that a packet of no interest costs one read of one word. Behind it, the exact table is divided
//! into shards, each under a lock of its own that a reader holds for one lookup; workers rarely
//! meet in a shard, and only for packets that are (almost certainly) forwarded.

use crate::clock::Millis;
use crate::mix::Mixer;
use parking_lot::{Mutex, RwLock};
use session::{Proto, SessionKey};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Traffic of a session keeps it for this long.
const EXTENSION: u64 = 300_000;
/// The extension is skipped while this much is left, which spares most packets a write.
const EXTENSION_SLACK: u64 = 290_000;
/// A session that the sweep has not removed yet stops matching this long after its expiry.
const GRACE: u64 = 1_000;

const SHARDS: usize = 64;
/// Bits of the bitmap: 256 KiB, which stays in the near cache of a worker.
const FILTER_BITS: u32 = 21;
const FILTER_WORDS: usize = 1 << (FILTER_BITS - 6);
/// Removed sessions after which the bitmap is made anew.
const STALE_LIMIT: usize = 4096;

/// Sessions at one time. More are refused and counted: the application is trusted, but its Redis
/// channel is open to every local process.
pub const MAX_SESSIONS: usize = 4_000_000;

/// A session key in the fixed form of the table: two words for IPv4, three for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedKey([u64; 3]);

impl PackedKey {
    /// Packs an IPv4 key: client, phantom and port all count.
    #[inline(always)]
    pub const fn v4(proto: Proto, client: [u8; 4], phantom: [u8; 4], port: u16) -> Self {
        let (client, phantom) = (u32::from_be_bytes(client), u32::from_be_bytes(phantom));
        Self([(client as u64) << 32 | phantom as u64, tail(proto, port, 4), 0])
    }

    /// Packs an IPv6 key, in which the client does not count.
    #[inline(always)]
    pub const fn v6(proto: Proto, phantom: [u8; 16], port: u16) -> Self {
        let phantom = u128::from_be_bytes(phantom);
        Self([(phantom >> 64) as u64, tail(proto, port, 6), phantom as u64])
    }

    /// What of the key the bitmap looks at: the phantom address.
    #[inline(always)]
    const fn phantom_word(&self) -> u64 {
        if self.0[1] & 0xf == 4 {
            self.0[0] & 0xffff_ffff
        } else {
            self.0[0].rotate_left(17) ^ self.0[2].wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
    }
}

#[inline(always)]
const fn tail(proto: Proto, port: u16, family: u64) -> u64 {
    let proto = match proto {
        Proto::Tcp => 6,
        Proto::Udp => 17,
    };
    (port as u64) << 16 | proto << 8 | family
}

impl From<&SessionKey> for PackedKey {
    fn from(key: &SessionKey) -> Self {
        match (key.phantom, key.client) {
            (IpAddr::V4(phantom), client) => {
                let client = client.map_or([0; 4], |client| client.octets());
                Self::v4(key.proto, client, phantom.octets(), key.dst_port)
            }
            (IpAddr::V6(phantom), _) => Self::v6(key.proto, phantom.octets(), key.dst_port),
        }
    }
}

impl From<PackedKey> for SessionKey {
    fn from(PackedKey([first, tail, last]): PackedKey) -> Self {
        let proto = if tail >> 8 & 0xff == 6 { Proto::Tcp } else { Proto::Udp };
        let dst_port = (tail >> 16) as u16;
        if tail & 0xf == 4 {
            let phantom = IpAddr::V4((first as u32).into());
            Self { proto, phantom, client: Some(((first >> 32) as u32).into()), dst_port }
        } else {
            let phantom = u128::from(first) << 64 | u128::from(last);
            Self { proto, phantom: IpAddr::V6(phantom.into()), client: None, dst_port }
        }
    }
}

/// Maps hold the key under its own keyed hash, so the map's hasher passes that through.
#[derive(Debug, Default)]
struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hashed {
    hash: u64,
    key: PackedKey,
}

impl std::hash::Hash for Hashed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Where the bitmap tells of a phantom: a hash that names a word, and three bits in it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spot(u64);

impl Spot {
    #[inline(always)]
    const fn word(self) -> usize {
        (self.0 >> (64 - FILTER_BITS + 6)) as usize % FILTER_WORDS
    }

    #[inline(always)]
    const fn bits(self) -> u64 {
        1 << (self.0 & 63) | 1 << (self.0 >> 6 & 63) | 1 << (self.0 >> 12 & 63)
    }
}

/// What a key stands for.
#[derive(Debug)]
enum Entry {
    /// A session and when it ends.
    Live(AtomicU64),
    /// A liveness probe is running; see [`crate::pending`].
    Pending(Millis),
}

type Shard = RwLock<HashMap<Hashed, Entry, BuildHasherDefault<PassThrough>>>;

/// What a lookup says about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// No session.
    None,
    /// A session; its time was extended.
    Live,
    /// No session yet, but the application may announce one at any moment.
    Pending,
}

/// The table.
#[derive(Debug)]
pub struct Sessions {
    mixer: Mixer,
    filter: Box<[AtomicU64; FILTER_WORDS]>,
    shards: Box<[Shard]>,
    live: AtomicUsize,
    refused: AtomicU64,
    /// Keys that were removed since the bitmap was made; the lock is held by every writer.
    stale: Mutex<usize>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new()
    }
}

impl Sessions {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            mixer: Mixer::random(),
            filter: Box::new([const { AtomicU64::new(0) }; FILTER_WORDS]),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            live: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            stale: Mutex::new(0),
        }
    }

    /// Where the bitmap tells of the key's phantom. All three bits have to be set, so that 100,000
    /// phantoms, which set one bit in eight, let fewer than one other packet in 100 through.
    #[inline(always)]
    pub(crate) const fn spot(&self, key: PackedKey) -> Spot {
        Spot(self.mixer.word(key.phantom_word()))
    }

    /// Whether the bitmap has a phantom there. False is certain.
    #[inline(always)]
    pub(crate) fn is_set(&self, spot: Spot) -> bool {
        self.filter[spot.word()].load(Relaxed) & spot.bits() == spot.bits()
    }

    // The maps spend the low and the topmost bits, so the shard is chosen by others.
    #[inline(always)]
    fn hashed(&self, key: PackedKey) -> (Hashed, &Shard) {
        let hash = self.mixer.four([key.0[0], key.0[1], key.0[2], 0]);
        (Hashed { hash, key }, &self.shards[(hash >> 40) as usize % SHARDS])
    }

    /// Whether a packet with this key may belong to a session. False is certain; the answer costs
    /// one read.
    #[inline(always)]
    pub fn may_match(&self, key: PackedKey) -> bool {
        self.is_set(self.spot(key))
    }

    /// Judges a packet with this key. A session that matches is extended to 300 s from `now`.
    #[inline]
    pub fn lookup(&self, key: PackedKey, now: Millis) -> Match {
        if !self.may_match(key) {
            return Match::None;
        }
        let (hashed, shard) = self.hashed(key);
        match shard.read().get(&hashed) {
            Some(Entry::Live(expiry)) => {
                let ends = expiry.load(Relaxed);
                if ends.saturating_add(GRACE) <= now.0 {
                    return Match::None;
                }
                if ends < now.0 + EXTENSION_SLACK {
                    expiry.fetch_max(now.0 + EXTENSION, Relaxed);
                }
                Match::Live
            }
            Some(Entry::Pending(deadline)) if *deadline > now => Match::Pending,
            _ => Match::None,
        }
    }

    /// Inserts `key`, or keeps the later of the two expiries. False when the table is full.
    pub fn upsert(&self, key: &SessionKey, remaining: Duration, now: Millis) -> bool {
        let key = PackedKey::from(key);
        let _writer = self.stale.lock();
        let (hashed, shard) = self.hashed(key);
        let ends = now.plus(remaining).0;
        let mut shard = shard.write();
        if let Some(Entry::Live(expiry)) = shard.get(&hashed) {
            expiry.fetch_max(ends, Relaxed);
            return true;
        }
        if self.live.load(Relaxed) >= MAX_SESSIONS {
            self.refused.fetch_add(1, Relaxed);
            return false;
        }
        shard.insert(hashed, Entry::Live(AtomicU64::new(ends)));
        self.live.fetch_add(1, Relaxed);
        self.set_filter(&key);
        true
    }

    /// Notes that packets with `key` may be held until `deadline`. A live session stays live.
    pub fn expect(&self, key: &SessionKey, deadline: Millis) {
        let key = PackedKey::from(key);
        let _writer = self.stale.lock();
        let (hashed, shard) = self.hashed(key);
        let mut shard = shard.write();
        if !matches!(shard.get(&hashed), Some(Entry::Live(_))) {
            shard.insert(hashed, Entry::Pending(deadline));
            self.set_filter(&key);
        }
    }

    /// Removes `key`.
    pub fn remove(&self, key: &SessionKey) {
        let mut stale = self.stale.lock();
        let (hashed, shard) = self.hashed(PackedKey::from(key));
        if matches!(shard.write().remove(&hashed), Some(Entry::Live(_))) {
            self.live.fetch_sub(1, Relaxed);
        }
        *stale += 1;
    }

    /// Removes every session for which `keep` says no, and all pending keys.
    pub fn retain(&self, keep: impl Fn(&SessionKey) -> bool) {
        self.retain_entries(|key, entry| match entry {
            Entry::Live(_) => keep(&SessionKey::from(key)),
            Entry::Pending(_) => false,
        });
    }

    /// Removes what has expired, a shard at a time.
    pub fn sweep(&self, now: Millis) {
        self.retain_entries(|_, entry| match entry {
            Entry::Live(expiry) => expiry.load(Relaxed) > now.0,
            Entry::Pending(deadline) => *deadline > now,
        });
    }

    fn retain_entries(&self, keep: impl Fn(PackedKey, &Entry) -> bool) {
        let mut stale = self.stale.lock();
        for shard in &self.shards {
            let mut shard = shard.write();
            let before = shard.len();
            let mut gone = 0;
            shard.retain(|hashed, entry| {
                let kept = keep(hashed.key, entry);
                gone += usize::from(!kept && matches!(entry, Entry::Live(_)));
                kept
            });
            self.live.fetch_sub(gone, Relaxed);
            *stale += before - shard.len();
        }
        if *stale >= STALE_LIMIT {
            self.rebuild_filter();
            *stale = 0;
        }
    }

    fn set_filter(&self, key: &PackedKey) {
        let spot = self.spot(*key);
        self.filter[spot.word()].fetch_or(spot.bits(), Relaxed);
    }

    /// Clears bits that no key sets any more. Runs under the writers' lock, and a word never loses
    /// the bit of a key that is in the table, so readers may look on.
    fn rebuild_filter(&self) {
        let mut wanted = vec![0u64; self.filter.len()];
        for shard in &self.shards {
            for hashed in shard.read().keys() {
                let spot = self.spot(hashed.key);
                wanted[spot.word()] |= spot.bits();
            }
        }
        for (word, wanted) in self.filter.iter().zip(wanted) {
            if word.load(Relaxed) != wanted {
                word.store(wanted, Relaxed);
            }
        }
    }

    /// Sessions in the table, expired ones that await the sweep included.
    pub fn len(&self) -> usize {
        self.live.load(Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions refused because the table was full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn v4(client: [u8; 4], host: u8, port: u16) -> SessionKey {
        SessionKey {
            proto: Proto::Tcp,
            phantom: IpAddr::V4(Ipv4Addr::new(192, 122, 190, host)),
            client: Some(client.into()),
            dst_port: port,
        }
    }

    fn v6(text: &str) -> SessionKey {
        let phantom = IpAddr::V6(text.parse().unwrap());
        SessionKey { proto: Proto::Udp, phantom, client: None, dst_port: 443 }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn packing_is_reversible() {
        for key in [v4([203, 0, 113, 9], 7, 443), v4([0; 4], 0, 0), v6("2001:db8::7"), v6("::")] {
            assert_eq!(SessionKey::from(PackedKey::from(&key)), key);
        }
    }

    #[test]
    fn ipv4_needs_the_client_and_ipv6_does_not() {
        let sessions = Sessions::new();
        let now = Millis(5);
        sessions.upsert(&v4([203, 0, 113, 9], 7, 443), MINUTE, now);
        sessions.upsert(&v6("2001:db8::7"), MINUTE, now);
        let live = |key: &SessionKey| sessions.lookup(key.into(), now) == Match::Live;
        assert!(live(&v4([203, 0, 113, 9], 7, 443)));
        assert!(!live(&v4([203, 0, 113, 8], 7, 443)));
        assert!(!live(&v4([203, 0, 113, 9], 7, 444)));
        assert!(live(&v6("2001:db8::7")));
        assert!(!live(&v6("2001:db8::8")));
        let tcp = PackedKey::v6(
            Proto::Tcp,
            "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets(),
            443,
        );
        assert_eq!(sessions.lookup(tcp, now), Match::None);
    }

    #[test]
    fn the_later_expiry_wins_and_traffic_extends() {
        let sessions = Sessions::new();
        let key = v4([1; 4], 1, 443);
        sessions.upsert(&key, MINUTE, Millis(0));
        sessions.upsert(&key, Duration::from_nanos(1), Millis(0));
        sessions.sweep(Millis(59_999));
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions.lookup((&key).into(), Millis(59_999)), Match::Live);
        sessions.sweep(Millis(59_999 + 299_999));
        assert_eq!(sessions.len(), 1, "extended by 300 s");
        sessions.sweep(Millis(59_999 + 300_000));
        assert_eq!(sessions.len(), 0);
        assert_eq!(sessions.lookup((&key).into(), Millis(400_000)), Match::None);
    }

    #[test]
    fn an_expired_session_never_matches_longer_than_a_second() {
        let sessions = Sessions::new();
        let key = v4([1; 4], 1, 443);
        sessions.upsert(&key, MINUTE, Millis(0));
        assert_eq!(sessions.lookup((&key).into(), Millis(61_000)), Match::None);
    }

    #[test]
    fn pending_keys_do_not_count_and_do_not_replace() {
        let sessions = Sessions::new();
        let key = v4([1; 4], 1, 443);
        sessions.expect(&key, Millis(700));
        assert_eq!(sessions.lookup((&key).into(), Millis(699)), Match::Pending);
        assert_eq!(sessions.lookup((&key).into(), Millis(700)), Match::None);
        assert_eq!(sessions.len(), 0);
        sessions.upsert(&key, MINUTE, Millis(0));
        sessions.expect(&key, Millis(700));
        assert_eq!(sessions.lookup((&key).into(), Millis(1)), Match::Live);
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn the_bitmap_is_made_anew_without_losing_a_key() {
        let sessions = Sessions::new();
        let key = |i: u32| v4(i.to_be_bytes(), i as u8, i as u16);
        for i in 0..10_000 {
            let life = if i % 2 == 0 { MINUTE } else { Duration::from_millis(10) };
            sessions.upsert(&key(i), life, Millis(0));
        }
        sessions.sweep(Millis(1000));
        assert_eq!(sessions.len(), 5_000);
        assert_eq!(*sessions.stale.lock(), 0, "made anew");
        for i in 0..10_000 {
            let live = sessions.lookup((&key(i)).into(), Millis(1000)) == Match::Live;
            assert_eq!(live, i % 2 == 0, "{i}");
        }
        sessions.retain(|key| key.dst_port < 10);
        assert_eq!(sessions.len(), 5);
        sessions.remove(&key(0));
        assert_eq!(sessions.len(), 4);
    }
}
