//! Writes one line of each level, for the test of what a service manager gets.

use telemetry::log::{Level, Logger, set_level};
use telemetry::output::{self, Entry, Format, Priority, Stream};

fn main() {
    output::start("example", Format::of_environment().expect("CJ_LOG_FORMAT"));
    set_level(Level::Trace);
    let log = Logger::new("[REG] ");
    log.trace("a trace");
    log.warn("two\nlines");
    Logger::to_stderr("").error("a failure");
    let line = || "core line".to_owned();
    let entry =
        Entry { stream: Stream::Out, priority: Priority::Info, stamped: &line, bare: &line };
    output::write(&entry, &[("CONJURE_CORE", "3"), ("CONJURE_CLUSTER", "98")]);
}
