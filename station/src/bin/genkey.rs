//! The `genkey` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    station::genkey::main(station::genkey::Arguments::of_process())
}
