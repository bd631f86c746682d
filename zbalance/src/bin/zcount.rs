//! Counts packets of a running balancer.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    zbalance::monitor::count::Arguments::main()
}
