//! What the replay of a recording ends with.

use crate::counters::Snapshot;
use std::fmt;

/// Summary of a replayed recording.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) counters: Snapshot,
    pub(crate) seconds: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Snapshot { packets, bytes, .. } = self.counters;
        let rate = packets as f64 / self.seconds.max(1e-9);
        writeln!(
            f,
            "replayed {packets} packets, {bytes} bytes in {:.3} s ({rate:.0}/s)",
            self.seconds
        )?;
        for (name, value) in self.counters.each().filter(|(_, value)| *value > 0) {
            writeln!(f, "  {name:<20} {value}")?;
        }
        write!(f, "registrations found: {}", self.counters.tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_listed() {
        let counters = Snapshot { packets: 3, bytes: 180, tags: 1, ..Snapshot::default() };
        let text = Summary { counters, seconds: 0.5 }.to_string();
        assert!(text.starts_with("replayed 3 packets, 180 bytes in 0.500 s (6/s)\n"), "{text}");
        assert!(text.ends_with("registrations found: 1"));
        assert!(!text.contains("forwarded"));
    }
}
