//! Man pages and shell completions of every program, from its command line.
#![forbid(unsafe_code)]

mod text;

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::aot::{Shell, generate_to};

/// Shells that get completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Command lines of every program.
pub fn commands() -> Vec<Command> {
    vec![
        zbalance::arguments::Arguments::command(),
        zbalance::monitor::count::Arguments::command(),
        zbalance::monitor::dump::Arguments::command(),
        text::command("detector", detector::arguments::HELP),
        application::arguments::Arguments::command(),
        registrar::arguments::Arguments::command(),
        station::arguments::Arguments::command(),
        station::genkey::Arguments::command(),
        captool::arguments::Arguments::command(),
    ]
}

/// Writes `PROGRAM.1`, and one page for each command of a program, to `dir`.
///
/// # Errors
/// When a file cannot be written.
pub fn man(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for command in commands() {
        clap_mangen::generate_to(command, dir)?;
    }
    Ok(())
}

/// Writes completions for bash, zsh and fish to folders of these names in `dir`.
///
/// # Errors
/// When a file cannot be written.
pub fn completions(dir: &Path) -> io::Result<()> {
    for shell in SHELLS {
        let folder = dir.join(shell.to_string());
        std::fs::create_dir_all(&folder)?;
        for mut command in commands() {
            let name = command.get_name().to_owned();
            generate_to(shell, &mut command, name, &folder)?;
        }
    }
    Ok(())
}
