//! Counts the instructions of the pure kernels; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    counts::run(std::env::args().skip(1)).into()
}
