//! Handshakes that were accepted, so that none is accepted twice (`spec/transports.md` 7.3, 13).

use super::{ClientIdentity, MARK_LEN};
use rand_core::CryptoRng;
use siphasher::sip::SipHasher24;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hasher;
use std::time::Duration;

/// How long a handshake is remembered: its MAC verifies during three hours.
pub const REMEMBERED: Duration = Duration::from_secs(3 * 3600);
/// Handshakes of one identity that are remembered.
pub const PER_IDENTITY: u32 = 4096;
/// Handshakes of all identities that are remembered.
pub const IN_ALL: usize = 262_144;

/// What the filter says of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is new, and is remembered from now on.
    Fresh,
    /// It was accepted before.
    Replayed,
    /// Its identity has used up its share.
    Full,
}

/// One filter of a station. Identities do not share their entries: one that makes more handshakes
/// than its share has further ones refused, instead of pushing out those of others.
pub struct ReplayFilter {
    key: [u8; 16],
    /// Oldest first: when, which identity, which handshake.
    order: VecDeque<(Duration, u64, u64)>,
    seen: HashSet<u64>,
    shares: HashMap<u64, u32>,
    latest: Duration,
    per_identity: u32,
    in_all: usize,
    evicted: u64,
}

impl ReplayFilter {
    /// An empty filter with the usual limits.
    pub fn new<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::with_limits(PER_IDENTITY, IN_ALL, rng)
    }

    /// An empty filter that remembers so many handshakes of one identity and in all.
    pub fn with_limits<R: CryptoRng + ?Sized>(
        per_identity: u32,
        in_all: usize,
        rng: &mut R,
    ) -> Self {
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        Self {
            key,
            order: VecDeque::new(),
            seen: HashSet::new(),
            shares: HashMap::new(),
            latest: Duration::ZERO,
            per_identity,
            in_all: in_all.max(1),
            evicted: 0,
        }
    }

    /// Asks for the handshake of `identity` that ends with `mac`, and remembers it if it is fresh.
    /// Only handshakes whose MAC verified may be asked for: others would fill the table.
    pub fn check(
        &mut self,
        identity: &ClientIdentity,
        mac: &[u8; MARK_LEN],
        now: Duration,
    ) -> Freshness {
        // A clock that is set back must not make the filter forget; entries then stay for longer.
        self.latest = self.latest.max(now);
        while self.order.front().is_some_and(|(at, ..)| self.latest >= *at + REMEMBERED) {
            self.forget_oldest();
        }
        let owner = self.digest(identity, &[]);
        let handshake = self.digest(identity, mac);
        if self.seen.contains(&handshake) {
            return Freshness::Replayed;
        }
        if self.shares.get(&owner).is_some_and(|&share| share >= self.per_identity) {
            return Freshness::Full;
        }
        if self.order.len() >= self.in_all {
            self.forget_oldest();
            self.evicted += 1;
        }
        self.seen.insert(handshake);
        self.order.push_back((self.latest, owner, handshake));
        *self.shares.entry(owner).or_default() += 1;
        Freshness::Fresh
    }

    /// Handshakes that are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Handshakes that were forgotten before their time, because there were too many in all.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    fn forget_oldest(&mut self) {
        let Some((_, owner, handshake)) = self.order.pop_front() else { return };
        self.seen.remove(&handshake);
        if let Some(share) = self.shares.get_mut(&owner) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&owner);
            }
        }
    }

    fn digest(&self, identity: &ClientIdentity, mac: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(identity.public());
        hasher.write(identity.node_id());
        hasher.write(mac);
        hasher.finish()
    }
}

impl std::fmt::Debug for ReplayFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayFilter").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    fn filter(per_identity: u32, in_all: usize) -> ReplayFilter {
        ReplayFilter::with_limits(per_identity, in_all, &mut ChaCha20Rng::seed_from_u64(1))
    }

    fn identity(byte: u8) -> ClientIdentity {
        ClientIdentity::new([byte; 32], [byte; 20])
    }

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn a_handshake_is_accepted_once_in_three_hours() {
        let mut filter = filter(10, 100);
        assert!(filter.is_empty());
        assert_eq!(filter.check(&identity(1), &[7; 16], NOW), Freshness::Fresh);
        assert_eq!(filter.check(&identity(1), &[7; 16], NOW), Freshness::Replayed);
        assert_eq!(filter.check(&identity(2), &[7; 16], NOW), Freshness::Fresh);
        let almost = NOW + REMEMBERED - Duration::from_nanos(1);
        assert_eq!(filter.check(&identity(1), &[7; 16], almost), Freshness::Replayed);
        assert_eq!(filter.check(&identity(1), &[7; 16], NOW + REMEMBERED), Freshness::Fresh);
        assert_eq!(filter.len(), 1);
    }

    #[test]
    fn a_clock_set_back_forgets_nothing() {
        let mut filter = filter(10, 100);
        assert_eq!(filter.check(&identity(1), &[7; 16], NOW), Freshness::Fresh);
        assert_eq!(filter.check(&identity(1), &[7; 16], Duration::ZERO), Freshness::Replayed);
        assert_eq!(filter.check(&identity(1), &[8; 16], Duration::ZERO), Freshness::Fresh);
        assert_eq!(filter.check(&identity(1), &[8; 16], NOW), Freshness::Replayed);
    }

    #[test]
    fn an_identity_uses_up_its_own_share_only() {
        let mut filter = filter(3, 100);
        for byte in 0..3 {
            assert_eq!(filter.check(&identity(1), &[byte; 16], NOW), Freshness::Fresh);
        }
        assert_eq!(filter.check(&identity(1), &[3; 16], NOW), Freshness::Full);
        assert_eq!(filter.check(&identity(1), &[0; 16], NOW), Freshness::Replayed);
        assert_eq!(filter.check(&identity(2), &[3; 16], NOW), Freshness::Fresh);
        assert_eq!(filter.check(&identity(1), &[3; 16], NOW + REMEMBERED), Freshness::Fresh);
    }

    #[test]
    fn the_table_is_bounded_and_says_what_it_lost() {
        let mut filter = filter(10, 5);
        for byte in 0..20 {
            assert_eq!(filter.check(&identity(byte), &[9; 16], NOW), Freshness::Fresh);
        }
        assert_eq!((filter.len(), filter.seen.len(), filter.shares.len()), (5, 5, 5));
        assert_eq!(filter.evicted(), 15);
        assert_eq!(filter.check(&identity(19), &[9; 16], NOW), Freshness::Replayed);
    }
}
