//! Classic capture files: both byte orders, microseconds and nanoseconds.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Burst, Frame, Source, Statistics};

/// Longest frame that is believed; what is longer is a broken file.
const MAX_FRAME: usize = 256 * 1024;
/// Link type of Ethernet.
const ETHERNET: u32 = 1;

/// A file that is no capture this program can read.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file cannot be read.
    #[error("{path}: {cause}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It does not begin like a capture file.
    #[error(
        "{path}: found magic number {magic:#010x}, expected a classic pcap file (convert pcapng \
         with: editcap -F pcap IN OUT)",
        path = path.display()
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first four bytes.
        magic: u32,
    },
    /// It holds no Ethernet frames.
    #[error("{path}: found link type {link}, expected 1 (Ethernet)", path = path.display())]
    Link {
        /// The file.
        path: PathBuf,
        /// Its link type.
        link: u32,
    },
}

/// A capture file.
pub struct Pcap {
    input: Box<dyn Read + Send>,
    swapped: bool,
    nanoseconds: bool,
    buffer: Vec<u8>,
    statistics: Statistics,
}

impl std::fmt::Debug for Pcap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pcap").field("statistics", &self.statistics).finish_non_exhaustive()
    }
}

impl Pcap {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or is no classic capture of Ethernet frames.
    pub fn open(path: &Path) -> Result<Self, PcapError> {
        let file =
            File::open(path).map_err(|cause| PcapError::Read { path: path.to_owned(), cause })?;
        Self::read(BufReader::with_capacity(1 << 20, file), path)
    }

    /// Reads a capture from `input`; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Pcap::open`].
    pub fn read(input: impl Read + Send + 'static, path: &Path) -> Result<Self, PcapError> {
        let mut input: Box<dyn Read + Send> = Box::new(input);
        let mut header = [0; 24];
        input
            .read_exact(&mut header)
            .map_err(|cause| PcapError::Read { path: path.to_owned(), cause })?;
        let magic = word(&header, 0, false);
        let (swapped, nanoseconds) = match magic {
            0xa1b2_c3d4 => (false, false),
            0xd4c3_b2a1 => (true, false),
            0xa1b2_3c4d => (false, true),
            0x4d3c_b2a1 => (true, true),
            magic => return Err(PcapError::Magic { path: path.to_owned(), magic }),
        };
        // The upper bits may say how long the frame check sequence is.
        let link = word(&header, 20, swapped) & 0x0fff_ffff;
        if link != ETHERNET {
            return Err(PcapError::Link { path: path.to_owned(), link });
        }
        let statistics = Statistics::default();
        Ok(Self { input, swapped, nanoseconds, buffer: Vec::new(), statistics })
    }

    /// Reads one record into the buffer; its time and whether it was cut.
    fn next(&mut self) -> io::Result<Option<(u64, bool)>> {
        let mut header = [0; 16];
        match self.input.read(&mut header)? {
            0 => return Ok(None),
            n => self.input.read_exact(&mut header[n..])?,
        }
        let field = |at| word(&header, at, self.swapped);
        let (captured, original) = (field(8) as usize, field(12) as usize);
        if captured > MAX_FRAME {
            let text = format!("frame of {captured} bytes, at most {MAX_FRAME} are expected");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.buffer.resize(captured, 0);
        self.input.read_exact(&mut self.buffer)?;
        let fraction = u64::from(field(4)) * if self.nanoseconds { 1 } else { 1000 };
        let timestamp = u64::from(field(0)) * 1_000_000_000 + fraction;
        Ok(Some((timestamp, captured < original)))
    }
}

fn word(bytes: &[u8], at: usize, swapped: bool) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    if swapped { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
}

impl Source for Pcap {
    fn burst(
        &mut self,
        max: usize,
        _: Duration,
        each: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<Burst> {
        for n in 0..max {
            let Some((timestamp, truncated)) = self.next()? else {
                return Ok(if n == 0 { Burst::Ended } else { Burst::Frames(n) });
            };
            self.statistics.received += 1;
            self.statistics.truncated += u64::from(truncated);
            each(Frame { data: &self.buffer, timestamp, truncated });
        }
        Ok(Burst::Frames(max))
    }

    fn statistics(&mut self) -> Statistics {
        self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(swapped: bool, magic: u32, frames: &[&[u8]]) -> Vec<u8> {
        let put = |out: &mut Vec<u8>, n: u32| {
            out.extend(if swapped { n.to_be_bytes() } else { n.to_le_bytes() });
        };
        let mut out = Vec::new();
        for n in [magic, 0x0004_0002, 0, 0, 65535, 1] {
            put(&mut out, n);
        }
        for frame in frames {
            for n in [7, 9, frame.len() as u32, frame.len() as u32 + 1] {
                put(&mut out, n);
            }
            out.extend_from_slice(frame);
        }
        out
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<(Vec<u8>, u64)>, String> {
        let mut pcap =
            Pcap::read(io::Cursor::new(bytes), Path::new("x")).map_err(|e| e.to_string())?;
        let mut frames = Vec::new();
        loop {
            let mut each = |f: Frame<'_>| frames.push((f.data.to_vec(), f.timestamp));
            match pcap.burst(2, Duration::ZERO, &mut each).map_err(|e| e.to_string())? {
                Burst::Ended => return Ok(frames),
                Burst::Frames(_) => {}
            }
        }
    }

    #[test]
    fn both_byte_orders_and_resolutions() {
        for swapped in [false, true] {
            for (magic, time) in [(0xa1b2_c3d4, 7_000_009_000), (0xa1b2_3c4d, 7_000_000_009)] {
                let frames = read(file(swapped, magic, &[b"one", b"", b"three"])).unwrap();
                assert_eq!(frames.len(), 3);
                assert_eq!(frames[2], (b"three".to_vec(), time));
            }
        }
    }

    #[test]
    fn what_is_no_capture_is_named() {
        assert!(
            read(b"\x0a\x0d\x0d\x0axxxxxxxxxxxxxxxxxxxxxxxx".to_vec())
                .unwrap_err()
                .contains("pcapng")
        );
        let mut cut = file(false, 0xa1b2_c3d4, &[b"frame"]);
        cut.pop();
        assert!(read(cut).is_err());
        let mut endless = file(false, 0xa1b2_c3d4, &[b"frame"]);
        endless[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(endless).unwrap_err().contains("4294967295"));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read([file(false, 0xa1b2_c3d4, &[]), bytes].concat());
        }
    }
}
