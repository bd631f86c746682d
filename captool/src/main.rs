//! Captures the traffic of phantom subnets with anonymised clients.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    captool::main(captool::arguments::Arguments::of_process()).into()
}
