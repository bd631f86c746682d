//! `zcount`: how many packets there are, once a second (`spec/ingest.md` 3.7).

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use shm::Frame;
use telemetry::process::{self, Exit};

use super::view::{Seen, View, ViewError};
use crate::format::{count, rate};

/// Bytes that a packet takes on the wire besides those captured: preamble, check sequence, gap.
const OVERHEAD: u64 = 24;
const SECOND: Duration = Duration::from_secs(1);
/// Bytes of a line of a dump.
const ROW: usize = 16;

/// Counts the packets of a running zbalance, and prints them once a second to standard error.
///
/// No consumer loses a packet to it: it sees them through a mirror, of which there are two. Drops are packets that
/// came faster than it counts.
#[derive(Debug, Clone, Parser)]
#[command(name = "zcount", version)]
pub struct Arguments {
    #[command(flatten)]
    view: View,
    /// Read every byte of every packet, as a consumer would.
    #[arg(short = 't', long)]
    touch: bool,
    /// Print the bytes of every packet to standard output.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// One JSON object a second, on standard output.
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
    /// Option of the reference: queues are not shared with virtual machines.
    #[arg(short = 'u', hide = true, value_name = "SOCKET")]
    guest: Option<String>,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    seen: Seen,
    /// Bytes on the wire.
    bytes: u64,
}

impl Arguments {
    /// Parses the command line of this process and counts until it is told to end.
    pub fn main() -> ExitCode {
        super::main(Self::run)
    }

    fn run(&self) -> Exit {
        super::outcome("zcount", self.count())
    }

    fn count(&self) -> Result<(), ViewError> {
        if self.guest.is_some() {
            eprintln!("zcount: -u is ignored: queues are not shared with virtual machines");
        }
        let stop = process::stop_on_signal().map_err(ViewError::System)?;
        let mut watch = self.view.open("zcount")?;
        let (mut now, mut before) = (Tally::default(), Tally::default());
        let mut printed = Instant::now();
        let mut out = io::stdout().lock();
        let failed = |cause| ViewError::Write { to: "standard output".to_owned(), cause };
        loop {
            let goes_on = watch.burst(&stop, &mut |frame| {
                now.bytes += frame.data.len() as u64 + OVERHEAD;
                if self.touch {
                    std::hint::black_box(frame.data.iter().fold(0u8, |sum, byte| sum ^ byte));
                }
                if self.verbose { hex(&mut out, frame).map_err(failed) } else { Ok(()) }
            })?;
            now.seen = watch.seen();
            let elapsed = printed.elapsed();
            let is_last = !goes_on && (now != before || now.seen.packets == 0);
            if (goes_on && elapsed >= SECOND) || is_last {
                printed = Instant::now();
                if self.json {
                    let line = json(&now, &before, elapsed);
                    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(failed)?;
                } else {
                    eprintln!("{}", text(&now, &before, elapsed));
                }
                before = now;
            }
            if !goes_on {
                return Ok(());
            }
        }
    }
}

/// The two lines of the reference.
fn text(now: &Tally, before: &Tally, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let per_second = |now: u64, before: u64| (now - before) as f64 / seconds;
    format!(
        "Absolute Stats: {} pkts ({} drops) - {} bytes\nActual Stats: {} pps ({} drops) - {:.2} Gbps",
        count(now.seen.packets as f64),
        count(now.seen.dropped as f64),
        count(now.bytes as f64),
        rate(per_second(now.seen.packets, before.seen.packets)),
        count((now.seen.dropped - before.seen.dropped) as f64),
        per_second(now.bytes, before.bytes) * 8e-9,
    )
}

fn json(now: &Tally, before: &Tally, elapsed: Duration) -> serde_json::Value {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    serde_json::json!({
        "packets": now.seen.packets,
        "dropped": now.seen.dropped,
        "bytes": now.bytes,
        "packets_per_second": (now.seen.packets - before.seen.packets) as f64 / seconds,
        "bits_per_second": (now.bytes - before.bytes) as f64 * 8.0 / seconds,
    })
}

/// Prints the bytes of a frame.
fn hex(out: &mut impl Write, frame: &Frame<'_>) -> io::Result<()> {
    writeln!(out, "[{} bytes][interface {}]", frame.data.len(), frame.interface)?;
    for (row, bytes) in frame.data.chunks(ROW).enumerate() {
        write!(out, "{:04x}", row * ROW)?;
        for byte in bytes {
            write!(out, " {byte:02x}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_reference() {
        let before = Tally { seen: Seen { packets: 1_000, dropped: 1 }, bytes: 84_000 };
        let now = Tally { seen: Seen { packets: 124_456, dropped: 4 }, bytes: 1_250_084_000 };
        assert_eq!(
            text(&now, &before, SECOND),
            "Absolute Stats: 124'456 pkts (4 drops) - 1'250'084'000 bytes\n\
             Actual Stats: 123'456.00 pps (3 drops) - 10.00 Gbps"
        );
        let json = json(&now, &before, SECOND);
        assert_eq!(json["bits_per_second"], 1e10);
    }
}
