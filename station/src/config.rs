//! `station config`: configuration files, read, shown, explained and brought over from the
//! reference.

pub(crate) mod check;
mod migrate;
mod schema;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use conf::{Loaded, Station};
use telemetry::process::Exit;

use crate::arguments::Configuration;

/// Subcommands of `station config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read every file that the daemons would read and say what is wrong.
    Check(Configuration),
    /// Print every setting with its value and where that was set.
    Show(show::Arguments),
    /// Rewrite the files of an existing station with every setting explained.
    Migrate(migrate::Arguments),
    /// Print the JSON schema of a TOML file.
    Schema {
        /// File to describe.
        #[arg(value_enum)]
        file: schema::Name,
    },
}

/// Runs the subcommand.
pub(crate) fn main(command: &Command) -> Exit {
    match command {
        Command::Check(configuration) => check::main(configuration),
        Command::Show(arguments) => show::main(arguments),
        Command::Migrate(arguments) => migrate::main(arguments),
        Command::Schema { file } => schema::main(*file),
    }
}

/// The evaluated `conjure.conf`; remarks go to standard error, errors too.
pub(crate) fn load(configuration: &Configuration) -> Result<Station, Exit> {
    match Station::load(&configuration.sources()) {
        Ok(Loaded { value, notices }) => {
            for notice in notices {
                eprintln!("note: {notice}");
            }
            Ok(value)
        }
        Err(problems) => {
            eprintln!("{problems}");
            Err(Exit::Config)
        }
    }
}

/// Path of a TOML file of `station`.
fn path_of(file: conf::catalogue::File, station: &Station) -> PathBuf {
    match file {
        conf::catalogue::File::Application => station.station_config.clone(),
        conf::catalogue::File::Registrar => station.registrar_config.clone(),
    }
}
