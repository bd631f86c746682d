//! What a TOML file says, as it was written: each value with its line, and the same values again in
//! a file that explains every setting.

use std::fmt::Write;
use std::path::Path;

use toml::de::DeTable;

use super::{Default, File, Kind, Setting};
use crate::problem::{Notice, Origin, Problem, Problems, unknown_key};
use crate::variables;

/// A setting with the value that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Key; of a table's setting `table[N].key`.
    pub name: String,
    /// Value as written, or the default.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

/// A value of the file.
struct Entry {
    key: String,
    line: usize,
    /// As written, comments inside a list included.
    text: String,
    tables: Vec<Vec<Entry>>,
}

fn parse(path: &Path) -> Result<Vec<Entry>, Problems> {
    let text = variables::read(path, true)?.unwrap_or_default();
    let table = DeTable::parse(&text).map_err(|e| Problem {
        origin: Origin::file(path, e.span().map_or(0, |span| line(&text, span.start))),
        key: String::new(),
        found: format!("text that is not TOML ({})", e.message().trim()),
        expected: "KEY = VALUE lines, strings in double quotes".to_owned(),
    })?;
    Ok(entries(table.get_ref(), &text))
}

fn line(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

fn entries(table: &DeTable<'_>, text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| {
            let tables = value.get_ref().as_array().map_or_else(Vec::new, |items| {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.map(|table| self::entries(table, text)).collect()
            });
            Entry {
                key: key.get_ref().to_string(),
                line: line(text, key.span().start),
                text: text[value.span()].trim().to_owned(),
                tables,
            }
        })
        .collect();
    entries.sort_by_key(|entry| entry.line);
    entries
}

/// The entry of `setting`: exact name first, then without regard to case, as the readers do.
fn find<'a>(entries: &'a [Entry], setting: &Setting) -> Option<&'a Entry> {
    entries
        .iter()
        .find(|entry| entry.key == setting.name)
        .or_else(|| entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(setting.name)))
}

/// Every setting of the file at `path` with the value that holds.
///
/// # Errors
/// [`Problems`] when the file cannot be read or is no TOML. Whether its values are good is the
/// business of the readers.
pub fn show(file: File, path: &Path) -> Result<Vec<Shown>, Problems> {
    let mut shown = Vec::new();
    show_table(file.settings(), &parse(path)?, path, "", &mut shown);
    Ok(shown)
}

fn show_table(
    settings: &[Setting],
    entries: &[Entry],
    path: &Path,
    prefix: &str,
    shown: &mut Vec<Shown>,
) {
    for setting in settings {
        let name = format!("{prefix}{}", setting.name);
        match (setting.kind, find(entries, setting)) {
            (Kind::Tables(inner), Some(entry)) if !entry.tables.is_empty() => {
                for (index, table) in entry.tables.iter().enumerate() {
                    show_table(inner, table, path, &format!("{name}[{index}]."), shown);
                }
            }
            (_, Some(entry)) => shown.push(Shown {
                name,
                value: entry.text.clone(),
                origin: Origin::file(path, entry.line),
            }),
            (_, None) => {
                let value = match setting.default {
                    Default::Required => continue,
                    Default::Value(value) => value.to_owned(),
                    Default::Meaning(words) => format!("({words})"),
                };
                shown.push(Shown { name, value, origin: Origin::Default });
            }
        }
    }
}

/// The values of the file at `path` in a file that explains every setting; those that are absent
/// stand there as comments, with their defaults.
///
/// # Errors
/// As [`show`].
pub fn rewrite(file: File, path: &Path) -> Result<(String, Vec<Notice>), Problems> {
    let entries = parse(path)?;
    let mut notices = Vec::new();
    let mut text = format!(
        "# {}, every setting with its meaning. What is commented out holds as it stands.\n",
        file.name()
    );
    write_table(file.settings(), &entries, path, &mut text, &mut notices);
    Ok((text, notices))
}

fn write_table(
    settings: &[Setting],
    entries: &[Entry],
    path: &Path,
    text: &mut String,
    notices: &mut Vec<Notice>,
) {
    let mut tables = String::new();
    for setting in settings {
        let entry = find(entries, setting);
        let out = if matches!(setting.kind, Kind::Tables(_)) { &mut tables } else { &mut *text };
        if let Kind::Tables(inner) = setting.kind
            && entry.is_none_or(|entry| !entry.tables.is_empty())
        {
            explain(out, setting.meaning);
            match entry {
                None => _ = writeln!(out, "# [[{}]]", setting.name),
                Some(entry) => {
                    for table in &entry.tables {
                        _ = writeln!(out, "\n[[{}]]", setting.name);
                        write_table(inner, table, path, out, notices);
                    }
                }
            }
            continue;
        }
        explain(out, setting.meaning);
        _ = match (entry, setting.default) {
            (Some(entry), _) => writeln!(out, "{} = {}", setting.name, entry.text),
            (None, Default::Value(value)) => writeln!(out, "# {} = {value}", setting.name),
            (None, Default::Meaning(words)) => {
                writeln!(out, "# {} (without it: {words})", setting.name)
            }
            (None, Default::Required) => writeln!(out, "# {} must be set", setting.name),
        };
    }
    for entry in entries {
        if !settings.iter().any(|setting| setting.name.eq_ignore_ascii_case(&entry.key)) {
            let remark = unknown_key(&entry.key, settings.iter().map(|setting| setting.name));
            explain(text, &remark);
            for line in format!("{} = {}", entry.key, entry.text).lines() {
                _ = writeln!(text, "# {line}");
            }
            notices.push(Notice { origin: Origin::file(path, entry.line), text: remark });
        }
    }
    text.push_str(&tables);
}

/// A comment of its own paragraph, broken into lines.
fn explain(text: &mut String, meaning: &str) {
    text.push('\n');
    let mut line = String::from("#");
    for word in meaning.split(' ') {
        if line.len() + word.len() > 98 {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Application, Registrar};

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn same(a: &impl std::fmt::Debug, b: &impl std::fmt::Debug) {
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
    }

    #[test]
    fn a_rewritten_file_says_the_same() {
        let (_dir, path) = file(File::Application.shipped());
        let (text, notices) = rewrite(File::Application, &path).unwrap();
        assert_eq!(notices, []);
        let before = Application::load(&path).unwrap().value;
        same(&Application::parse(&text, &path).unwrap().value, &before);

        let overrides = "[[override_subnet]]\ncidr = \"192.0.2.0/24\"\nweight = 10.5 # half\n\
                         transport = \"Min_Transport\"\n";
        let (_dir, path) = file(&format!("{}{overrides}", File::Registrar.shipped()));
        let (text, _) = rewrite(File::Registrar, &path).unwrap();
        let before = Registrar::load(&path).unwrap().value;
        assert_eq!(before.overrides.subnets.len(), 1);
        same(&Registrar::parse(&text, &path).unwrap().value, &before);
    }

    #[test]
    fn an_unknown_key_is_kept_as_a_comment() {
        let (_dir, path) = file("socket_name = \"s\"\nlog_levl = \"info\"\n");
        let (text, notices) = rewrite(File::Application, &path).unwrap();
        assert!(text.contains("# log_levl = \"info\""), "{text}");
        assert!(notices[0].text.contains("did you mean log_level?"), "{}", notices[0]);
        assert_eq!(notices[0].origin, Origin::file(&path, 2));
    }

    #[test]
    fn shows_values_with_their_lines_and_defaults() {
        let (_dir, path) =
            file("socket_name = \"s\"\n\n[[connect_sockets]]\naddress = \"ipc://@d\"\n");
        let shown = show(File::Application, &path).unwrap();
        let of = |name: &str| shown.iter().find(|s| s.name == name).unwrap();
        assert_eq!(of("socket_name").value, "\"s\"");
        assert_eq!(of("connect_sockets[0].address").origin, Origin::file(&path, 4));
        assert_eq!(of("log_level").origin, Origin::Default);
        assert_eq!(of("log_level").value, "\"error\"");
    }
}
