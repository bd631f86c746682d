//! The figures of the last hour.

use std::collections::VecDeque;
use std::time::Duration;

use crate::figures::Totals;

/// Time between two samples.
pub const STEP: Duration = Duration::from_secs(5);
/// Samples that are kept: one hour.
pub const LENGTH: usize = 720;

/// A ring of samples, oldest first.
#[derive(Debug, Default)]
pub struct History(VecDeque<Totals>);

impl History {
    /// Adds a sample; the oldest makes room.
    pub fn push(&mut self, totals: Totals) {
        if self.0.len() == LENGTH {
            self.0.pop_front();
        }
        self.0.push_back(totals);
    }

    /// One figure of every sample, oldest first.
    pub fn series(&self, figure: impl Fn(&Totals) -> f64) -> Vec<f64> {
        self.0.iter().map(figure).collect()
    }

    /// The latest sample.
    pub fn last(&self) -> Totals {
        self.0.back().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept() {
        let mut history = History::default();
        for n in 0..LENGTH + 10 {
            history.push(Totals { packets: n as f64, ..Totals::default() });
        }
        let packets = history.series(|t| t.packets);
        assert_eq!((packets.len(), packets[0], history.last().packets), (720, 10.0, 729.0));
    }
}
