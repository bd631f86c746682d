//! Prints the ratio of every hot path and writes `target/bench.json`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::run(std::env::args().skip(1)).into()
}
