//! Where the files of a host are read from.

use std::io;
use std::path::{Path, PathBuf};

/// The folder that stands for `/`, so that a planted tree can be read like a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    folder: PathBuf,
    settings: PathBuf,
}

impl Default for Root {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Root {
    /// The host whose `/` is the folder `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let folder = path.into();
        let settings = folder.join("proc/sys");
        Self { folder, settings }
    }

    /// The same host, whose kernel settings are changed below `folder`: a container sees its own
    /// `/proc/sys` read-only, and may be given the host's in another place.
    #[must_use]
    pub fn with_settings(self, folder: impl Into<PathBuf>) -> Self {
        Self { settings: folder.into(), ..self }
    }

    /// True for the host that this process runs on.
    pub fn is_this_host(&self) -> bool {
        self.folder == Path::new("/")
    }

    /// The place of `path`, which is absolute on that host.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.folder.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Text of a file; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.path(path))?).into_owned())
    }

    /// First word of a file, as kernel settings have it; `None` when it cannot be read.
    pub fn word(&self, path: impl AsRef<Path>) -> Option<String> {
        self.read(path).ok()?.split_whitespace().next().map(str::to_owned)
    }

    /// First word of a file as a number.
    pub fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.word(path)?.parse().ok()
    }

    /// Value of the kernel setting `name`, written as a path below `/proc/sys`.
    pub fn sysctl(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.sysctl_path(name)).ok()?;
        text.split_whitespace().next().map(str::to_owned)
    }

    /// File of the kernel setting `name`, written as a path below `/proc/sys`.
    pub fn sysctl_path(&self, name: &str) -> PathBuf {
        self.settings.join(name)
    }

    /// Names in a folder, sorted; none when it cannot be read.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}
