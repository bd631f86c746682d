//! The zbalance daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    zbalance::daemon::main(zbalance::arguments::Arguments::of_process()).into()
}
