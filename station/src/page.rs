//! `station page`: the figures of the station as a web page on this host.

use std::path::PathBuf;

use dashboard::page::Listen;
use telemetry::admin;
use telemetry::process::Exit;

/// Arguments of `station page`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Loopback address and port, or unix:PATH.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8088")]
    listen: Listen,
    /// Clients that a row must stand for; the others are summed up. Without it CJ_METRICS_FLOOR, or 10.
    #[arg(long, value_name = "CLIENTS")]
    floor: Option<u32>,
    /// Folder of the admin sockets; otherwise CJ_IPC_DIR or /run/conjure.
    #[arg(long, value_name = "DIR")]
    ipc_dir: Option<PathBuf>,
    /// Number of the station on this host.
    #[arg(long, env = "OFFSET", default_value_t = 0)]
    offset: u32,
}

/// Serves the page until the process is told to end.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let floor = match arguments.floor.map_or_else(telemetry::metrics::floor, Ok) {
        Ok(floor) => floor,
        Err(error) => {
            eprintln!("station: {error}");
            return Exit::Config;
        }
    };
    let dir = arguments.ipc_dir.clone().unwrap_or_else(admin::ipc_dir);
    let ready = |listen: &Listen| println!("the page is at {listen}");
    match dashboard::page::serve(&arguments.listen, &dir, arguments.offset, floor, ready) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!(
                "station: page on {}: {error} (choose another place with --listen)",
                arguments.listen
            );
            Exit::Unavailable
        }
    }
}
