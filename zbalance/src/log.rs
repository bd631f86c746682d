//! Lines of the balancer's log: to the terminal or its file as they stand, to the journal with fields.

use std::fmt;
use std::sync::OnceLock;

use telemetry::output::{self, Entry, Priority, Stream};

static CLUSTER: OnceLock<String> = OnceLock::new();

/// Names the cluster, which every line in the journal carries.
pub(crate) fn set_cluster(cluster: u32) {
    // The first stays: a process is one balancer.
    let _ = CLUSTER.set(cluster.to_string());
}

/// Writes a line to standard output.
pub(crate) fn say(text: impl fmt::Display) {
    write(Stream::Out, Priority::Info, "", &text);
}

/// Writes a line about something that an operator may want to know to standard error.
pub(crate) fn notice(text: impl fmt::Display) {
    write(Stream::Err, Priority::Info, "", &text);
}

/// Writes a warning to standard error.
pub(crate) fn warn(text: impl fmt::Display) {
    write(Stream::Err, Priority::Warning, "WARNING: ", &text);
}

/// Writes an error to standard error.
pub(crate) fn error(text: impl fmt::Display) {
    write(Stream::Err, Priority::Error, "ERROR: ", &text);
}

fn write(stream: Stream, priority: Priority, level: &str, text: &dyn fmt::Display) {
    let stamped = || format!("zbalance: {level}{text}");
    let bare = || text.to_string();
    let entry = Entry { stream, priority, stamped: &stamped, bare: &bare };
    match CLUSTER.get() {
        Some(cluster) => output::write(&entry, &[("CONJURE_CLUSTER", cluster)]),
        None => output::write(&entry, &[]),
    }
}
