//! The reference of all settings, as a page of the operator's book.

use std::fmt::Write;

use super::{Default, File, Kind, STATION, Setting};
use crate::variables;

/// The page `docs/configuration.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Settings\n\n\
         Generated from the code: a setting that is not here is not read. `station config show` prints the\n\
         value and origin of each on this host, `station config schema` a JSON schema for editors.\n\n\
         ## conjure.conf\n\n\
         Plain `NAME=VALUE` lines. The shipped file is read first, then `/var/lib/conjure/conjure.conf` with what\n\
         differs on this host. A program that is started directly, as by a unit or in a container, lets its\n\
         environment win over both.\n\n\
         | Variable | Default | Read by | Meaning |\n|---|---|---|---|\n",
    );
    for variable in STATION {
        let default = match variables::default_of(variable.name) {
            None | Some("") => "–".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        _ = writeln!(
            page,
            "| `{}` | {default} | {} | {} |",
            variable.name,
            variable.read_by,
            cell(variable.meaning)
        );
    }
    for file in File::ALL {
        _ = write!(page, "\n## {}\n\n", file.name());
        _ = writeln!(page, "Its path is in `{}`.\n", file.variable());
        table(&mut page, file.settings());
        for setting in file.settings() {
            if let Kind::Tables(inner) = setting.kind {
                _ = writeln!(page, "\n### `[[{}]]`\n\n{}\n", setting.name, setting.meaning);
                table(&mut page, inner);
            }
        }
    }
    page
}

fn table(page: &mut String, settings: &[Setting]) {
    page.push_str("| Key | Takes | Without it | Meaning |\n|---|---|---|---|\n");
    for setting in settings {
        let default = match setting.default {
            Default::Required => "the file is refused".to_owned(),
            Default::Value(value) => format!("`{value}`"),
            Default::Meaning(words) => words.to_owned(),
        };
        _ = writeln!(
            page,
            "| `{}` | {} | {default} | {} |",
            setting.name,
            takes(setting.kind),
            cell(setting.meaning)
        );
    }
}

fn takes(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Choice(choices) => choices.join(", "),
        Kind::Duration => "duration".to_owned(),
        Kind::Boolean => "true, false".to_owned(),
        Kind::Integer(least, most) => format!("{least} to {most}"),
        Kind::Number => "number".to_owned(),
        Kind::Texts => "list of text".to_owned(),
        Kind::Tables(_) => "tables".to_owned(),
    }
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    /// `REGENERATE=1` writes the page instead.
    #[test]
    fn the_page_in_docs_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        if std::env::var_os("REGENERATE").is_some() {
            std::fs::write(path, super::page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == super::page(),
            "docs/configuration.md is out of date; run: REGENERATE=1 cargo test --release -p conjure-conf page"
        );
    }
}
