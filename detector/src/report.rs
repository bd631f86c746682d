//! Statistics lines and the reporter FIFO (`spec/detector.md` 15).

use crate::counters::Snapshot;
use crate::log::{self, Level};
use rustix::fs::{FileType, Mode, OFlags};
use std::fmt;
use std::path::{Path, PathBuf};

/// Folder of the reporter FIFOs.
pub const FIFO_DIR: &str = "/tmp";

/// What a statistics period brought to one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Frames.
    pub packets: u64,
    /// IPv4 packets.
    pub v4: u64,
    /// IPv6 packets.
    pub v6: u64,
    /// Sessions now.
    pub sessions: usize,
    /// Followed flows now.
    pub tracked: u64,
    /// Candidates.
    pub candidates: u64,
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, v4, v6, sessions, tracked, candidates } = self;
        write!(
            f,
            "stats {packets} pkts ({v4} v4, {v6} v6) dark decoy flows {sessions} \
             tracked flows {tracked} tags checked {candidates}"
        )
    }
}

/// Reports one worker.
#[derive(Debug)]
pub struct Reporter {
    queue: usize,
    fifo: PathBuf,
    last: Snapshot,
}

impl Reporter {
    /// A reporter for the worker of `queue`, with its FIFO in `dir`.
    pub fn new(queue: usize, dir: &Path) -> Self {
        let fifo = dir.join(format!("dark-decoy-reporter-{queue}.fifo"));
        Self { queue, fifo, last: Snapshot::default() }
    }

    /// Tells the FIFO that the counts begin anew.
    pub fn reset(&self) {
        self.write_fifo("reset\n");
    }

    /// What happened between the last report and `now`.
    pub fn period(&mut self, now: Snapshot, sessions: usize) -> (Period, u64) {
        let last = std::mem::replace(&mut self.last, now);
        let period = Period {
            packets: now.packets - last.packets,
            v4: now.v4 - last.v4,
            v6: now.v6 - last.v6,
            sessions,
            tracked: now.tracked,
            candidates: now.candidates - last.candidates,
        };
        (period, now.source_drops.saturating_sub(last.source_drops))
    }

    /// Writes the lines of one period.
    pub fn report(&mut self, now: Snapshot, sessions: usize) {
        let (period, dropped) = self.period(now, sessions);
        let drops = format!("drop {dropped} {}", now.source_drops);
        log::line(self.queue, Level::Debug, period);
        log::line(self.queue, Level::Debug, &drops);
        self.write_fifo(&format!("{period}\n{drops}\n"));
    }

    /// Writes to the FIFO if there is one that can be trusted; what does not fit is lost.
    fn write_fifo(&self, text: &str) {
        // Without a reader it cannot be opened, and then nobody misses the lines.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(fifo) = rustix::fs::open(&self.fifo, flags, Mode::empty()) else { return };
        let trusted = rustix::fs::fstat(&fifo).is_ok_and(|stat| {
            let owners = [0, rustix::process::geteuid().as_raw()];
            FileType::from_raw_mode(stat.st_mode).is_fifo() && owners.contains(&stat.st_uid)
        });
        if trusted {
            // Nobody has to read it.
            let _ = rustix::io::write(&fifo, text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn the_fifo_gets_the_lines_of_the_reference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dark-decoy-reporter-3.fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let reader = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let mut reporter = Reporter::new(3, dir.path());
        reporter.reset();
        let now = |packets, source_drops| Snapshot {
            packets,
            v4: 2,
            v6: 1,
            tracked: 7,
            candidates: packets,
            source_drops,
            ..Snapshot::default()
        };
        reporter.report(now(5, 4), 9);
        reporter.report(now(8, 6), 9);
        let mut text = [0; 1024];
        let n = rustix::io::read(&reader, &mut text).unwrap();
        assert_eq!(
            std::str::from_utf8(&text[..n]).unwrap(),
            "reset\n\
             stats 5 pkts (2 v4, 1 v6) dark decoy flows 9 tracked flows 7 tags checked 5\n\
             drop 4 4\n\
             stats 3 pkts (0 v4, 0 v6) dark decoy flows 9 tracked flows 7 tags checked 3\n\
             drop 2 6\n"
        );
    }

    #[test]
    fn an_ordinary_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dark-decoy-reporter-0.fifo");
        std::fs::write(&path, "").unwrap();
        Reporter::new(0, dir.path()).reset();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
