//! The detector daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = telemetry::doctor::asked("detector") {
        return code;
    }
    let words = || std::env::args_os().skip(1);
    if telemetry::process::wants_health(words()) {
        return detector::daemon::health(words());
    }
    detector::daemon::main(words()).into()
}
