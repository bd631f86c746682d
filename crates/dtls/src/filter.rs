//! Which hellos were answered before.

use crate::hello::ClientRandom;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a client may repeat its hello: two whole handshakes.
const REPEAT: Duration = Duration::from_secs(10);
/// Hellos of one registration that are remembered. A forger who knows its tag has further ones
/// refused, instead of pushing out those of others.
const PER_TAG: u32 = 256;

/// Remembers answered hellos, so that one which a censor recorded and sends again gets no answer.
///
/// The random of a hello is in the clear and stays the same for as long as the client's clock shows
/// the same second. A client repeats it from one address while nothing answers, and sends it to the
/// IPv4 and the IPv6 phantom of its session; any other repetition is a replay. Only hellos of known
/// registrations belong in here, and the oldest make room when it is full.
#[derive(Debug)]
pub struct ReplayFilter {
    answered: HashMap<Hello, Answer>,
    order: VecDeque<Hello>,
    shares: HashMap<[u8; 28], u32>,
    capacity: usize,
}

type Hello = (ClientRandom, IpAddr);

#[derive(Debug, Clone, Copy)]
struct Answer {
    source: SocketAddr,
    first: Instant,
}

impl ReplayFilter {
    /// A filter of `capacity` hellos, at most about 250 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self {
            answered: HashMap::new(),
            order: VecDeque::new(),
            shares: HashMap::new(),
            capacity: capacity.max(1),
        }
    }

    /// Whether the hello with `random` that came from `source` to `phantom` may be answered.
    pub fn admit(
        &mut self,
        random: ClientRandom,
        phantom: IpAddr,
        source: SocketAddr,
        now: Instant,
    ) -> bool {
        let hello = (random, phantom);
        if let Some(answer) = self.answered.get(&hello) {
            return answer.source == source
                && now.saturating_duration_since(answer.first) <= REPEAT;
        }
        if self.shares.get(random.tag()).is_some_and(|&share| share >= PER_TAG) {
            return false;
        }
        if self.order.len() == self.capacity {
            self.forget_oldest();
        }
        *self.shares.entry(*random.tag()).or_default() += 1;
        self.order.push_back(hello);
        self.answered.insert(hello, Answer { source, first: now });
        true
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        self.answered.remove(&oldest);
        if let Some(share) = self.shares.get_mut(oldest.0.tag()) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(oldest.0.tag());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(time: u32) -> ClientRandom {
        ClientRandom::new(time, &[7; 28])
    }

    #[test]
    fn a_client_may_repeat_its_hello_and_nobody_else_may() {
        let mut filter = ReplayFilter::new(100);
        let now = Instant::now();
        let phantom: IpAddr = "192.0.2.1".parse().unwrap();
        let client: SocketAddr = "198.51.100.1:4000".parse().unwrap();
        assert!(filter.admit(random(1), phantom, client, now));
        for seconds in [0, 1, 4, 10] {
            let later = now + Duration::from_secs(seconds);
            assert!(filter.admit(random(1), phantom, client, later));
            for other in ["198.51.100.1:4001", "198.51.100.2:4000"] {
                assert!(!filter.admit(random(1), phantom, other.parse().unwrap(), later));
            }
        }
        // Long after the handshake it is a replay under the client's address.
        let later = now + Duration::from_secs(11);
        assert!(!filter.admit(random(1), phantom, client, later));
        // The other phantom of the session, and a reconnect, are hellos of their own.
        let other = "198.51.100.1:4001".parse().unwrap();
        assert!(filter.admit(random(1), "2001:db8::1".parse().unwrap(), other, now));
        assert!(filter.admit(random(2), phantom, other, later));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut filter = ReplayFilter::new(3);
        let now = Instant::now();
        let phantom: IpAddr = "192.0.2.1".parse().unwrap();
        let [a, b] = ["198.51.100.1:1", "198.51.100.1:2"].map(|text| text.parse().unwrap());
        for time in 0..5 {
            assert!(filter.admit(random(time), phantom, a, now));
            assert!(filter.order.len() <= 3 && filter.answered.len() == filter.order.len());
        }
        assert!(!filter.admit(random(4), phantom, b, now), "remembered");
        assert!(filter.admit(random(0), phantom, b, now), "forgotten");
    }

    #[test]
    fn a_forger_uses_up_the_share_of_one_tag_alone() {
        let mut filter = ReplayFilter::new(1000);
        let now = Instant::now();
        let phantom: IpAddr = "192.0.2.1".parse().unwrap();
        let source: SocketAddr = "198.51.100.1:1".parse().unwrap();
        for time in 0..PER_TAG {
            assert!(filter.admit(random(time), phantom, source, now));
        }
        assert!(!filter.admit(random(PER_TAG), phantom, source, now));
        for tag in 0..1000u32 {
            let mut bytes = [0; 28];
            bytes[..4].copy_from_slice(&tag.to_be_bytes());
            assert!(filter.admit(ClientRandom::new(0, &bytes), phantom, source, now));
        }
        assert_eq!(filter.shares.len(), 1000, "no share outlives its hellos");
        assert!(filter.admit(random(PER_TAG), phantom, source, now));
    }
}
