//! Log lines of the reference (`spec/detector.md` 15.1).

use chrono::Utc;
use std::fmt;
use std::net::SocketAddr;
use telemetry::output::{self, Entry, Priority, Stream};
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
    let (text, queue) = (text.to_string(), queue.to_string());
    let priority = match level {
        Level::Debug => Priority::Debug,
        Level::Warn => Priority::Warning,
        Level::Error => Priority::Error,
    };
    let stamped = || {
        let now = Utc::now().format("%Y-%m-%d %H:%M:%S%.9f %z");
        format!("{now} (Core {queue}) {level}: {text}")
    };
    let bare = || format!("(Core {queue}) {text}");
    let entry = Entry { stream: Stream::Out, priority, stamped: &stamped, bare: &bare };
    output::write(&entry, &[("CONJURE_CORE", &queue), ("CONJURE_QUEUE", &queue)]);
}

/// Writes a line without prefix, as the reference's start-up text has none.
pub fn plain(text: impl fmt::Display) {
    write(Stream::Out, Priority::Info, &text);
}

/// Writes a line of the reference that means nothing here, when the log has the reference's form.
pub fn reference(stream: Stream, text: impl fmt::Display) {
    if output::is_reference() {
        write(stream, Priority::Info, &text);
    }
}

/// Writes a line to standard error.
pub fn problem(priority: Priority, text: impl fmt::Display) {
    write(Stream::Err, priority, &text);
}

fn write(stream: Stream, priority: Priority, text: &dyn fmt::Display) {
    let text = || text.to_string();
    output::write(&Entry { stream, priority, stamped: &text, bare: &text }, &[]);
}

/// A flow as the reference prints it: the client only when that is switched on.
pub fn flow(source: SocketAddr, destination: SocketAddr) -> String {
    format!("{} -> {destination}", ClientEndpoint(source))
}
