//! Tools that look at the packets of a running balancer: [`count`] and [`dump`].
//!
//! By default they look through a mirror ([`view`]): no consumer loses a packet to them, and what they are too
//! slow for is theirs to lose.

pub mod count;
pub mod dump;
mod view;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;
use telemetry::process::Exit;

pub use view::{View, ViewError};

/// The exit code of a tool, which says what went wrong. A program that reads no further is no fault.
fn outcome(tool: &str, result: Result<(), ViewError>) -> Exit {
    match result {
        Ok(()) => Exit::Ok,
        Err(ViewError::Write { cause, .. }) if cause.kind() == ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            eprintln!("{tool}: {error}");
            error.exit()
        }
    }
}

/// Parses the command line of this process for a tool and runs it.
fn main<A: Parser>(run: impl FnOnce(&A) -> Exit) -> ExitCode {
    match A::try_parse() {
        Ok(arguments) => run(&arguments).into(),
        Err(error) => {
            // Nothing better can be done when the terminal is gone.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS }
        }
    }
}
