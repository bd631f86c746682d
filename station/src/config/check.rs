//! `station config check`: everything that the daemons would read, before anything is started.

use std::process::Stdio;

use conf::{Loaded, Station};
use telemetry::process::Exit;

use crate::arguments::Configuration;
use crate::daemons::Daemon;

/// Checks the configuration and prints what it finds.
pub(crate) fn main(configuration: &Configuration) -> Exit {
    let station = match Station::load(&configuration.sources()) {
        Ok(Loaded { value, notices }) => {
            for notice in notices {
                println!("note: {notice}");
            }
            value
        }
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Config;
        }
    };
    if all_good(&station) { Exit::Ok } else { Exit::Config }
}

/// Lets every daemon check its own files; all of them, so that one run shows all errors.
pub(crate) fn all_good(station: &Station) -> bool {
    let mut good = true;
    for daemon in Daemon::ALL {
        let mut command = match daemon.command(station) {
            Ok(command) => command,
            Err(problem) => {
                eprintln!("{}: {problem}", daemon.name());
                good = false;
                continue;
            }
        };
        command.arg("--check-config").stdin(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                eprintln!("{}: configuration refused ({status})", daemon.name());
                good = false;
            }
            Err(error) => {
                let program = daemon.program(station);
                eprintln!("{}: {error}; build or install it first", program.display());
                good = false;
            }
        }
    }
    good
}
