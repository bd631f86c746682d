//! Where a line of the log goes: to a stream as it is, to a stream with its level in front, or to the
//! journal with fields of its own.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::journal;

/// Form of the log (`log_format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Format {
    /// For people and the journal: level and fields where the service manager takes them, no line
    /// without meaning here.
    #[default]
    Text,
    /// Every line of the reference, letter by letter, on the stream that the reference uses.
    Reference,
}

/// A log format that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: found `{found}`, expected text or reference")]
pub struct UnknownFormat {
    name: &'static str,
    found: String,
}

impl Format {
    /// `CJ_LOG_FORMAT`; [`Format::Text`] without it.
    ///
    /// # Errors
    /// When it names no format.
    pub fn of_environment() -> Result<Self, UnknownFormat> {
        let found = std::env::var("CJ_LOG_FORMAT").unwrap_or_default();
        Self::parse("CJ_LOG_FORMAT", &found)
    }

    /// As the configuration file has it, otherwise as the environment has it.
    ///
    /// # Errors
    /// When `CJ_LOG_FORMAT` decides and names no format.
    pub fn chosen(configured: Option<Self>) -> Result<Self, UnknownFormat> {
        configured.map_or_else(Self::of_environment, Ok)
    }

    /// Reads the value of the setting `name`; empty means [`Format::Text`].
    ///
    /// # Errors
    /// When it names no format.
    pub fn parse(name: &'static str, found: &str) -> Result<Self, UnknownFormat> {
        match found {
            "" | "text" => Ok(Self::Text),
            "reference" => Ok(Self::Reference),
            _ => Err(UnknownFormat { name, found: found.to_owned() }),
        }
    }
}

static FORMAT: AtomicU8 = AtomicU8::new(Format::Text as u8);
static DAEMON: OnceLock<&'static str> = OnceLock::new();
static MANAGER: OnceLock<Manager> = OnceLock::new();

/// Says who writes and in which form; before the first line, and before the process gives up opening
/// sockets.
pub fn start(daemon: &'static str, format: Format) {
    // The first name stays: a process is one daemon.
    let _ = DAEMON.set(daemon);
    FORMAT.store(format as u8, Ordering::Relaxed);
    manager();
}

/// Form of the log.
pub fn format() -> Format {
    if FORMAT.load(Ordering::Relaxed) == Format::Reference as u8 {
        Format::Reference
    } else {
        Format::Text
    }
}

/// Whether the log has the reference's form.
pub fn is_reference() -> bool {
    format() == Format::Reference
}

/// A stream of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Importance of a line, as the journal numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    /// The daemon ends because of it.
    Critical = 2,
    /// Something failed.
    Error = 3,
    /// Somebody may want to look at it.
    Warning = 4,
    /// Worth waking up for.
    Info = 6,
    /// Details.
    Debug = 7,
}

/// A line in its two forms, each made only when it is needed.
pub struct Entry<'a> {
    /// Where it goes without a journal.
    pub stream: Stream,
    /// How important it is.
    pub priority: Priority,
    /// With the time, as it stands in a file.
    pub stamped: &'a dyn Fn() -> String,
    /// Without the time, which the journal has itself.
    pub bare: &'a dyn Fn() -> String,
}

impl std::fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("line", &(self.stamped)()).finish_non_exhaustive()
    }
}

/// Writes a line; `fields` are names and values for the journal, e.g. `CONJURE_CORE`. A log that cannot
/// be written never stops the station.
pub fn write(entry: &Entry<'_>, fields: &[(&str, &str)]) {
    let priority = entry.priority as u8;
    match (format(), manager().of(entry.stream)) {
        (Format::Reference, _) | (_, Target::Plain) => {
            to_stream(entry.stream, &format!("{}\n", (entry.stamped)()));
        }
        (_, Target::Prefixed) => {
            to_stream(entry.stream, &prefixed(priority, &(entry.bare)()));
        }
        (_, Target::Journal(journal)) => {
            let (message, number) = ((entry.bare)(), priority.to_string());
            let daemon = DAEMON.get().copied().unwrap_or("conjure");
            let mut all = vec![
                ("MESSAGE", &*message),
                ("PRIORITY", &*number),
                ("SYSLOG_IDENTIFIER", identifier(daemon)),
                ("CONJURE_DAEMON", daemon),
            ];
            all.extend_from_slice(fields);
            if journal.send(&journal::entry(&all)).is_err() {
                to_stream(entry.stream, &prefixed(priority, &message));
            }
        }
    }
}

/// What `journalctl -t` calls a daemon: the name of its unit, whatever the line came by.
fn identifier(daemon: &str) -> &str {
    match daemon {
        "detector" => "conjure-det",
        "application" => "conjure-app",
        "registrar" => "conjure-reg",
        other => other,
    }
}

/// The level in front of every line of a message.
fn prefixed(priority: u8, message: &str) -> String {
    let mut text = String::with_capacity(message.len() + 8);
    for line in message.split('\n') {
        text.push_str(&format!("<{priority}>{line}\n"));
    }
    text
}

fn to_stream(stream: Stream, text: &str) {
    let _ = match stream {
        Stream::Out => {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
        Stream::Err => std::io::stderr().lock().write_all(text.as_bytes()),
    };
}

/// What the service manager made of the streams.
struct Manager {
    out: bool,
    err: bool,
    journal: Option<UnixDatagram>,
}

enum Target<'a> {
    Plain,
    Prefixed,
    Journal(&'a UnixDatagram),
}

impl Manager {
    fn of(&self, stream: Stream) -> Target<'_> {
        let is_journal = match stream {
            Stream::Out => self.out,
            Stream::Err => self.err,
        };
        match (is_journal, &self.journal) {
            (false, _) => Target::Plain,
            (true, Some(journal)) => Target::Journal(journal),
            (true, None) => Target::Prefixed,
        }
    }
}

/// `JOURNAL_STREAM` holds device and inode of the stream that goes to the journal; a stream that was
/// sent elsewhere since is not the journal any more.
fn manager() -> &'static Manager {
    MANAGER.get_or_init(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let is = |file: std::io::Result<rustix::fs::Stat>| {
            file.is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino) == stream)
        };
        let stat = |file| Ok(rustix::fs::fstat(file)?);
        let (out, err) = (is(stat(rustix::stdio::stdout())), is(stat(rustix::stdio::stderr())));
        let path = std::env::var_os("CJ_JOURNAL_SOCKET");
        let path = path.as_deref().map_or(Path::new(journal::SOCKET), Path::new);
        let journal = if out || err { journal::connect(path).ok() } else { None };
        Manager { out, err, journal }
    })
}
