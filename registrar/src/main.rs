//! The registrar daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    registrar::daemon::main(registrar::arguments::Arguments::of_process()).into()
}
