//! The folder of records, as tests and the demo fill it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::Marker;

/// Name of the variable that holds the folder.
pub const FOLDER: &str = "CONJURE_RECORDS";

/// Whether a daemon was told to show its clients.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// No address may be found.
    #[default]
    Hidden,
    /// `LOG_CLIENT_IP` is true: addresses must be found, secrets must not.
    Shown,
}

impl Clients {
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Shown => "shown",
        }
    }
}

/// The folder of records of this part of the suite, if anybody wants them.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A new file for what the run `name` of a daemon writes; `None` when nobody wants records.
///
/// # Panics
/// When the file cannot be made: a record that is missing must not look like one without leaks.
pub fn file(name: &str, clients: Clients) -> Option<File> {
    folder().map(|folder| ok(new_file(&folder, name, clients), &folder))
}

/// Standard output and standard error into one new file.
///
/// # Panics
/// As [`file`].
pub fn streams(name: &str, clients: Clients) -> Option<(Stdio, Stdio)> {
    let out = file(name, clients)?;
    let err = ok(out.try_clone(), Path::new(name));
    Some((out.into(), err.into()))
}

/// Keeps a text that a daemon has served, such as its metrics.
///
/// # Panics
/// As [`file`].
pub fn text(name: &str, clients: Clients, text: impl AsRef<[u8]>) {
    if let Some(mut file) = file(name, clients) {
        ok(file.write_all(text.as_ref()), Path::new(name));
    }
}

/// Says that this address is a client's.
///
/// # Panics
/// As [`file`].
pub fn client(address: impl Into<IpAddr>) {
    plant(&Marker::Client(address.into()));
}

/// Says that these bytes are a secret; `what` names it in the report.
///
/// # Panics
/// As [`file`].
pub fn secret(what: &str, bytes: &[u8]) {
    plant(&Marker::Secret(what.to_owned(), bytes.to_vec()));
}

/// Says that this is a registration's shared secret.
///
/// # Panics
/// As [`file`].
pub fn shared_secret(bytes: &[u8]) {
    plant(&Marker::Shared(bytes.to_vec()));
}

fn plant(marker: &Marker) {
    let Some(folder) = folder() else { return };
    let added = make(&folder).and_then(|()| {
        let mut markers = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(folder.join("markers"))?;
        // One write, so that lines of several processes do not mix.
        markers.write_all(format!("{marker}\n").as_bytes())
    });
    ok(added, &folder);
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The first free name: processes in namespaces of their own have the same numbers.
fn new_file(folder: &Path, name: &str, clients: Clients) -> io::Result<File> {
    let folder = folder.join(clients.folder());
    make(&folder)?;
    let mut number = 0u32;
    loop {
        let path = folder.join(format!("{name}-{number}.log"));
        match OpenOptions::new().append(true).create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            result => return result,
        }
    }
}

#[track_caller]
fn ok<T>(result: io::Result<T>, place: &Path) -> T {
    result
        .unwrap_or_else(|error| panic!("{FOLDER}: {} cannot be written: {error}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_are_many() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["first", "second"] {
            let mut file = new_file(dir.path(), "daemon", Clients::Shown).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        let read = |name| std::fs::read_to_string(dir.path().join("shown").join(name)).unwrap();
        assert_eq!([read("daemon-0.log"), read("daemon-1.log")], ["first", "second"]);
    }
}
