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
    if station.backend == conf::IngestBackend::PfRing {
        let module = std::fs::read_to_string("/proc/net/pf_ring/info").unwrap_or_default();
        let image = std::fs::read_to_string("/etc/conjure-pfring").ok();
        versions_agree(&module, image.as_deref())?;
    }
    let pages = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    // Only the line of the polling mode: other lines name the card, too.
    let has_zc = |name: &str| {
        let path = Path::new("/proc/net/pf_ring/dev").join(name).join("info");
        let info = std::fs::read_to_string(path).unwrap_or_default();
        info.lines().any(|line| line.starts_with("Polling Mode") && line.contains("ZC"))
    };
    conf::command_lines::check_pf_ring(station, pages.trim().parse().unwrap_or(0), has_zc)
}

/// Compares the version in the text of `/proc/net/pf_ring/info` with that of the library in this
/// image; `None` is a library of the host's own. Attaching with another version fails with errors
/// that name neither.
fn versions_agree(module: &str, image: Option<&str>) -> Result<(), conf::Problem> {
    let problem = |found: String, expected: String| conf::Problem {
        origin: conf::Origin::Environment,
        key: "CJ_INGEST_BACKEND=pfring".to_owned(),
        found,
        expected,
    };
    let line = module.lines().find_map(|line| line.strip_prefix("PF_RING Version"));
    let Some(module) = line.and_then(|line| line.trim_start_matches([' ', ':']).split(' ').next())
    else {
        let expected = "the kernel module to be loaded (modprobe pf_ring)".to_owned();
        return Err(problem("no /proc/net/pf_ring/info".to_owned(), expected));
    };
    let image = image.unwrap_or("host").trim();
    let plain = image.trim_start_matches("tags/").trim_end_matches("-stable");
    if ["host", "latest"].contains(&image) || plain == module {
        return Ok(());
    }
    Err(problem(
        format!("PF_RING {image} in this image and {module} in the kernel"),
        format!("the same version (make pfring_ver={module} container)"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_library_and_module() {
        let info = "PF_RING Version          : 8.9.0 (unknown)\nTotal rings : 0\n";
        for image in
            [None, Some("latest"), Some("8.9.0\n"), Some("tags/8.9.0"), Some("8.9.0-stable")]
        {
            versions_agree(info, image).unwrap();
        }
        for image in ["none", "8.4.0"] {
            let error = versions_agree(info, Some(image)).unwrap_err().to_string();
            assert!(error.contains("make pfring_ver=8.9.0 container"), "{error}");
        }
        assert!(versions_agree("", Some("8.9.0")).unwrap_err().to_string().contains("modprobe"));
    }
}
