//! The zbalance daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use telemetry::{admin, process};

fn main() -> ExitCode {
    if let Some(code) = telemetry::doctor::asked("ingest") {
        return code;
    }
    if process::wants_health(std::env::args_os()) {
        let path = admin::socket_path(&admin::ipc_dir(), "zbalance", 0);
        return process::Exit::of_health("zbalance", process::health(&path));
    }
    zbalance::daemon::main(zbalance::arguments::Arguments::of_process()).into()
}
