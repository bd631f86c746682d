//! The congestion window (RFC 9260 section 7.2).

/// Full packets that a path without history is trusted with.
const INITIAL_PACKETS: usize = 10;
/// Full packets below which a loss does not push the threshold.
const LEAST_PACKETS: usize = 4;

#[derive(Debug)]
pub(crate) struct Congestion {
    mtu: usize,
    window: usize,
    threshold: usize,
    /// Acknowledged since the window last grew in congestion avoidance.
    partial: usize,
    most: usize,
}

impl Congestion {
    pub(crate) const fn new(mtu: usize, most: usize) -> Self {
        Self { mtu, window: INITIAL_PACKETS * mtu, threshold: usize::MAX, partial: 0, most }
    }

    pub(crate) const fn window(&self) -> usize {
        self.window
    }

    /// `bytes` arrived of a flight that filled the window.
    pub(crate) fn acknowledged(&mut self, bytes: usize) {
        if self.window < self.threshold {
            self.window += bytes;
        } else {
            self.partial += bytes;
            if self.partial >= self.window {
                self.partial -= self.window;
                self.window += self.mtu;
            }
        }
        self.window = self.window.min(self.most);
    }

    /// Packets of the flight were lost, others arrived.
    pub(crate) fn lost(&mut self) {
        self.threshold = (self.window / 2).max(LEAST_PACKETS * self.mtu);
        self.window = self.threshold;
        self.partial = 0;
    }

    /// Nothing arrived for the retransmission time-out.
    pub(crate) fn expired(&mut self) {
        self.threshold = (self.window / 2).max(LEAST_PACKETS * self.mtu);
        self.window = self.mtu;
        self.partial = 0;
    }

    /// Nothing was sent for a while, so that the window says nothing about the path any more.
    pub(crate) fn idle(&mut self) {
        self.window = self.window.min(INITIAL_PACKETS * self.mtu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_fast_then_slowly_and_shrinks_with_losses() {
        let mut c = Congestion::new(1000, 1_000_000);
        assert_eq!(c.window(), 10_000);
        c.acknowledged(10_000);
        assert_eq!(c.window(), 20_000);
        c.lost();
        assert_eq!(c.window(), 10_000);
        c.acknowledged(9_000);
        assert_eq!(c.window(), 10_000);
        c.acknowledged(1_000);
        assert_eq!(c.window(), 11_000);
        c.expired();
        assert_eq!(c.window(), 1_000);
        c.acknowledged(1_000);
        assert_eq!(c.window(), 2_000);
        for _ in 0..999 {
            c.acknowledged(1_000_000);
        }
        assert_eq!(c.window(), 1_000_000);
        c.idle();
        assert_eq!(c.window(), 10_000);
    }
}
