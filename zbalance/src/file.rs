//! The reference's configuration file: options, one on a line (`spec/ingest.md` 3.1).

use std::fmt;
use std::path::{Path, PathBuf};

/// File that is read when there is no argument at all.
pub const DEFAULT_FILE: &str = "/etc/cluster/cluster.conf";
/// Words that a file may have at most.
const MAX_WORDS: usize = 64;
/// Bytes of a file at most.
const MAX_BYTES: u64 = 64 * 1024;

/// A file that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct FileError {
    path: PathBuf,
    line: Option<usize>,
    text: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for FileError {}

/// A file that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct OptionFile {
    path: PathBuf,
    /// Line, option and value.
    entries: Vec<(usize, String, Option<String>)>,
}

impl OptionFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or a line is no option.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let failed = |text: String| FileError { path: path.to_owned(), line: None, text };
        let unreadable = |e: std::io::Error| failed(format!("cannot be read: {e}"));
        let meta = std::fs::metadata(path).map_err(unreadable)?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            return Err(failed(format!("expected a text file of at most {MAX_BYTES} bytes")));
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Reads `text` as the content of the file at `path`.
    ///
    /// # Errors
    /// When a line is no option, or there are too many.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut entries = Vec::new();
        let mut words = 0;
        for (index, line) in text.lines().enumerate() {
            let failed =
                |text: String| FileError { path: path.to_owned(), line: Some(index + 1), text };
            let content = line.trim();
            if content.is_empty() || line.starts_with('#') {
                continue;
            }
            if !content.starts_with('-') {
                return Err(failed(format!(
                    "found `{content}`, expected -o=value, -o value, or # in the first column"
                )));
            }
            let end = content.find(|c: char| c == '=' || c.is_whitespace());
            let (option, value) = match end {
                None => (content, None),
                Some(end) => {
                    let rest = content[end..].trim_start();
                    let value = rest.strip_prefix('=').unwrap_or(rest).trim();
                    let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                    (&content[..end], Some(unquoted.unwrap_or(value)))
                }
            };
            if value == Some("") {
                return Err(failed(format!("{option} has no value")));
            }
            words += 1 + usize::from(value.is_some());
            if words > MAX_WORDS {
                return Err(failed(format!("more than {MAX_WORDS} words")));
            }
            entries.push((index + 1, option.to_owned(), value.map(str::to_owned)));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The words of a command line.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .flat_map(|(_, option, value)| std::iter::once(option.as_str()).chain(value.as_deref()))
    }

    /// An error about the last line that sets one of `names`, or about the file as a whole.
    pub fn error(&self, names: &[String], text: String) -> FileError {
        let entry = self.entries.iter().rev().find(|(_, option, _)| names.contains(option));
        FileError { path: self.path.clone(), line: entry.map(|(line, ..)| *line), text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<OptionFile, FileError> {
        OptionFile::parse(Path::new("c.conf"), text)
    }

    #[test]
    fn options_with_and_without_values() {
        let text =
            "# a comment\n-i=eth0,eth1\n-c 99\n\n-n = 4\n-p\n-l=\"/var/log/a b\"\n--mode ip\n";
        let file = parse(text).unwrap();
        let words: Vec<_> = file.words().collect();
        let expected =
            ["-i", "eth0,eth1", "-c", "99", "-n", "4", "-p", "-l", "/var/log/a b", "--mode", "ip"];
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let text = |result: Result<OptionFile, FileError>| result.unwrap_err().to_string();
        assert_eq!(text(parse("-p\n-i=\n")), "c.conf:2: -i has no value");
        assert!(text(parse("-p\neth0\n")).starts_with("c.conf:2: found `eth0`"));
        assert!(text(parse(" # not in the first column\n")).starts_with("c.conf:1: found `#"));
        assert_eq!(text(parse(&"-p\n".repeat(65))), "c.conf:65: more than 64 words");
        let file = parse("-p\n-m=9\n").unwrap();
        assert_eq!(file.error(&["-m".into()], "x".into()).to_string(), "c.conf:2: x");
        assert_eq!(file.error(&["-z".into()], "x".into()).to_string(), "c.conf: x");
    }
}
