//! The four daemons: their programs, arguments and environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use conf::{Problem, Station};

/// A daemon of the station, in the order in which they are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Daemon {
    /// Capture and distribution of packets.
    Zbalance,
    /// Search for registrations, forwarding of packets.
    Detector,
    /// Registrations, phantoms and relays.
    Application,
    /// Registration channels.
    Registrar,
}

impl Daemon {
    pub(crate) const ALL: [Self; 4] =
        [Self::Zbalance, Self::Detector, Self::Application, Self::Registrar];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Zbalance => "zbalance",
            Self::Detector => "detector",
            Self::Application => "application",
            Self::Registrar => "registrar",
        }
    }

    /// The program: beside this one, or in the installation that `CJ_PATH` names.
    pub(crate) fn program(self, station: &Station) -> PathBuf {
        let own = std::env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent).map(|dir| dir.join(self.name()));
        match beside {
            Some(path) if path.is_file() => path,
            _ => station.path.join("bin").join(self.name()),
        }
    }

    /// The command that starts the daemon from `station`'s configuration.
    pub(crate) fn command(self, station: &Station) -> Result<Command, Problem> {
        let mut command = Command::new(self.program(station));
        match self {
            Self::Zbalance => command.args(conf::command_lines::zbalance(station)?),
            Self::Detector => command.args(conf::command_lines::detector(station)),
            Self::Application | Self::Registrar => &mut command,
        };
        // The files win over what this process inherited: they have been evaluated together.
        for (name, variable) in station.variables.iter() {
            command.env(name, &variable.value);
        }
        Ok(command)
    }

    /// Path of the admin socket.
    pub(crate) fn admin_socket(self, ipc_dir: &Path, offset: u32) -> PathBuf {
        let offset = if self == Self::Registrar { 0 } else { offset };
        telemetry::admin::socket_path(ipc_dir, self.name(), offset)
    }
}
