//! `manual man DIR` and `manual completions DIR`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use telemetry::process::Exit;

/// Writes man pages and shell completions of every program, from its command line.
#[derive(Debug, Parser)]
#[command(name = "manual")]
enum Arguments {
    /// Write man pages.
    Man {
        /// Folder of the pages; made when it is not there.
        dir: PathBuf,
    },
    /// Write completions, in a folder for each shell.
    Completions {
        /// Folder of the folders; made when it is not there.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let (written, dir) = match Arguments::parse() {
        Arguments::Man { dir } => (manual::man(&dir), dir),
        Arguments::Completions { dir } => (manual::completions(&dir), dir),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {}: {error}", dir.display());
            Exit::CantCreat.into()
        }
    }
}
