//! Station keys of a path: one file, or every file of a directory (`spec/detector.md` 17.1).

use crate::station::{StationKey, StationKeyError};
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Keys of one directory at most; the reference's limit.
const MAX_KEYS: usize = 100;
/// A key file is 64 bytes; more than this is not read into memory.
const MAX_FILE: u64 = 64 * 1024;

/// Whether one unusable file in a directory spoils the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Unusable files are skipped and reported, as the reference's detector does.
    Skip,
    /// The first unusable file is an error, as in the reference's application.
    Refuse,
}

/// Why a path holds no usable station key.
#[derive(Debug, thiserror::Error)]
pub enum KeyPathError {
    /// The path, or a file in it, cannot be read.
    #[error("station key {path}: {source}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no station key.
    #[error("station key {path}: {source}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StationKeyError,
    },
    /// A directory without a usable key.
    #[error(
        "station keys {path}: no usable key in this directory ({skipped} files skipped); \
         put the private key of genkey there",
        path = path.display()
    )]
    Empty {
        /// The directory.
        path: PathBuf,
        /// Files that were looked at and skipped.
        skipped: usize,
    },
    /// A directory with more keys than the limit.
    #[error("station keys {path}: more than {MAX_KEYS} files", path = path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
}

/// Keys of a path, and what an operator should hear about it.
#[derive(Debug)]
pub struct LoadedKeys {
    /// At least one key, in file name order.
    pub keys: Vec<StationKey>,
    /// One line per skipped file or loose permission.
    pub warnings: Vec<String>,
}

/// Loads the keys at `path`.
///
/// In a directory, sub-directories, dot files and editor backups are passed over.
///
/// # Errors
/// When the path cannot be read, holds no usable key, or holds an unusable file under
/// [`Strictness::Refuse`].
pub fn load(path: &Path, strictness: Strictness) -> Result<LoadedKeys, KeyPathError> {
    let mut loaded = LoadedKeys { keys: Vec::new(), warnings: Vec::new() };
    let read = |source| KeyPathError::Read { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(read)?.is_dir() {
        let key = load_file(path, &mut loaded.warnings)?;
        loaded.keys.push(key);
        return Ok(loaded);
    }
    let mut skipped = 0;
    for file in candidates(path).map_err(read)? {
        if loaded.keys.len() == MAX_KEYS {
            return Err(KeyPathError::TooMany { path: path.to_owned() });
        }
        match load_file(&file, &mut loaded.warnings) {
            Ok(key) => loaded.keys.push(key),
            Err(error) if strictness == Strictness::Refuse => return Err(error),
            Err(error) => {
                skipped += 1;
                loaded.warnings.push(format!("skipped: {error}"));
            }
        }
    }
    if loaded.keys.is_empty() {
        return Err(KeyPathError::Empty { path: path.to_owned(), skipped });
    }
    Ok(loaded)
}

fn candidates(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let backup = name.starts_with(['.', '#'])
            || name.ends_with('~')
            || [".bak", ".swp", ".orig", ".old"].iter().any(|end| name.ends_with(end));
        if !backup && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn load_file(path: &Path, warnings: &mut Vec<String>) -> Result<StationKey, KeyPathError> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    let read = |source| KeyPathError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
    let mut content = Zeroizing::new(Vec::with_capacity(128));
    file.take(MAX_FILE).read_to_end(&mut content).map_err(read)?;
    let key = StationKey::from_file(&content)
        .map_err(|source| KeyPathError::Key { path: path.to_owned(), source })?;
    if mode & 0o077 != 0 {
        warnings.push(format!(
            "station key {} has mode {mode:04o}, others may read it; chmod 0600 it",
            path.display()
        ));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn directories_are_read_in_name_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), [2; 32]).unwrap();
        fs::write(dir.path().join("a"), [1; 32]).unwrap();
        fs::write(dir.path().join("c"), [3; 8]).unwrap();
        fs::write(dir.path().join(".hidden"), [4; 32]).unwrap();
        fs::write(dir.path().join("a~"), [5; 32]).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let loaded = load(dir.path(), Strictness::Skip).unwrap();
        let privates: Vec<u8> = loaded.keys.iter().map(|k| k.expose_private()[0]).collect();
        assert_eq!(privates, [1, 2]);
        assert!(loaded.warnings.iter().any(|w| w.contains("8 bytes found")), "{loaded:?}");
        let refused = load(dir.path(), Strictness::Refuse).unwrap_err();
        assert!(refused.to_string().contains("8 bytes found"), "{refused}");
    }

    #[test]
    fn errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let empty = load(dir.path(), Strictness::Skip).unwrap_err().to_string();
        assert!(empty.contains(dir.path().to_str().unwrap()), "{empty}");
        let missing = load(Path::new("/nonexistent/key"), Strictness::Skip).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/key"));
    }
}
