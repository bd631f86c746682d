//! Log lines in the reference's structured form (`spec/registrar.md` 2.6), on standard error.

use std::fmt::{Display, Write as _};

use conf::RegistrarLogLevel as Level;
use telemetry::log::Level as Filter;
use telemetry::output::{self, Entry, Priority, Stream};

/// Sets the level; the admin service may change it later.
pub fn set_level(level: Level) {
    telemetry::log::set_level(match level {
        Level::Fatal | Level::Error => Filter::Error,
        Level::Warning => Filter::Warn,
        Level::Info => Filter::Info,
        Level::Debug => Filter::Debug,
        Level::Trace => Filter::Trace,
    });
}

/// True when lines of `level` are printed. The names are shared with the other daemons, the order
/// here is the usual one.
pub fn enabled(level: Level) -> bool {
    level
        <= match telemetry::log::level() {
            Filter::Error => Level::Error,
            Filter::Warn => Level::Warning,
            Filter::Info => Level::Info,
            Filter::Debug => Level::Debug,
            Filter::Trace => Level::Trace,
        }
}

/// Prints a line with `fields`, which are sorted by name.
pub fn line(level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
    if !enabled(level) {
        return;
    }
    let stamped = || {
        let time = chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        format(&time, level, message, fields)
    };
    let bare = || {
        let mut text = message.to_owned();
        write_fields(&mut text, fields);
        text
    };
    let priority = match level {
        Level::Fatal => Priority::Critical,
        Level::Error => Priority::Error,
        Level::Warning => Priority::Warning,
        Level::Info => Priority::Info,
        Level::Debug | Level::Trace => Priority::Debug,
    };
    output::write(&Entry { stream: Stream::Err, priority, stamped: &stamped, bare: &bare }, &[]);
}

/// Prints a line in the second form, which has no level: time and text.
pub fn plain(text: &str) {
    let stamped = || format!("{} {text}", chrono::Local::now().format("%Y/%m/%d %H:%M:%S"));
    let bare = || text.to_owned();
    let priority = Priority::Info;
    output::write(&Entry { stream: Stream::Err, priority, stamped: &stamped, bare: &bare }, &[]);
}

fn format(time: &str, level: Level, message: &str, fields: &[(&str, &dyn Display)]) -> String {
    let name = match level {
        Level::Fatal => "fatal",
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut text = format!("time=\"{time}\" level={name} msg={}", value(message));
    write_fields(&mut text, fields);
    text
}

/// Adds the fields, sorted by name.
fn write_fields(text: &mut String, fields: &[(&str, &dyn Display)]) {
    let mut fields: Vec<(&str, String)> =
        fields.iter().map(|(name, value)| (*name, value.to_string())).collect();
    fields.sort();
    for (name, field) in fields {
        // Writing into a String cannot fail.
        let _ = write!(text, " {name}={}", value(&field));
    }
}

/// A value, quoted unless it is a plain word.
fn value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_as_tools_expect() {
        let text = format(
            "2025-06-18T15:46:32Z",
            Level::Info,
            "current metrics",
            &[("cc_updated", &2), ("api_requests_total", &14), ("note", &"a \"b\"\n")],
        );
        assert_eq!(
            text,
            "time=\"2025-06-18T15:46:32Z\" level=info msg=\"current metrics\" \
             api_requests_total=14 cc_updated=2 note=\"a \\\"b\\\"\\n\""
        );
    }
}
