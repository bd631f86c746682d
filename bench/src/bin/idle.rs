//! Measures the heap of idle tunnels for `bench`; see the module `idle` of the library.
#![forbid(unsafe_code)]

use bench::idle::Heap;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Counts the calling thread's allocations.
    let heap: Heap = |work| allocation_counter::measure(work).bytes_current;
    match bench::idle::run(std::env::args().skip(1), heap) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench-idle: {reason}");
            ExitCode::from(69)
        }
    }
}
