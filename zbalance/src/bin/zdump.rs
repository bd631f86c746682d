//! Writes packets of a running balancer.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    zbalance::monitor::dump::Arguments::main()
}
