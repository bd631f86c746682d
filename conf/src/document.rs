//! TOML with line numbers: typed access that gathers every error instead of stopping at the first.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use crate::problem::{Loaded, Notice, Origin, Problem, Problems, unknown_key};
use crate::variables;

#[cfg(test)]
thread_local! {
    /// Keys that readers of this thread asked for.
    pub(crate) static KNOWN: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(Vec::new()) };
}

enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Array(Vec<(usize, Value)>),
    Table(Vec<Entry>),
    Other(&'static str),
}

struct Entry {
    key: String,
    line: usize,
    value: Value,
    used: bool,
}

/// A table of a TOML file that is being read.
pub(crate) struct Table {
    path: PathBuf,
    line: usize,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
    notices: Vec<Notice>,
}

impl Table {
    /// Reads and parses the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Problems> {
        let text = variables::read(path, true)?.unwrap_or_default();
        Self::parse(&text, path)
    }

    /// Parses `text`, which stands in the file at `path`.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, Problems> {
        let lines = Lines::of(text);
        let table = DeTable::parse(text).map_err(|e| Problem {
            origin: Origin::file(path, e.span().map_or(0, |s| lines.at(s.start))),
            key: String::new(),
            found: format!("text that is not TOML ({})", e.message().trim()),
            expected: "KEY = VALUE lines, strings in double quotes".to_owned(),
        })?;
        let entries = entries(table.into_inner(), &lines);
        Ok(Self {
            path: path.to_owned(),
            line: 0,
            entries,
            known: Vec::new(),
            problems: Vec::new(),
            notices: Vec::new(),
        })
    }

    /// The value of `key`: exact name first, then without regard to case.
    fn take(&mut self, key: &'static str) -> Option<(usize, &Value)> {
        self.known.push(key);
        let exact = self.entries.iter().position(|e| e.key == key);
        let at = exact.or_else(|| {
            self.entries.iter().position(|e| e.key.to_lowercase() == key.to_lowercase())
        })?;
        let entry = &mut self.entries[at];
        entry.used = true;
        Some((entry.line, &entry.value))
    }

    /// Line of `key`, or of the table when it is missing.
    fn line_of(&self, key: &str) -> usize {
        let entry = self.entries.iter().find(|e| e.key.to_lowercase() == key.to_lowercase());
        entry.map_or(self.line, |e| e.line)
    }

    /// Adds an error about `key`.
    pub(crate) fn problem(&mut self, key: &str, found: impl Into<String>, expected: &str) {
        let origin = Origin::file(&self.path, self.line_of(key));
        self.problem_at(origin, key, found.into(), expected);
    }

    fn problem_at(&mut self, origin: Origin, key: &str, found: String, expected: &str) {
        self.problems.push(Problem {
            origin,
            key: key.to_owned(),
            found,
            expected: expected.to_owned(),
        });
    }

    /// Adds a remark about `key`.
    pub(crate) fn notice(&mut self, key: &str, text: impl Into<String>) {
        let origin = Origin::file(&self.path, self.line_of(key));
        self.notices.push(Notice { origin, text: format!("{key}: {}", text.into()) });
    }

    /// Text of `key`.
    pub(crate) fn string(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            (_, Value::String(text)) => Some(text.clone()),
            (_, other) => {
                let found = other.to_string();
                self.problem(key, found, "a string in double quotes");
                None
            }
        }
    }

    /// Truth of `key`.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            (_, Value::Bool(value)) => Some(*value),
            (_, other) => {
                let found = other.to_string();
                self.problem(key, found, "true or false");
                None
            }
        }
    }

    /// Integer of `key` within `range`.
    pub(crate) fn integer<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let (_, value) = self.take(key)?;
        let found = value.to_string();
        let number = if let Value::Integer(n) = value { T::try_from(*n).ok() } else { None };
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            let expected = format!("an integer from {} to {}", range.start(), range.end());
            self.problem(key, found, &expected);
        }
        number
    }

    /// Number of `key`, written as an integer or with a fraction.
    pub(crate) fn float(&mut self, key: &'static str) -> Option<f64> {
        let (_, value) = self.take(key)?;
        match value {
            #[expect(clippy::cast_precision_loss, reason = "percentages and weights are small")]
            Value::Integer(n) => Some(*n as f64),
            Value::Float(n) if n.is_finite() => Some(*n),
            other => {
                let found = other.to_string();
                self.problem(key, found, "a number");
                None
            }
        }
    }

    /// Strings of `key`, each with its line.
    fn lines_of_strings(&mut self, key: &'static str) -> Vec<(usize, String)> {
        let Some((line, value)) = self.take(key) else { return Vec::new() };
        let mut strings = Vec::new();
        let mut wrong = Vec::new();
        match value {
            Value::Array(items) => {
                for (line, item) in items {
                    match item {
                        Value::String(text) => strings.push((*line, text.clone())),
                        other => wrong.push((*line, other.to_string())),
                    }
                }
            }
            other => wrong.push((line, other.to_string())),
        }
        for (line, found) in wrong {
            let origin = Origin::file(&self.path, line);
            self.problem_at(origin, key, found, "a list of strings");
        }
        strings
    }

    /// Strings of `key`.
    pub(crate) fn strings(&mut self, key: &'static str) -> Vec<String> {
        self.lines_of_strings(key).into_iter().map(|(_, text)| text).collect()
    }

    /// Values of `key` that `parse` reads, each with an error of its own.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (line, text) in self.lines_of_strings(key) {
            match parse(&text) {
                Some(value) => values.push(value),
                None => {
                    let origin = Origin::file(&self.path, line);
                    self.problem_at(origin, key, format!("`{text}`"), expected);
                }
            }
        }
        values
    }

    /// Subnets of `key`; a bare address stands for itself alone.
    pub(crate) fn subnets(&mut self, key: &'static str) -> Vec<IpNet> {
        self.list(key, "a subnet such as 10.0.0.0/8 or 2001:db8::/32", |text| subnet(text.trim()))
    }

    /// Tables of `[[key]]`.
    pub(crate) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let path = self.path.clone();
        let Some(at) = self.entries.iter().position(|e| e.key.to_lowercase() == key) else {
            self.known.push(key);
            return Vec::new();
        };
        let found = match self.take(key) {
            Some((_, Value::Array(_))) => None,
            Some((_, other)) => Some(other.to_string()),
            None => None,
        };
        if let Some(found) = found {
            self.problem(key, found, &format!("tables, each headed [[{key}]]"));
            return Vec::new();
        }
        let line = self.entries[at].line;
        let taken = std::mem::replace(&mut self.entries[at].value, Value::Other("tables"));
        let Value::Array(items) = taken else { return Vec::new() };
        let mut tables = Vec::new();
        for (line, item) in items {
            if let Value::Table(entries) = item {
                tables.push(Self {
                    path: path.clone(),
                    line,
                    entries,
                    known: Vec::new(),
                    problems: Vec::new(),
                    notices: Vec::new(),
                });
            } else {
                let origin = Origin::file(&path, line);
                self.problem_at(origin, key, item.to_string(), &format!("[[{key}]]"));
            }
        }
        self.entries[at].line = line;
        tables
    }

    /// Takes over what a finished table of this file had to say.
    pub(crate) fn absorb(&mut self, mut inner: Self) {
        inner.remark_unknown();
        self.problems.append(&mut inner.problems);
        self.notices.append(&mut inner.notices);
    }

    /// Names keys that belong to another reader of the same file.
    pub(crate) fn ignore(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.take(key);
        }
    }

    fn remark_unknown(&mut self) {
        #[cfg(test)]
        KNOWN.with_borrow_mut(|known| known.extend(&self.known));
        for entry in self.entries.iter().filter(|e| !e.used) {
            let text = unknown_key(&entry.key, self.known.iter().copied());
            self.notices.push(Notice { origin: Origin::file(&self.path, entry.line), text });
        }
    }

    /// Ends the reading of the file: `value` if there was no error.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<Loaded<T>, Problems> {
        self.remark_unknown();
        if self.problems.is_empty() {
            Ok(Loaded { value, notices: self.notices })
        } else {
            Err(Problems(self.problems))
        }
    }
}

/// A subnet or a bare address, host bits cleared.
pub(crate) fn subnet(text: &str) -> Option<IpNet> {
    IpNet::from_str(text)
        .ok()
        .map(|net| net.trunc())
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) if text.chars().count() <= 80 => write!(f, "the string \"{text}\""),
            Self::String(_) => f.write_str("a long string"),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Float(n) => write!(f, "{n}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Array(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Starts of lines, to find the line of an offset.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|&newline| newline < offset) + 1
    }
}

fn entries(table: DeTable<'_>, lines: &Lines) -> Vec<Entry> {
    table
        .into_iter()
        .map(|(key, value)| Entry {
            line: lines.at(key.span().start),
            key: key.into_inner().into_owned(),
            value: own(value.into_inner(), lines),
            used: false,
        })
        .collect()
}

fn own(value: DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Value::Integer(n),
            Err(_) => Value::Other("an integer beyond 64 bits"),
        },
        DeValue::Float(n) => match n.as_str().parse() {
            Ok(n) => Value::Float(n),
            Err(_) => Value::Other("a number that cannot be read"),
        },
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::Array(
            items
                .into_iter()
                .map(|item| (lines.at(item.span().start), own(item.into_inner(), lines)))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(table, lines)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_every_error_with_its_line() {
        let text =
            "a = 1\nb = \"x\"\n\nlist = [\n  \"10.0.0.0/8\",\n  \"nonsense\",\n]\nunkown = 2\n";
        let mut table = Table::parse(text, Path::new("f.toml")).unwrap();
        assert_eq!(table.string("a"), None);
        assert_eq!(table.integer::<u16>("b", 0..=5), None);
        assert_eq!(table.subnets("list").len(), 1);
        assert_eq!(table.string("unknown"), None);
        let error = table.finish(()).unwrap_err().to_string();
        assert_eq!(
            error,
            "f.toml:1: a: found 1, expected a string in double quotes\n\
             f.toml:2: b: found the string \"x\", expected an integer from 0 to 5\n\
             f.toml:6: list: found `nonsense`, expected a subnet such as 10.0.0.0/8 or 2001:db8::/32"
        );
    }

    #[test]
    fn suggests_the_known_key_for_a_misspelt_one() {
        let mut table = Table::parse("log_levl = \"info\"\n", Path::new("f.toml")).unwrap();
        assert_eq!(table.string("log_level"), None);
        let notices = table.finish(()).unwrap().notices;
        assert_eq!(
            notices[0].to_string(),
            "f.toml:1: unknown key log_levl is ignored; did you mean log_level?"
        );
    }

    #[test]
    fn names_the_line_of_a_syntax_error_and_matches_keys_without_case() {
        let error = Table::parse("a = 1\nb == 2\n", Path::new("f.toml")).err().unwrap();
        assert!(error.to_string().starts_with("f.toml:2: found text that is not TOML"), "{error}");
        let mut table = Table::parse("Enable_V4 = true\n", Path::new("f.toml")).unwrap();
        assert_eq!(table.boolean("enable_v4"), Some(true));
    }
}
