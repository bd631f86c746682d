//! Every setting of the station's files, with its kind, default and meaning: the source of
//! `station config show`, of the JSON schemas, of commented files and of the reference in `docs/`.
//! Tests hold it against the readers of the files.

mod application;
mod page;
mod registrar;
mod schema;
mod station;
mod written;

pub use application::APPLICATION;
pub use page::page;
pub use registrar::REGISTRAR;
pub use schema::schema;
pub use station::{STATION, Variable};
pub use written::{Shown, rewrite, show};

/// What a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A path of a file.
    Path,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A length of time such as `300ms`, `5m` or `2.0h`.
    Duration,
    /// `true` or `false`.
    Boolean,
    /// A whole number within these bounds.
    Integer(i64, i64),
    /// A number.
    Number,
    /// A list of strings.
    Texts,
    /// Tables headed `[[name]]`, with these settings.
    Tables(&'static [Setting]),
}

/// What holds when a setting is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// The file is refused.
    Required,
    /// This, as it would be written in the file.
    Value(&'static str),
    /// This, in words.
    Meaning(&'static str),
}

/// One setting of a TOML file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Key.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it.
    pub default: Default,
    /// Meaning, with units.
    pub meaning: &'static str,
}

const fn setting(
    name: &'static str,
    kind: Kind,
    default: Default,
    meaning: &'static str,
) -> Setting {
    Setting { name, kind, default, meaning }
}

/// The TOML files of the station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// `app_config.toml`.
    Application,
    /// `reg_config.toml`.
    Registrar,
}

impl File {
    /// Every file.
    pub const ALL: [Self; 2] = [Self::Application, Self::Registrar];

    /// Usual name of the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Application => "app_config.toml",
            Self::Registrar => "reg_config.toml",
        }
    }

    /// Variable of `conjure.conf` that holds its path.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Application => "CJ_STATION_CONFIG",
            Self::Registrar => "CJ_REGISTRAR_CONFIG",
        }
    }

    /// Its settings, in the order in which they are explained.
    pub const fn settings(self) -> &'static [Setting] {
        match self {
            Self::Application => APPLICATION,
            Self::Registrar => REGISTRAR,
        }
    }

    /// The file as we ship it.
    pub const fn shipped(self) -> &'static str {
        match self {
            Self::Application => include_str!("../../app_config.toml"),
            Self::Registrar => include_str!("../../reg_config.toml"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::KNOWN;
    use crate::{Application, Detector, Registrar};
    use std::collections::BTreeSet;
    use std::fmt::Debug;
    use std::path::Path;

    /// The least that each file must say.
    fn least(file: File) -> &'static str {
        match file {
            File::Application => "socket_name = \"zmq-proxy\"\n",
            File::Registrar => {
                "log_level = \"info\"\nzmq_bind_addr = \"127.0.0.1\"\nzmq_auth_type = \"NULL\"\n\
                 clientconf_path = \"/c\"\n"
            }
        }
    }

    /// What the readers of `file` make of `text`.
    fn read(file: File, text: &str) -> Result<String, String> {
        fn shown<T: Debug>(
            result: Result<crate::Loaded<T>, crate::Problems>,
        ) -> Result<String, String> {
            result.map(|loaded| format!("{:?}", loaded.value)).map_err(|e| e.to_string())
        }
        let path = Path::new("f.toml");
        match file {
            File::Application => {
                let application = shown(Application::parse(text, path))?;
                Ok(application + &shown(Detector::parse(text, path))?)
            }
            File::Registrar => shown(Registrar::parse(text, path)),
        }
    }

    /// `key = value`, in the place of a line of `text` with that key.
    fn with(text: &str, key: &str, value: &str) -> String {
        let others = text.lines().filter(|line| !line.starts_with(&format!("{key} =")));
        let mut lines: Vec<String> = others.map(str::to_owned).collect();
        lines.push(format!("{key} = {value}"));
        lines.join("\n")
    }

    #[test]
    fn lists_just_the_keys_that_are_read() {
        for file in File::ALL {
            KNOWN.take();
            // One table of each kind, so that the keys inside are asked for.
            let tables = match file {
                File::Application => {
                    "[[connect_sockets]]\naddress = \"ipc://@d\"\ntype = \"CURVE\"\n"
                }
                File::Registrar => {
                    "[[override_subnet]]\ncidr = \"192.0.2.0/24\"\nweight = 1\n\
                     transport = \"Min_Transport\"\n[[excluded_subnet_from_overrides]]\n\
                     cidr = \"192.0.2.0/24\"\n"
                }
            };
            let _ = read(file, &format!("{}{tables}", least(file)));
            let asked: BTreeSet<&str> = KNOWN.take().into_iter().collect();
            let mut listed = BTreeSet::new();
            for setting in file.settings() {
                listed.insert(setting.name);
                if let Kind::Tables(inner) = setting.kind {
                    listed.extend(inner.iter().map(|s| s.name));
                }
            }
            assert_eq!(listed, asked, "{} (left: catalogue)", file.name());
        }
    }

    #[test]
    fn says_the_defaults_that_hold() {
        for file in File::ALL {
            let without = read(file, least(file)).unwrap();
            for setting in file.settings() {
                match setting.default {
                    Default::Value(value) => {
                        let text = with(least(file), setting.name, value);
                        let found = read(file, &text);
                        assert_eq!(found.as_deref(), Ok(&*without), "{} = {value}", setting.name);
                    }
                    Default::Required => {
                        let lines = least(file).lines();
                        let rest: Vec<&str> =
                            lines.filter(|l| !l.starts_with(setting.name)).collect();
                        let error = read(file, &rest.join("\n")).unwrap_err();
                        assert!(error.contains(setting.name), "{}: {error}", setting.name);
                    }
                    Default::Meaning(_) => {}
                }
            }
        }
    }

    #[test]
    fn says_the_kinds_that_are_read() {
        for file in File::ALL {
            for setting in file.settings() {
                // Keys that only the reference reads are of no kind.
                if setting.meaning.starts_with("Ignored") {
                    continue;
                }
                let wrong = match setting.kind {
                    Kind::Text | Kind::Path | Kind::Choice(_) | Kind::Duration => vec!["7", "true"],
                    Kind::Boolean => vec!["7", "\"yes\""],
                    Kind::Integer(..) => vec!["\"7\"", "true", "7.5"],
                    Kind::Number => vec!["\"7\"", "true"],
                    Kind::Texts | Kind::Tables(_) => vec!["7", "true"],
                };
                for value in wrong {
                    let text = with(least(file), setting.name, value);
                    let error = read(file, &text).unwrap_err();
                    assert!(error.contains(setting.name), "{} = {value}: {error}", setting.name);
                }
                match setting.kind {
                    Kind::Integer(least_value, most) => {
                        for (value, good) in [
                            (least_value, true),
                            (most, true),
                            (least_value - 1, false),
                            (most + 1, false),
                        ] {
                            let text = with(least(file), setting.name, &value.to_string());
                            let name = setting.name;
                            assert_eq!(read(file, &text).is_ok(), good, "{name} = {value}");
                        }
                    }
                    Kind::Choice(choices) => {
                        for choice in choices {
                            let text = with(least(file), setting.name, &format!("\"{choice}\""));
                            let found = read(file, &text);
                            // CURVE also wants a key, which is not what is tried here.
                            let other =
                                found.as_ref().err().is_some_and(|e| !e.contains(setting.name));
                            assert!(found.is_ok() || other, "{} = {choice}", setting.name);
                        }
                        let text = with(least(file), setting.name, "\"strange\"");
                        assert!(read(file, &text).is_err(), "{} = strange", setting.name);
                    }
                    Kind::Duration => {
                        let text = with(least(file), setting.name, "\"5 lightyears\"");
                        assert!(read(file, &text).is_err(), "{}", setting.name);
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn lists_just_the_variables_that_are_known() {
        let known: BTreeSet<&str> = crate::variables::known().collect();
        let listed: BTreeSet<&str> = STATION.iter().map(|v| v.name).collect();
        assert_eq!(listed, known, "(left: catalogue)");
        for variable in STATION {
            assert!(!variable.meaning.is_empty() && !variable.read_by.is_empty());
        }
    }
}
