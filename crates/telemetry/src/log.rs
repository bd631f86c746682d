//! Log lines in the form that operators of the reference know (`spec/application.md` 17).
//!
//! A line is `<prefix><YYYY/MM/DD hh:mm:ss.micros> <message>`, prefix first, local time. The order
//! of levels is unusual and kept: `trace < debug < warn < error < info`, so `info` is the quietest.
//! Where lines go, and what the journal gets beside them, stands in [`crate::output`].

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::output::{self, Entry, Priority, Stream};

/// Level of a line, from most to least verbose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Per packet and per connection.
    Trace,
    /// Per registration.
    Debug,
    /// Something that an operator may want to look at.
    Warn,
    /// Something failed.
    Error,
    /// Worth waking up for; printed at every setting.
    Info,
}

/// A level name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown logging level string provided: \"{0}\" (expected trace, debug, warn, error or info)"
)]
pub struct UnknownLevel(String);

impl std::str::FromStr for Level {
    type Err = UnknownLevel;

    /// Case-insensitive; the empty text is `error`.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "warn" => Ok(Self::Warn),
            "error" | "" => Ok(Self::Error),
            "info" => Ok(Self::Info),
            _ => Err(UnknownLevel(text.to_owned())),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Info => "info",
        })
    }
}

impl Level {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Trace,
            1 => Self::Debug,
            2 => Self::Warn,
            3 => Self::Error,
            _ => Self::Info,
        }
    }
}

/// Level of the configuration and level in force.
static CONFIGURED: AtomicU8 = AtomicU8::new(Level::Error as u8);
static IN_FORCE: AtomicU8 = AtomicU8::new(Level::Error as u8);
/// Counts changes, so that the end of a temporary level does not undo a later one.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Sets the configured level.
pub fn set_level(level: Level) {
    CHANGES.fetch_add(1, Ordering::SeqCst);
    CONFIGURED.store(level as u8, Ordering::Relaxed);
    IN_FORCE.store(level as u8, Ordering::Relaxed);
}

/// Level in force now.
pub fn level() -> Level {
    Level::from_u8(IN_FORCE.load(Ordering::Relaxed))
}

/// Whether a line of `level` is printed now.
pub fn enabled(wanted: Level) -> bool {
    wanted >= level()
}

/// Puts `level` in force for `duration`, then returns to the configured one.
pub fn set_level_for(level: Level, duration: Duration) {
    let change = CHANGES.fetch_add(1, Ordering::SeqCst) + 1;
    IN_FORCE.store(level as u8, Ordering::Relaxed);
    tokio::spawn(async move {
        tokio::time::sleep(duration).await;
        if CHANGES.load(Ordering::SeqCst) == change {
            IN_FORCE.store(CONFIGURED.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    });
}

/// A writer of lines with one prefix.
#[derive(Debug, Clone)]
pub struct Logger {
    prefix: String,
    stderr: bool,
}

impl Logger {
    /// A logger to standard output; `prefix` ends with its own space, e.g. `[REG] `.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), stderr: false }
    }

    /// A logger to standard error.
    pub fn to_stderr(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), stderr: true }
    }

    /// Prints at any setting.
    pub fn print(&self, message: impl fmt::Display) {
        self.write(Priority::Info, &message);
    }

    fn write(&self, priority: Priority, message: &dyn fmt::Display) {
        let stream = if self.stderr { Stream::Err } else { Stream::Out };
        let stamped = |message: &str| {
            let now = chrono::Local::now().format("%Y/%m/%d %H:%M:%S%.6f");
            format!("{}{now} {message}", self.prefix)
        };
        let bare = |message: &str| format!("{}{message}", self.prefix);
        let message = message.to_string();
        let entry =
            Entry { stream, priority, stamped: &|| stamped(&message), bare: &|| bare(&message) };
        output::write(&entry, &[]);
    }

    /// Prints when `level` is enabled; the message is formatted only then.
    pub fn at(&self, level: Level, message: fmt::Arguments<'_>) {
        if enabled(level) {
            let priority = match level {
                Level::Trace | Level::Debug => Priority::Debug,
                Level::Warn => Priority::Warning,
                Level::Error => Priority::Error,
                Level::Info => Priority::Info,
            };
            self.write(priority, &message);
        }
    }

    /// Prints an `info` line, which is printed at every setting.
    pub fn info(&self, message: impl fmt::Display) {
        self.at(Level::Info, format_args!("{message}"));
    }

    /// Prints an `error` line.
    pub fn error(&self, message: impl fmt::Display) {
        self.at(Level::Error, format_args!("{message}"));
    }

    /// Prints a `warn` line.
    pub fn warn(&self, message: impl fmt::Display) {
        self.at(Level::Warn, format_args!("{message}"));
    }

    /// Prints a `debug` line.
    pub fn debug(&self, message: impl fmt::Display) {
        self.at(Level::Debug, format_args!("{message}"));
    }

    /// Prints a `trace` line.
    pub fn trace(&self, message: impl fmt::Display) {
        self.at(Level::Trace, format_args!("{message}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_the_quietest_level() {
        assert!(Level::Info > Level::Error);
        assert!(Level::Error > Level::Warn);
        assert!(Level::Warn > Level::Debug);
        assert!(Level::Debug > Level::Trace);
    }

    #[test]
    fn level_names() {
        assert_eq!("ERROR".parse(), Ok(Level::Error));
        assert_eq!("".parse(), Ok(Level::Error));
        for level in [Level::Trace, Level::Debug, Level::Warn, Level::Error, Level::Info] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("verbose".parse::<Level>().unwrap_err().to_string().contains("\"verbose\""));
    }
}
