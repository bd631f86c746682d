//! The retransmission time-out (RFC 9260 section 6.3.1).

use std::time::Duration;

use crate::Config;

/// Round-trip estimate and back-off.
#[derive(Debug)]
pub(crate) struct Rto {
    smoothed: Option<(Duration, Duration)>,
    backoff: u32,
}

impl Rto {
    pub(crate) const fn new() -> Self {
        Self { smoothed: None, backoff: 0 }
    }

    /// Takes a round trip of something that was sent once.
    pub(crate) fn measured(&mut self, round_trip: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (round_trip, round_trip / 2),
            Some((smoothed, deviation)) => {
                let error = smoothed.abs_diff(round_trip);
                ((smoothed * 7 + round_trip) / 8, (deviation * 3 + error) / 4)
            }
        });
    }

    /// Something arrived that was outstanding.
    pub(crate) const fn progress(&mut self) {
        self.backoff = 0;
    }

    /// Nothing did in time.
    pub(crate) const fn expired(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    pub(crate) fn current(&self, config: &Config) -> Duration {
        let base = self.smoothed.map_or(config.rto_initial, |(s, d)| s + d * 4);
        let base = base.max(config.rto_min);
        base.saturating_mul(1 << self.backoff.min(16)).min(config.rto_max)
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(|(smoothed, _)| smoothed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_path_between_its_limits() {
        let config = Config::default();
        let mut rto = Rto::new();
        let second = Duration::from_secs(1);
        assert_eq!(rto.current(&config), second);
        rto.measured(Duration::from_millis(20));
        assert_eq!(rto.current(&config), second, "never less than the minimum");
        for _ in 0..99 {
            rto.measured(3 * second);
        }
        let at = rto.current(&config);
        assert!(at > 3 * second && at < 4 * second, "{at:?}");
        rto.expired();
        assert_eq!(rto.current(&config), at * 2);
        for _ in 0..99 {
            rto.expired();
        }
        assert_eq!(rto.current(&config), 60 * second);
        rto.progress();
        assert_eq!(rto.current(&config), at);
    }
}
