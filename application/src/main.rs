//! The application daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    application::daemon::main(application::arguments::Arguments::of_process()).into()
}
