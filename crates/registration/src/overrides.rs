//! Arithmetic of the registrar's overrides (`spec/registrar.md` 6).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rand_core::Rng;
use signalling::PrefixTransportParams;

/// Flush policy of every built-in prefix: prefix and tag leave together.
const FLUSH_TOGETHER: i32 = 1;

/// A percentage in units of 0.01, 0 to 10,000; what lies outside 0 to 100 counts as 50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// Rounds half away from zero.
    pub fn new(percent: f64) -> Self {
        if !(0.0..=100.0).contains(&percent) {
            return Self(5000);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000")]
        Self((percent * 100.0).round() as u16)
    }

    /// The threshold in tenths of a thousandth, as the reference counts: 0.0 to 1000.0.
    pub fn threshold(self) -> f64 {
        f64::from(self.0) / 10.0
    }

    /// True for this share of draws.
    pub fn draw<R: Rng + ?Sized>(self, rng: &mut R) -> bool {
        below(rng, 10_000) < u32::from(self.0)
    }
}

/// Index of the first entry whose cumulative share exceeds `w`, which lies in [0, 1). `None` when
/// there is no positive weight.
pub fn pick(weights: &[f64], w: f64) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    if total.is_nan() || total <= 0.0 {
        return None;
    }
    let mut cumulative = 0.0;
    for (at, weight) in weights.iter().enumerate() {
        cumulative += weight / total;
        if w < cumulative {
            return Some(at);
        }
    }
    // Rounding may leave the last share a little below 1.
    weights.iter().rposition(|&weight| weight > 0.0)
}

/// A number uniform in [0, 1).
pub fn unit<R: Rng + ?Sized>(rng: &mut R) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let numerator = (rng.next_u64() >> 11) as f64;
    numerator / 9_007_199_254_740_992.0
}

/// An address of `subnet`, uniform over the whole block.
pub fn address<R: Rng + ?Sized>(subnet: Ipv4Net, rng: &mut R) -> Ipv4Addr {
    let host = rng.next_u32() & u32::from(subnet.hostmask());
    Ipv4Addr::from(u32::from(subnet.network()) | host)
}

/// A number uniform below `n`, which is not 0.
pub fn below<R: Rng + ?Sized>(rng: &mut R, n: u32) -> u32 {
    // Draws above the largest multiple of n would favour small numbers.
    let limit = u32::MAX - u32::MAX % n;
    loop {
        let draw = rng.next_u32();
        if draw < limit {
            return draw % n;
        }
    }
}

/// Parameters that send a client to prefix `id`. Those of `client` keep their port choice; without
/// it (subnet overrides) there is none.
pub fn prefix_params(
    id: i32,
    bytes: &[u8],
    client: Option<PrefixTransportParams>,
) -> PrefixTransportParams {
    PrefixTransportParams {
        prefix_id: Some(id),
        prefix: Some(bytes.to_vec()),
        custom_flush_policy: Some(FLUSH_TOGETHER),
        randomize_dst_port: client.and_then(|params| params.randomize_dst_port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn draws_follow_their_shares() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let share = |percent: f64, rng: &mut ChaCha20Rng| {
            (0..20_000).filter(|_| Percent::new(percent).draw(rng)).count()
        };
        assert_eq!(share(0.0, &mut rng), 0);
        assert_eq!(share(100.0, &mut rng), 20_000);
        assert!((4500..5500).contains(&share(25.0, &mut rng)));
        let weights = [9.0, 0.0, 1.0];
        let mut counts = [0; 3];
        for _ in 0..20_000 {
            counts[pick(&weights, unit(&mut rng)).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((1700..2300).contains(&counts[2]));
    }

    #[test]
    fn addresses_cover_the_block_and_stay_inside() {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let subnet: Ipv4Net = "192.0.2.64/30".parse().unwrap();
        let mut seen: Vec<u8> = (0..200).map(|_| address(subnet, &mut rng).octets()[3]).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [64, 65, 66, 67]);
        let host: Ipv4Net = "192.0.2.9/32".parse().unwrap();
        assert_eq!(address(host, &mut rng).octets(), [192, 0, 2, 9]);
    }

    #[test]
    fn nothing_is_picked_without_weight() {
        assert_eq!(pick(&[], 0.5), None);
        assert_eq!(pick(&[0.0], 0.5), None);
        assert_eq!(pick(&[1.0, 0.0], 0.999_999_999_999_999_9), Some(0));
    }
}
