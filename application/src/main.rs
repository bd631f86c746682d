//! The application daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = telemetry::doctor::asked("application") {
        return code;
    }
    if telemetry::process::wants_health(std::env::args_os()) {
        return application::daemon::health();
    }
    application::daemon::main(application::arguments::Arguments::of_process()).into()
}
