//! Classic capture files of every link type that can be read, compressed or not.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::frame::Link;

/// Longest packet that is believed; what is longer is a broken file.
const MAX_PACKET: usize = 256 * 1024;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Not at all.
    #[error("{path}: {cause}", path = path.display())]
    Read { path: PathBuf, cause: io::Error },
    /// It is no classic capture.
    #[error(
        "{path}: found magic number {magic:#010x}, expected a classic pcap file (convert pcapng with: \
         editcap -F pcap IN OUT)",
        path = path.display()
    )]
    Magic { path: PathBuf, magic: u32 },
    /// Its packets begin with something else.
    #[error("{path}: found link type {link}, expected Ethernet (1) or IP (12, 101, 228, 229)", path = path.display())]
    Link { path: PathBuf, link: u32 },
    /// A folder without files.
    #[error("{path}: no capture file in it", path = path.display())]
    Empty { path: PathBuf },
}

/// An open capture file.
pub(crate) struct Capture {
    input: Box<dyn Read>,
    swapped: bool,
    nanoseconds: bool,
    pub(crate) link: Link,
    buffer: Vec<u8>,
}

/// One packet of a file.
pub(crate) struct Record<'a> {
    pub(crate) data: &'a [u8],
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
    pub(crate) fn open<R: Read + 'static>(
        path: &Path,
        wrap: impl FnOnce(File) -> R,
    ) -> Result<Self, FileError> {
        let failed = |cause| FileError::Read { path: path.to_owned(), cause };
        let file = File::open(path).map_err(failed)?;
        let mut input: Box<dyn Read> = Box::new(BufReader::with_capacity(1 << 20, wrap(file)));
        let mut start = [0; 2];
        input.read_exact(&mut start).map_err(failed)?;
        let whole = io::Cursor::new(start).chain(input);
        input = if start == [0x1f, 0x8b] {
            Box::new(BufReader::new(MultiGzDecoder::new(whole)))
        } else {
            Box::new(whole)
        };
        let mut header = [0; 24];
        input.read_exact(&mut header).map_err(failed)?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let (swapped, nanoseconds) = match word(0) {
            0xa1b2_c3d4 => (false, false),
            0xa1b2_3c4d => (false, true),
            0xd4c3_b2a1 => (true, false),
            0x4d3c_b2a1 => (true, true),
            magic => return Err(FileError::Magic { path: path.to_owned(), magic }),
        };
        let link = if swapped { word(20).swap_bytes() } else { word(20) } & 0xffff;
        let kind = Link::of_number(link);
        let kind = kind.ok_or(FileError::Link { path: path.to_owned(), link })?;
        Ok(Self { input, swapped, nanoseconds, link: kind, buffer: Vec::new() })
    }

    /// The next packet; `None` at the end, which may be within a packet that was not written whole.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let mut header = [0; 16];
        match self.input.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let word = |at: usize| {
            let word = u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
            if self.swapped { word.swap_bytes() } else { word }
        };
        let length = word(8) as usize;
        if length > MAX_PACKET {
            let text = format!("a packet of {length} bytes, which no capture holds");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let fraction = u64::from(word(4)) * if self.nanoseconds { 1 } else { 1000 };
        let time = u64::from(word(0)) * 1_000_000_000 + fraction;
        self.buffer.resize(length, 0);
        match self.input.read_exact(&mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Some(Record { data: &self.buffer, time }))
    }
}
