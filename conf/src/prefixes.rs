//! The supplemental prefix file (`spec/transports.md` 6.5): prefixes that a station serves beside, or
//! instead of, those of the table. Registrar, stations and clients read the same file.

use std::path::Path;

use transports::prefix::{FLUSH_AFTER_PREFIX, FLUSH_NONE, Prefix, PrefixTable};

use crate::document::Table;
use crate::problem::{Loaded, Problems};

/// Prefixes of one file. Each place behind which a tag may stand costs the station one curve
/// operation per key and connection.
const MAX_PREFIXES: usize = 64;
/// Bytes of one prefix.
const MAX_BYTES: usize = 1024;

/// The prefixes of the file at `path`, if there is one, and those of the table unless they are
/// disabled. An entry of the file takes the place of the table's with its id; of several entries
/// with one id the first counts.
///
/// # Errors
/// [`Problems`] names every error with its line.
pub fn prefix_table(
    path: Option<&Path>,
    disable_defaults: bool,
) -> Result<Loaded<PrefixTable>, Problems> {
    let Loaded { value: mut prefixes, notices } = match path {
        Some(path) => read(Table::open(path)?)?,
        None => Loaded { value: Vec::new(), notices: Vec::new() },
    };
    if !disable_defaults {
        prefixes.extend(PrefixTable::default().iter().cloned());
    }
    Ok(Loaded { value: PrefixTable::new(prefixes), notices })
}

fn read(mut table: Table) -> Result<Loaded<Vec<Prefix>>, Problems> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for mut entry in table.tables("prefix") {
        if let Some(prefix) = prefix(&mut entry) {
            if prefixes.iter().any(|known| known.id == prefix.id) {
                entry.notice("id", format!("{} again; the first entry counts", prefix.id));
            }
            prefixes.push(prefix);
        }
        table.absorb(entry);
    }
    if prefixes.len() > MAX_PREFIXES {
        let found = format!("{} entries", prefixes.len());
        table.problem("prefix", found, &format!("at most {MAX_PREFIXES}"));
    }
    table.finish(prefixes)
}

fn prefix(entry: &mut Table) -> Option<Prefix> {
    let id = entry.integer("id", 0..=i32::MAX);
    if id.is_none() {
        entry.problem("id", "none", "the number of the prefix in messages, from 0");
    }
    let bytes = bytes(entry);
    let default_port = entry.integer("default_port", 1..=u16::MAX);
    if default_port.is_none() {
        entry.problem("default_port", "none", "a port from 1 to 65535");
    }
    let flush = entry.integer("flush", FLUSH_NONE..=FLUSH_AFTER_PREFIX).unwrap_or(FLUSH_NONE);
    let name = entry.string("name").filter(|name| !name.is_empty());
    let id = id?;
    Some(Prefix {
        id,
        name: name.unwrap_or_else(|| format!("Prefix{id}")),
        bytes: bytes?,
        default_port: default_port?,
        flush,
    })
}

/// The bytes of a prefix, as text or in hexadecimal digits.
fn bytes(entry: &mut Table) -> Option<Vec<u8>> {
    let (text, digits) = (entry.string("text"), entry.string("hex"));
    let bytes = match (text, digits) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(digits)) => {
            let decoded = hexadecimal(&digits);
            if decoded.is_none() {
                entry.problem("hex", format!("`{digits}`"), "pairs of hexadecimal digits");
            }
            decoded?
        }
        (found, _) => {
            let found = if found.is_some() { "text and hex" } else { "neither" };
            entry.problem("text", found, "the bytes of the prefix, as either text or hex");
            return None;
        }
    };
    if bytes.len() > MAX_BYTES {
        let expected = format!("a prefix of at most {MAX_BYTES} bytes");
        entry.problem("text", format!("{} bytes", bytes.len()), &expected);
        return None;
    }
    Some(bytes)
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
    let nibbles = nibbles.filter(|nibbles| nibbles.len().is_multiple_of(2))?;
    Some(nibbles.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Loaded<Vec<Prefix>>, String> {
        let table = Table::parse(text, Path::new("prefixes.toml")).unwrap();
        read(table).map_err(|problems| problems.to_string())
    }

    const TWO: &str = "\
[[prefix]]
id = 20
name = \"Gopher\"
text = \"/docs\\r\\n\"
default_port = 70
flush = 2

[[prefix]]
id = 4
hex = \"16030341\"
default_port = 8443
";

    #[test]
    fn entries_join_the_table_and_take_the_place_of_their_id() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), TWO).unwrap();
        let table = |disable| prefix_table(Some(file.path()), disable).unwrap().value;
        let both = table(false);
        assert_eq!(both.iter().count(), 11);
        assert_eq!(both.by_id(20).unwrap().bytes, b"/docs\r\n");
        assert_eq!((both.by_id(20).unwrap().flush, both.by_id(20).unwrap().default_port), (2, 70));
        assert_eq!(both.by_id(4).unwrap().bytes, [0x16, 3, 3, 0x41]);
        assert_eq!(both.by_id(4).unwrap().name, "Prefix4");
        assert_eq!(both.by_id(5).unwrap().name, "TLSServerHello");
        assert_eq!(table(true).iter().count(), 2);
        assert_eq!(prefix_table(None, false).unwrap().value, PrefixTable::default());
        assert_eq!(prefix_table(None, true).unwrap().value, PrefixTable::empty());
    }

    #[test]
    fn the_first_of_two_entries_counts_and_the_second_is_remarked() {
        let again = format!("{TWO}[[prefix]]\nid = 20\ntext = \"x\"\ndefault_port = 1\n");
        let loaded = parse(&again).unwrap();
        assert_eq!(loaded.notices.len(), 1);
        assert!(loaded.notices[0].to_string().contains("prefixes.toml:13"), "{:?}", loaded.notices);
        assert_eq!(PrefixTable::new(loaded.value).by_id(20).unwrap().name, "Gopher");
    }

    #[test]
    fn errors_name_line_key_and_remedy() {
        for (text, expected) in [
            ("[[prefix]]\ntext = \"a\"\ndefault_port = 1\n", "id: found none"),
            ("[[prefix]]\nid = 1\ntext = \"a\"\n", "default_port: found none"),
            ("[[prefix]]\nid = 1\ndefault_port = 1\n", "text: found neither"),
            (
                "[[prefix]]\nid = 1\ntext = \"a\"\nhex = \"00\"\ndefault_port = 1\n",
                "prefixes.toml:3: text: found text and hex",
            ),
            (
                "[[prefix]]\nid = 1\nhex = \"0g\"\ndefault_port = 1\n",
                "prefixes.toml:3: hex: found `0g`, expected pairs of hexadecimal digits",
            ),
            ("[[prefix]]\nid = -1\ntext = \"a\"\ndefault_port = 1\n", "prefixes.toml:2: id"),
            (
                "[[prefix]]\nid = 1\ntext = \"a\"\ndefault_port = 1\nflush = 3\n",
                "prefixes.toml:5: flush",
            ),
        ] {
            let problems = parse(text).unwrap_err();
            assert!(problems.contains(expected), "{problems}");
        }
        let long =
            format!("[[prefix]]\nid = 1\nhex = \"{}\"\ndefault_port = 1\n", "00".repeat(1025));
        assert!(parse(&long).unwrap_err().contains("at most 1024 bytes"));
        let many: String = (0..65)
            .map(|id| format!("[[prefix]]\nid = {id}\ntext = \"a\"\ndefault_port = 1\n"))
            .collect();
        assert!(parse(&many).unwrap_err().contains("at most 64"));
    }
}
