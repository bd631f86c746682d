//! The symmetric hash that assigns a flow to a queue (`spec/ingest.md` 9.2).
//!
//! Both directions of a flow give the same value because the two endpoints are sorted before they
//! are mixed; a keyed mixer instead of a sum keeps related addresses from landing in one queue.

/// The hash, keyed with a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymmetricHash {
    seed: u64,
}

#[inline]
const fn mix(mut x: u64) -> u64 {
    let [first, second] = SymmetricHash::FACTORS;
    x ^= x >> 33;
    x = x.wrapping_mul(first);
    x ^= x >> 33;
    x = x.wrapping_mul(second);
    x ^ (x >> 33)
}

#[inline]
fn halves(address: [u8; 16]) -> (u64, u64) {
    let value = u128::from_be_bytes(address);
    ((value >> 64) as u64, value as u64)
}

impl SymmetricHash {
    /// A hash keyed with `seed`; a balancer draws it at random so that nobody can aim traffic at
    /// one queue.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// What the mixer multiplies by, for whoever mixes elsewhere.
    pub const FACTORS: [u64; 2] = [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];

    /// The seed.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Hash of an IPv4 address pair in network order.
    #[inline]
    pub fn v4(&self, a: [u8; 4], b: [u8; 4]) -> u32 {
        let (a, b) = (u32::from_be_bytes(a), u32::from_be_bytes(b));
        (self.v4_state(a.min(b), a.max(b)) >> 32) as u32
    }

    /// Hash of an IPv6 address pair in network order.
    #[inline]
    pub fn v6(&self, a: [u8; 16], b: [u8; 16]) -> u32 {
        let (lo, hi) = if a <= b { (a, b) } else { (b, a) };
        (self.v6_state(lo, hi) >> 32) as u32
    }

    /// Hash of two IPv4 endpoints and the protocol number.
    #[inline]
    pub fn v4_flow(&self, a: ([u8; 4], u16), b: ([u8; 4], u16), protocol: u8) -> u32 {
        let (lo, hi) = if a <= b { (a, b) } else { (b, a) };
        let h = self.v4_state(u32::from_be_bytes(lo.0), u32::from_be_bytes(hi.0));
        Self::finish_flow(h, lo.1, hi.1, protocol)
    }

    /// Hash of two IPv6 endpoints and the protocol number.
    #[inline]
    pub fn v6_flow(&self, a: ([u8; 16], u16), b: ([u8; 16], u16), protocol: u8) -> u32 {
        let (lo, hi) = if a <= b { (a, b) } else { (b, a) };
        let h = self.v6_state(lo.0, hi.0);
        Self::finish_flow(h, lo.1, hi.1, protocol)
    }

    #[inline]
    fn v4_state(&self, lo: u32, hi: u32) -> u64 {
        mix(self.seed ^ (u64::from(lo) << 32 | u64::from(hi)))
    }

    #[inline]
    fn v6_state(&self, lo: [u8; 16], hi: [u8; 16]) -> u64 {
        let (lo, hi) = (halves(lo), halves(hi));
        [lo.0, lo.1, hi.0, hi.1].into_iter().fold(self.seed, |h, word| mix(h ^ word))
    }

    #[inline]
    fn finish_flow(h: u64, lo_port: u16, hi_port: u16, protocol: u8) -> u32 {
        let word = u64::from(lo_port) << 48 | u64::from(hi_port) << 32 | u64::from(protocol);
        (mix(h ^ word) >> 32) as u32
    }
}

/// Queue of a hash among `queues` (at least 1); always below `queues`.
#[inline]
pub const fn queue(hash: u32, queues: u32) -> u32 {
    ((hash as u64 * queues as u64) >> 32) as u32
}

/// The plain sum that the reference's ERSPAN patch uses as its hash, for comparison in tests and
/// tools: it puts related addresses into few queues.
pub const fn additive(a: [u8; 4], b: [u8; 4]) -> u32 {
    u32::from_be_bytes(a).wrapping_add(u32::from_be_bytes(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn symmetric(seed: u64, a: [u8; 4], b: [u8; 4], c: [u8; 16], d: [u8; 16], p: u16, q: u16, proto: u8) {
            let h = SymmetricHash::new(seed);
            prop_assert_eq!(h.v4(a, b), h.v4(b, a));
            prop_assert_eq!(h.v6(c, d), h.v6(d, c));
            prop_assert_eq!(h.v4_flow((a, p), (b, q), proto), h.v4_flow((b, q), (a, p), proto));
            prop_assert_eq!(h.v6_flow((c, p), (d, q), proto), h.v6_flow((d, q), (c, p), proto));
            prop_assert_eq!(h.v4_flow((a, p), (a, q), proto), h.v4_flow((a, q), (a, p), proto));
        }

        #[test]
        fn queue_is_in_range(hash: u32, queues in 1u32..=64) {
            prop_assert!(queue(hash, queues) < queues);
        }
    }

    #[test]
    fn ports_and_protocol_count_in_a_flow() {
        let h = SymmetricHash::new(1);
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let base = h.v4_flow((a, 1), (b, 2), 6);
        assert_ne!(base, h.v4_flow((a, 1), (b, 3), 6));
        assert_ne!(base, h.v4_flow((a, 1), (b, 2), 17));
        assert_ne!(base, h.v4_flow((a, 2), (b, 1), 6), "ports belong to their addresses");
    }
}
