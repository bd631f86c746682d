//! The detector daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    detector::daemon::main(std::env::args_os().skip(1)).into()
}
