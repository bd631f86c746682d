//! How far the replay of a recording is, and what it ends with.

use crate::counters::Snapshot;
use std::fmt;
use std::time::Duration;

use rustix::fs::{FileType, fstat, major};
use tokio::task::JoinHandle;

/// Time between two looks at the counters.
const LOOK: Duration = Duration::from_millis(200);
/// Majors of the kernel's terminals: consoles, and those of windows and ssh.
const TERMINALS: [u32; 9] = [4, 136, 137, 138, 139, 140, 141, 142, 143];
/// Bytes of a recording's header, and of the header of each packet, in the common format.
const HEADERS: (u64, u64) = (24, 16);

/// A line on standard error with what is done of a recording; it goes away with this value. Only a
/// terminal gets one. The sandbox forbids to ask a terminal for anything, so the line is short and the
/// kind of the file has to do.
#[derive(Debug)]
pub(crate) struct Progress(JoinHandle<()>);

impl Progress {
    /// Shows how far the replay of `recording` is, as `counters` tell.
    pub(crate) fn show(
        recording: &str,
        counters: impl Fn() -> Snapshot + Send + 'static,
    ) -> Option<Self> {
        let stream = fstat(rustix::stdio::stderr()).ok()?;
        let is_device = FileType::from_raw_mode(stream.st_mode) == FileType::CharacterDevice;
        if !is_device || !TERMINALS.contains(&major(stream.st_rdev)) {
            return None;
        }
        let size = std::fs::metadata(recording).ok()?.len().max(1);
        Some(Self(tokio::spawn(async move {
            loop {
                eprint!("\r{}", line(&counters(), size));
                tokio::time::sleep(LOOK).await;
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.abort();
        eprint!("\r\x1b[K");
    }
}

fn line(counters: &Snapshot, size: u64) -> String {
    let read = HEADERS.0 + counters.packets * HEADERS.1 + counters.bytes;
    let percent = (100 * read / size).min(100);
    let bar = "#".repeat((percent * 40 / 100) as usize);
    format!("[{bar:40}] {percent:>3} %, {} packets", counters.packets)
}

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
    fn a_line_never_says_more_than_all() {
        let at = |packets, bytes| line(&Snapshot { packets, bytes, ..Snapshot::default() }, 1000);
        assert_eq!(at(10, 316), format!("[{:40}]  50 %, 10 packets", "#".repeat(20)));
        assert_eq!(at(100, 5000), format!("[{}] 100 %, 100 packets", "#".repeat(40)));
    }

    #[test]
    fn only_what_happened_is_listed() {
        let counters = Snapshot { packets: 3, bytes: 180, tags: 1, ..Snapshot::default() };
        let text = Summary { counters, seconds: 0.5 }.to_string();
        assert!(text.starts_with("replayed 3 packets, 180 bytes in 0.500 s (6/s)\n"), "{text}");
        assert!(text.ends_with("registrations found: 1"));
        assert!(!text.contains("forwarded"));
    }
}
