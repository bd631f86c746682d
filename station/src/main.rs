//! The `station` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    station::execute(station::arguments::Arguments::of_process())
}
