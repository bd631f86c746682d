//! The search of records for what was planted.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, BuildError};

use crate::forms::{self, Form};
use crate::{BadMarker, Clients, Marker};

/// The line that names a client by design, for reports of abuse (`spec/application.md` 6.7).
const ABUSE: &str = "Dropping reg, malformed or blocklisted covert: ";
/// Hits that are told one by one.
const TOLD: usize = 20;
/// Characters of a line that are told.
const WIDTH: usize = 200;

/// Why a search cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A file or folder cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, io::Error),
    /// A line of a file of markers.
    #[error("{0}: {1}")]
    Marker(PathBuf, BadMarker),
    /// The search itself.
    #[error("the forms of the markers are too many: {0}")]
    Build(#[from] BuildError),
}

/// Markers, ready to be searched for.
#[derive(Debug)]
pub struct Needles {
    finder: AhoCorasick,
    /// Form and marker of each pattern.
    forms: Vec<(Form, usize)>,
    markers: Vec<Marker>,
}

/// A marker in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Line, from 1.
    pub line: usize,
    /// What was found.
    pub what: String,
    /// In which form.
    pub form: &'static str,
    /// Whether it is a client's address.
    pub is_client: bool,
    /// The line, shortened.
    pub text: String,
}

impl Needles {
    /// Prepares the search for `markers`.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(markers: Vec<Marker>) -> Result<Self, SearchError> {
        let mut forms = Vec::new();
        for (number, marker) in markers.iter().enumerate() {
            forms.extend(forms::of(marker).into_iter().map(|form| (form, number)));
        }
        let finder = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(forms.iter().map(|(form, _)| &form.bytes))?;
        Ok(Self { finder, forms, markers })
    }

    /// Everything that `text` must not hold, one hit for each marker of a line.
    pub fn find(&self, text: &[u8]) -> Vec<Hit> {
        let mut hits = BTreeMap::new();
        let (mut line, mut counted) = (1, 0);
        for found in self.finder.find_overlapping_iter(text) {
            let (form, marker) = &self.forms[found.pattern().as_usize()];
            let (start, end) = (found.start(), found.end());
            let before = start.checked_sub(1).and_then(|at| text.get(at));
            if form.exact && text[start..end] != form.bytes
                || form.edge.goes_on(before)
                || form.edge.goes_on(text.get(end))
            {
                continue;
            }
            // Found in the order of their ends, so the count goes on from the last end.
            line += text[counted..end].iter().filter(|byte| **byte == b'\n').count();
            counted = end;
            let of = &self.markers[*marker];
            hits.entry((line, *marker)).or_insert_with(|| Hit {
                line,
                what: of.what().to_owned(),
                form: form.name,
                is_client: of.is_client(),
                text: line_of(text, start, end),
            });
        }
        hits.into_values().collect()
    }
}

/// The line around a hit.
fn line_of(text: &[u8], start: usize, end: usize) -> String {
    let from = text[..start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let to = text[end..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| end + at);
    let line = String::from_utf8_lossy(&text[from..to]);
    line.chars().take(WIDTH).collect()
}

/// What a part of the suite left, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Part {
    /// Name of its folder.
    pub name: String,
    /// Clients and secrets that were planted.
    pub planted: [usize; 2],
    /// Files, lines and bytes that were searched.
    pub searched: [usize; 3],
    /// Clients and secrets found where they must not be, with their files.
    pub leaks: Vec<(PathBuf, Hit)>,
    /// Lines with a client's address in files of daemons that were told to show them, and their files.
    pub shown: [usize; 2],
    /// Lines about refused coverts, which name their client by design.
    pub reports: usize,
    /// Files of daemons that were told to show clients.
    pub may_show: usize,
}

impl Part {
    /// Searches the records in `folder`.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn search(folder: &Path) -> Result<Self, SearchError> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let markers = markers(&folder.join("markers"))?;
        let clients = markers.iter().filter(|marker| marker.is_client()).count();
        let planted = [clients, markers.len() - clients];
        let needles = Needles::new(markers)?;
        let mut part = Self { name, planted, ..Self::default() };
        for clients in [Clients::Hidden, Clients::Shown] {
            for path in files(&folder.join(clients.folder()))? {
                let text = std::fs::read(&path).map_err(|e| SearchError::Read(path.clone(), e))?;
                part.count(&text);
                let hits = needles.find(&text);
                let (seen, rest): (Vec<Hit>, Vec<Hit>) =
                    hits.into_iter().partition(|hit| hit.is_client && clients == Clients::Shown);
                let (reports, leaks): (Vec<Hit>, Vec<Hit>) =
                    rest.into_iter().partition(|hit| hit.is_client && hit.text.contains(ABUSE));
                part.reports += reports.len();
                part.may_show += usize::from(clients == Clients::Shown);
                part.shown[0] += seen.len();
                part.shown[1] += usize::from(!seen.is_empty());
                part.leaks.extend(leaks.into_iter().map(|hit| (path.clone(), hit)));
            }
        }
        Ok(part)
    }

    fn count(&mut self, text: &[u8]) {
        let [files, lines, bytes] = &mut self.searched;
        *files += 1;
        *lines += text.iter().filter(|byte| **byte == b'\n').count();
        *bytes += text.len();
    }

    /// Client addresses and secrets that were found.
    pub fn found(&self) -> [usize; 2] {
        let clients = self.leaks.iter().filter(|(_, hit)| hit.is_client).count();
        [clients, self.leaks.len() - clients]
    }

    /// Why this part proves nothing, or the contrary of what it should.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, text: &str| {
            if wrong {
                faults.push(format!("{}: {text}", self.name));
            }
        };
        fault(self.planted[0] == 0, "no client was planted");
        fault(self.planted[1] == 0, "no secret was planted");
        fault(self.searched[1] == 0, "nothing was written");
        fault(
            self.may_show > 0 && self.shown[0] == 0,
            "daemons were told to show clients, and the search finds none",
        );
        faults
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([files, lines, bytes], [clients, secrets]) = (self.searched, self.planted);
        let ([addresses, told], [shown, shown_in]) = (self.found(), self.shown);
        write!(
            f,
            "{}: {files} files, {lines} lines, {} KiB searched for {clients} clients and {secrets} secrets: \
             {addresses} client addresses, {told} secrets",
            self.name,
            bytes / 1024,
        )?;
        if self.may_show > 0 {
            write!(
                f,
                " ({shown} lines with clients in {shown_in} logs that were told to show them)"
            )?;
        }
        if self.reports > 0 {
            write!(
                f,
                " ({} lines about refused coverts name their client by design)",
                self.reports
            )?;
        }
        for (path, hit) in self.leaks.iter().take(TOLD) {
            let Hit { line, what, form, text, .. } = hit;
            write!(f, "\n    {}:{line}: {what} ({form}): {text}", path.display())?;
        }
        if self.leaks.len() > TOLD {
            write!(f, "\n    and {} more", self.leaks.len() - TOLD)?;
        }
        Ok(())
    }
}

/// What was planted, each once; nothing when there is no such file.
fn markers(path: &Path) -> Result<Vec<Marker>, SearchError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(SearchError::Read(path.to_owned(), error)),
    };
    let mut known = HashSet::new();
    text.lines()
        .filter(|line| known.insert(*line))
        .map(|line| line.parse().map_err(|error| SearchError::Marker(path.to_owned(), error)))
        .collect()
}

/// The files of a folder, in order; none when it does not exist.
fn files(folder: &Path) -> Result<Vec<PathBuf>, SearchError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SearchError::Read(folder.to_owned(), error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|e| e.path())).collect();
    let mut paths = paths.map_err(|error| SearchError::Read(folder.to_owned(), error))?;
    paths.sort();
    Ok(paths)
}
