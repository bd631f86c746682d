//! Writes packets of a running balancer.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use telemetry::process::Exit;
use zbalance::monitor::dump::Arguments;

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => arguments.run().into(),
        Err(error) => {
            // Nothing better can be done when the terminal is gone.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS }
        }
    }
}
