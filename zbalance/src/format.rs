//! Texts in the reference's form (`spec/ingest.md` 3.6).

use std::fmt::Write;
use std::time::Duration;

/// Numbers of one statistics file.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Cluster id.
    pub cluster: u32,
    /// Queues of each set.
    pub sets: Vec<u32>,
    /// Time since the start.
    pub duration: Duration,
    /// Frames received on inputs.
    pub received: u64,
    /// Frames put into queues.
    pub forwarded: u64,
    /// Frames read by consumers.
    pub processed: u64,
    /// Packets and drops of the inputs, and of each queue, when asked for.
    pub details: Option<Details>,
}

/// Numbers per interface and queue.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// Frames received and dropped on inputs.
    pub interface: (u64, u64),
    /// Frames that the kernel dropped because no detector needs them, when it is asked to.
    pub prefiltered: Option<u64>,
    /// Frames that the kernel gave to the host because their flow is that of a session, when it is asked to.
    pub passed: Option<u64>,
    /// Frames read from and dropped for each queue.
    pub queues: Vec<(u64, u64)>,
}

impl Snapshot {
    /// The text of the statistics file.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // Writing into a String cannot fail.
            let _ = writeln!(out, "{:<14}{value}", format!("{name}:"));
        };
        line("ClusterId", &self.cluster);
        line("TotQueues", &self.sets.iter().sum::<u32>());
        line("Applications", &self.sets.len());
        for (set, queues) in self.sets.iter().enumerate() {
            line(&format!("App{set}Queues"), queues);
        }
        line("Duration", &duration(self.duration));
        line("Packets", &self.received);
        line("Forwarded", &self.forwarded);
        line("Processed", &self.processed);
        if let Some(details) = &self.details {
            line("IFPackets", &details.interface.0);
            line("IFDropped", &details.interface.1);
            if let Some(prefiltered) = &details.prefiltered {
                line("IFPrefilter", prefiltered);
            }
            if let Some(passed) = &details.passed {
                line("IFFastPath", passed);
            }
            for (queue, (packets, dropped)) in details.queues.iter().enumerate() {
                line(&format!("Q{queue}Packets"), packets);
                line(&format!("Q{queue}Dropped"), dropped);
            }
        }
        out
    }
}

/// days:hours:minutes:seconds:milliseconds.
pub fn duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{}:{:02}:{:02}:{:02}:{ms:03}", s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60)
}

/// A count with apostrophes between thousands; a fraction is cut off.
pub fn count(value: f64) -> String {
    grouped(value.trunc() as u64)
}

/// A rate with two decimals: rounded below 1000, cut from there on, as the reference prints.
pub fn rate(value: f64) -> String {
    if value < 1000.0 {
        return format!("{value:.2}");
    }
    let whole = value.trunc();
    format!("{}.{:02}", grouped(whole as u64), ((value - whole) * 100.0).trunc() as u64)
}

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\'');
        }
        out.push(digit);
    }
    out
}
