//! The registrar daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = telemetry::doctor::asked("registrar") {
        return code;
    }
    if telemetry::process::wants_health(std::env::args_os()) {
        return registrar::daemon::health();
    }
    registrar::daemon::main(registrar::arguments::Arguments::of_process()).into()
}
