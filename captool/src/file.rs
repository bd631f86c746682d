//! Capture files of every link type that can be read, compressed or not.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use capture::recording::{Recording, RecordingError};
use flate2::read::MultiGzDecoder;

use crate::frame::Link;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Not at all.
    #[error("{path}: {cause}", path = path.display())]
    Read { path: PathBuf, cause: io::Error },
    /// It is no recording.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Its packets begin with something else.
    #[error("{path}: found link type {link}, expected Ethernet (1) or IP (12, 101, 228, 229)", path = path.display())]
    Link { path: PathBuf, link: u32 },
    /// A folder without files.
    #[error("{path}: no capture file in it", path = path.display())]
    Empty { path: PathBuf },
}

/// An open capture file.
pub(crate) struct Capture(Recording);

/// One packet of a file.
pub(crate) struct Record<'a> {
    pub(crate) data: &'a [u8],
    /// What they begin with.
    pub(crate) link: Link,
    /// Nanoseconds since the epoch.
    pub(crate) time: u64,
}

/// The files at `path`: itself, or those in the folder, by name.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |cause| FileError::Read { path: path.to_owned(), cause };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(failed)?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(FileError::Empty { path: path.to_owned() });
    }
    Ok(files)
}

impl Capture {
    /// Opens a file; `wrap` may watch how much of it is read.
    pub(crate) fn open<R: Read + Send + 'static>(
        path: &Path,
        wrap: impl FnOnce(File) -> R,
    ) -> Result<Self, FileError> {
        let failed = |cause| FileError::Read { path: path.to_owned(), cause };
        let file = File::open(path).map_err(failed)?;
        let mut input: Box<dyn Read + Send> =
            Box::new(BufReader::with_capacity(1 << 20, wrap(file)));
        let mut start = [0; 2];
        input.read_exact(&mut start).map_err(failed)?;
        let whole = io::Cursor::new(start).chain(input);
        input = if start == [0x1f, 0x8b] {
            Box::new(BufReader::new(MultiGzDecoder::new(whole)))
        } else {
            Box::new(whole)
        };
        let recording = Recording::read(input, path)?;
        match recording.link() {
            Some(link) if Link::of_number(link).is_none() => {
                Err(FileError::Link { path: path.to_owned(), link })
            }
            _ => Ok(Self(recording)),
        }
    }

    /// The next packet of a link type that can be read; `None` at the end, which may be within a packet that was
    /// not written whole.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        match self.0.packet() {
            Ok(Some(packet)) => {
                let Some(link) = Link::of_number(packet.link) else {
                    let text =
                        format!("link type {}, which is neither Ethernet nor IP", packet.link);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                };
                Ok(Some(Record { data: packet.data, link, time: packet.time }))
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}
