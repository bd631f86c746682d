//! `station exec`: becomes one daemon, started with the settings of `conjure.conf`.
//!
//! Units and containers use it instead of the start scripts: one reader of the files, no shell, and
//! the daemon itself is the process that the service manager signals.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;

use conf::{Loaded, Station};
use telemetry::process::Exit;

use crate::arguments::Configuration;
use crate::daemons::Daemon;

/// Arguments of `station exec`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Daemon to become.
    daemon: Daemon,
    #[command(flatten)]
    configuration: Configuration,
    /// Further arguments of the daemon.
    #[arg(last = true)]
    rest: Vec<OsString>,
}

/// Replaces this process by the daemon; returns only when that fails.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let station = match Station::load(&arguments.configuration.sources()) {
        Ok(Loaded { value, notices }) => {
            for notice in notices {
                eprintln!("station: note: {notice}");
            }
            value
        }
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Config;
        }
    };
    let command = match arguments.daemon {
        Daemon::Zbalance => {
            pf_ring_is_ready(&station).and_then(|()| Daemon::Zbalance.command(&station))
        }
        daemon => daemon.command(&station),
    };
    match command {
        Ok(mut command) => {
            let error = command.args(&arguments.rest).exec();
            let program = command.get_program().display();
            eprintln!("station: {program}: {error}; install it beside station");
            Exit::OsErr
        }
        Err(problem) => {
            eprintln!("{problem}");
            Exit::Config
        }
    }
}

/// What the PF_RING back end needs of the host; the other back ends need nothing.
fn pf_ring_is_ready(station: &Station) -> Result<(), conf::Problem> {
    let pages = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    // Only the line of the polling mode: other lines name the card, too.
    let has_zc = |name: &str| {
        let path = Path::new("/proc/net/pf_ring/dev").join(name).join("info");
        let info = std::fs::read_to_string(path).unwrap_or_default();
        info.lines().any(|line| line.starts_with("Polling Mode") && line.contains("ZC"))
    };
    conf::command_lines::check_pf_ring(station, pages.trim().parse().unwrap_or(0), has_zc)
}
