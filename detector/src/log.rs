//! Log lines of the reference (`spec/detector.md` 15.1).

use chrono::Utc;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use telemetry::privacy::ClientEndpoint;

/// Level of a line, as the reference prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Ordinary.
    Debug,
    /// Something was lost.
    Warn,
    /// Something failed.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "DEBUG",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        })
    }
}

/// Writes one line about the worker of `queue` to standard output.
pub fn line(queue: usize, level: Level, text: impl fmt::Display) {
    let now = Utc::now().format("%Y-%m-%d %H:%M:%S%.9f %z");
    write(&format!("{now} (Core {queue}) {level}: {text}\n"));
}

/// Writes a line without prefix, as the reference's start-up text has none.
pub fn plain(text: impl fmt::Display) {
    write(&format!("{text}\n"));
}

fn write(line: &str) {
    let mut out = std::io::stdout().lock();
    // A log that cannot be written must not stop the detector.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// A flow as the reference prints it: the client only when that is switched on.
pub fn flow(source: SocketAddr, destination: SocketAddr) -> String {
    format!("{} -> {destination}", ClientEndpoint(source))
}
