//! `station config schema`.

use conf::catalogue::{self, File};
use telemetry::process::Exit;

/// A file that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// app_config.toml
    Application,
    /// reg_config.toml
    Registrar,
}

/// Prints the schema.
pub(crate) fn main(name: Name) -> Exit {
    let file = match name {
        Name::Application => File::Application,
        Name::Registrar => File::Registrar,
    };
    println!("{:#}", catalogue::schema(file));
    Exit::Ok
}
