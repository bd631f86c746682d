//! `station upgrade`: replaces running daemons by the programs on disk. The new process starts beside the
//! old one and takes its sockets and devices (`--take-over`); the old one lives on until what it holds
//! has ended.

mod beside;
mod supervised;

use std::path::PathBuf;
use std::time::Duration;

use signalling::station::StatusReply;
use telemetry::admin;
use telemetry::process::Exit;

use crate::daemons::Daemon;
use crate::status;

pub(crate) use supervised::{Desk, Request};

/// Time that a new process has to become ready.
const READY: Duration = Duration::from_secs(30);

/// Arguments of `station upgrade`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Daemons to replace; without any, all that run.
    daemons: Vec<Daemon>,
    /// Longest time that the old process lives on for what it holds, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    drain: u64,
    /// Folder of the station's sockets; otherwise CJ_IPC_DIR or /run/conjure.
    #[arg(long, value_name = "DIR")]
    ipc_dir: Option<PathBuf>,
    /// Number of the station on this host.
    #[arg(long, env = "OFFSET", default_value_t = 0)]
    offset: u32,
}

/// Replaces the daemons one after the other and prints a line for each; stops at the first failure, with
/// the old process still serving.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let dir = arguments.ipc_dir.clone().unwrap_or_else(admin::ipc_dir);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("station: cannot start: {error}");
            return Exit::OsErr;
        }
    };
    let named = !arguments.daemons.is_empty();
    let mut replaced = 0;
    for daemon in Daemon::ALL.into_iter().filter(|d| !named || arguments.daemons.contains(d)) {
        let path = daemon.admin_socket(&dir, arguments.offset);
        let old = match runtime.block_on(status::ask(&path)) {
            Ok(status) => pid_of(&status),
            Err(error) if named => {
                eprintln!("{}: not upgraded: {}: {error}", daemon.name(), path.display());
                return Exit::Unavailable;
            }
            Err(_) => continue,
        };
        let result = match supervised::ask(&dir, daemon, arguments.drain) {
            Some(result) => result,
            None => runtime.block_on(beside::replace(daemon, old, &path, arguments.drain)),
        };
        match result {
            Ok(new) => {
                replaced += 1;
                println!("{}: process {new} serves, process {old} finishes", daemon.name());
            }
            Err(error) => {
                eprintln!("{}: not upgraded, process {old} goes on: {error}", daemon.name());
                return Exit::Software;
            }
        }
    }
    if replaced == 0 {
        eprintln!("station: no daemon answers below {}", dir.display());
        return Exit::Unavailable;
    }
    Exit::Ok
}

fn pid_of(status: &StatusReply) -> u32 {
    status.identity.as_ref().map_or(0, |identity| identity.pid)
}
