//! Counts the instructions of the pure kernels; see the module `counting` of the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::counting::run(std::env::args().skip(1)).into()
}
