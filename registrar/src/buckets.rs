//! Token buckets per network, in a bounded table.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

/// Shards, so that workers do not wait for each other.
const SHARDS: usize = 16;
/// Networks in the whole table; the one that was idle longest is forgotten, which fills its bucket.
const NETWORKS: usize = 65_536;

/// A network as buckets see it.
type Network = [u8; 8];

/// How a bucket fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens per second.
    pub per_second: u32,
    /// Tokens that a full bucket holds.
    pub burst: u32,
    /// Length of an IPv4 network that shares a bucket, 0 to 32.
    pub v4: u8,
    /// Length of an IPv6 network that shares a bucket, 0 to 64.
    pub v6: u8,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Duration,
}

/// The buckets.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    start: Instant,
    hasher: RandomState,
    shards: Vec<Mutex<LruCache<Network, Bucket>>>,
}

impl Buckets {
    /// Full buckets for everyone.
    pub fn new(rate: Rate) -> Self {
        const SHARD: NonZeroUsize = NonZeroUsize::new(NETWORKS / SHARDS).unwrap();
        let shards = (0..SHARDS).map(|_| Mutex::new(LruCache::new(SHARD))).collect();
        Self { rate, start: Instant::now(), hasher: RandomState::new(), shards }
    }

    /// How they fill.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes a token for `address`; false when its network has none left.
    pub fn take(&self, address: IpAddr) -> bool {
        self.take_at(address, self.start.elapsed())
    }

    fn take_at(&self, address: IpAddr, now: Duration) -> bool {
        let network = self.network(address);
        let shard = self.hasher.hash_one(network) as usize % SHARDS;
        let full = Bucket { tokens: f64::from(self.rate.burst), filled: now };
        let mut shard = self.shards[shard].lock();
        let bucket = shard.get_or_insert_mut(network, || full);
        let passed = now.saturating_sub(bucket.filled).as_secs_f64();
        bucket.filled = now.max(bucket.filled);
        bucket.tokens = (bucket.tokens + passed * f64::from(self.rate.per_second)).min(full.tokens);
        let granted = bucket.tokens >= 1.0;
        if granted {
            bucket.tokens -= 1.0;
        }
        granted
    }

    fn network(&self, address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(self.rate.v4)).unwrap_or(0);
                // No IPv6 network of the internet begins with these bytes.
                let mut network = [0xff; 8];
                network[4..].copy_from_slice(&(u32::from(v4) & kept).to_be_bytes());
                network
            }
            IpAddr::V6(v6) => {
                let kept = u64::MAX.checked_shl(64 - u32::from(self.rate.v6)).unwrap_or(0);
                ((u128::from(v6) >> 64) as u64 & kept).to_be_bytes()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_spends_its_burst_and_then_its_rate() {
        let buckets = Buckets::new(Rate { per_second: 2, burst: 5, v4: 24, v6: 48 });
        let granted = |at: &str, now, n| (0..n).filter(|_| buckets.take_at(ip(at), now)).count();
        assert_eq!(granted("192.0.2.1", SECOND, 9), 5);
        assert_eq!(granted("192.0.2.200", SECOND, 9), 0, "the same network");
        assert_eq!(granted("::ffff:192.0.2.200", SECOND, 9), 0, "mapped");
        assert_eq!(granted("192.0.3.1", SECOND, 9), 5, "another network");
        assert_eq!(granted("192.0.2.1", 2 * SECOND, 9), 2);
        assert_eq!(granted("192.0.2.1", 100 * SECOND, 9), 5);
        assert_eq!(granted("2001:db8:1:2::3", SECOND, 4), 4);
        assert_eq!(granted("2001:db8:1:ffff::3", SECOND, 4), 1, "the same /48");
    }

    #[test]
    fn the_table_is_bounded() {
        let buckets = Buckets::new(Rate { per_second: 1, burst: 1, v4: 32, v6: 64 });
        for i in 0..(NETWORKS as u32 * 3) {
            assert!(buckets.take_at(IpAddr::V4(i.into()), SECOND));
        }
        let held: usize = buckets.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(held <= NETWORKS && held > NETWORKS / 2, "{held}");
    }
}
