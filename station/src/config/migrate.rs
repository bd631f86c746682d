//! `station config migrate`: the files of a station of the reference, with every setting explained
//! and old names replaced. The files that are read stay as they are.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use conf::Station;
use conf::catalogue::{self, File, STATION};
use telemetry::process::Exit;

use crate::arguments::Configuration;

/// Arguments of `station config migrate`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    /// Folder for the new files; it must not have files of these names yet.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Names that another took the place of; the settings hold the value already.
const OLD: [(&str, &str); 3] = [
    ("CJ_IP4_ADDR", "IP4_ADDR"),
    ("CJ_IP6_ADDR", "IP6_ADDR"),
    ("CJ_PROXY_CONFIG", "CJ_STATION_CONFIG"),
];

/// Writes the new files and says what was changed.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let station = match super::load(&arguments.configuration) {
        Ok(station) => station,
        Err(exit) => return exit,
    };
    let mut files = vec![("conjure.conf", conjure_conf(&station))];
    for file in File::ALL {
        match catalogue::rewrite(file, &super::path_of(file, &station)) {
            Ok((text, notices)) => {
                for notice in notices {
                    eprintln!("note: {notice}");
                }
                files.push((file.name(), text));
            }
            Err(problems) => {
                eprintln!("{problems}");
                return Exit::Config;
            }
        }
    }
    match std::fs::read_to_string(&station.phantom_subnets) {
        Ok(text) => files.push(("phantom_subnets.toml", text)),
        Err(error) => {
            eprintln!("PHANTOM_SUBNET_LOCATION: {}: {error}", station.phantom_subnets.display());
            return Exit::NoInput;
        }
    }
    for (name, text) in &files {
        if let Err(error) = write(&arguments.to.join(name), text) {
            eprintln!("{}: {error}", arguments.to.join(name).display());
            return Exit::CantCreat;
        }
        println!("{}", arguments.to.join(name).display());
    }
    println!(
        "check them with: station config check --conf {}",
        arguments.to.join("conjure.conf").display()
    );
    Exit::Ok
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::File::create_new(path)?.write_all(text.as_bytes())
}

/// Plain `NAME=VALUE` lines that every reader understands alike.
fn conjure_conf(station: &Station) -> String {
    let mut text = String::from(
        "# conjure.conf: one NAME=VALUE per line. What is commented out holds as it stands.\n",
    );
    for variable in STATION {
        if OLD.iter().any(|(old, _)| *old == variable.name) || variable.name == "CJ_CONF" {
            continue;
        }
        let value = match variable.name {
            "IP4_ADDR" => Some(station.ip4.to_string()),
            "IP6_ADDR" => Some(format!("[{}]", station.ip6)),
            "CJ_STATION_CONFIG" => Some(station.station_config.display().to_string()),
            name => station.variables.value(name).map(str::to_owned),
        };
        let set = station.variables.origin(variable.name) != conf::Origin::Default
            || OLD
                .iter()
                .any(|(old, new)| *new == variable.name && station.variables.filled(old).is_some());
        _ = writeln!(text, "\n# {} Read by: {}.", variable.meaning, variable.read_by);
        _ = match value {
            Some(value) if set => writeln!(text, "{}={}", variable.name, quoted(&value)),
            Some(value) => writeln!(text, "#{}={}", variable.name, quoted(&value)),
            None => writeln!(text, "#{}=", variable.name),
        };
    }
    let known = |name: &str| STATION.iter().any(|variable| variable.name == name);
    for (name, variable) in station.variables.iter().filter(|(name, _)| !known(name)) {
        if variable.origin != conf::Origin::Environment {
            _ = writeln!(
                text,
                "\n# No daemon knows this one.\n#{name}={}",
                quoted(&variable.value)
            );
        }
    }
    text
}

/// `value` in single quotes where bare text would mean something else to a shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,@[]%+=".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}
