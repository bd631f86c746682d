//! What is wrong with a configuration, in words an operator can act on.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built-in default.
    Default,
    /// Environment of the process.
    Environment,
    /// A line of a file; line 0 stands for the file as a whole.
    File {
        /// Path as it was opened.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
}

impl Origin {
    pub(crate) fn file(path: &Path, line: usize) -> Self {
        Self::File { path: path.to_owned(), line }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::Environment => f.write_str("environment"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// One error in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// File and line, or environment.
    pub origin: Origin,
    /// Key or variable; empty when the trouble is not about one.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What is expected instead.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "found {}, expected {}", self.found, self.expected)
    }
}

/// Every error of a configuration, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// A remark that does not keep anything from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// File and line, or environment.
    pub origin: Origin,
    /// What is remarkable and what to do.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// A configuration that is good, with what is worth saying about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    /// Remarks in the order they were met.
    pub notices: Vec<Notice>,
}

/// The text of an unknown-key remark, with the nearest of `known` when one is near.
pub(crate) fn unknown_key<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(key, known) {
        Some(near) => format!("unknown key {key} is ignored; did you mean {near}?"),
        None => format!("unknown key {key} is ignored"),
    }
}

/// The name in `known` that needs the fewest changes to become `name`, if those are few.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = name.chars().count().div_ceil(3).min(4);
    known
        .into_iter()
        .map(|k| (edits(&name.to_lowercase(), &k.to_lowercase()), k))
        .min_by_key(|&(edits, _)| edits)
        .and_then(|(edits, k)| (edits <= limit).then_some(k))
}

/// Edit distance: insertions, deletions, replacements, and swaps of neighbours.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_near_and_not_the_far() {
        let known = ["CJ_CORECOUNT", "CJ_COREBASE", "CJ_IFACE"];
        assert_eq!(nearest("CJ_CORECUONT", known), Some("CJ_CORECOUNT"));
        assert_eq!(nearest("cj_corebase", known), Some("CJ_COREBASE"));
        assert_eq!(nearest("CJ_PRIVKEY", known), None);
        assert_eq!(edits("ab", "ba"), 1);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
