//! Files of captured packets in the pcapng form, as they are written.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

const OPT_COMMENT: u16 = 1;
const OPT_IF_NAME: u16 = 2;
const OPT_IF_TSRESOL: u16 = 9;

/// Link type of Ethernet frames.
pub const LINK_ETHERNET: u16 = 1;
/// Link type of packets that begin with an IPv4 header.
pub const LINK_IPV4: u16 = 228;
/// Link type of packets that begin with an IPv6 header.
pub const LINK_IPV6: u16 = 229;

/// One packet of a file.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Number of its interface, in the order in which these were written.
    pub interface: u32,
    /// The captured bytes.
    pub data: &'a [u8],
    /// Bytes on the wire.
    pub length: usize,
    /// Time of capture in nanoseconds since the epoch.
    pub time: u64,
    /// What is said about it.
    pub comments: &'a [String],
}

/// Writes a file: interfaces, then packets.
#[derive(Debug)]
pub struct PcapngWriter<W: Write> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> PcapngWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, block: Vec::with_capacity(4096) };
        writer.begin(SECTION);
        writer.u32(BYTE_ORDER);
        // Version 1.0, and a section whose length is not known.
        writer.u16(1);
        writer.u16(0);
        writer.block.extend_from_slice(&u64::MAX.to_le_bytes());
        writer.end()?;
        Ok(writer)
    }

    /// Writes an interface whose packets have the link type `link` and at most `snaplen` bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn interface(&mut self, link: u16, snaplen: u32, name: Option<&str>) -> io::Result<()> {
        self.begin(INTERFACE);
        self.u16(link);
        self.u16(0);
        self.u32(snaplen);
        if let Some(name) = name {
            self.option(OPT_IF_NAME, name.as_bytes());
        }
        // Times in nanoseconds.
        self.option(OPT_IF_TSRESOL, &[9]);
        self.u32(0);
        self.end()
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn packet(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.begin(PACKET);
        self.u32(record.interface);
        self.u32((record.time >> 32) as u32);
        self.u32(record.time as u32);
        self.u32(record.data.len() as u32);
        self.u32(record.length as u32);
        self.padded(record.data);
        if !record.comments.is_empty() {
            for comment in record.comments {
                self.option(OPT_COMMENT, comment.as_bytes());
            }
            self.u32(0);
        }
        self.end()
    }

    /// Hands everything to the system that was written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// What the file was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn u16(&mut self, value: u16) {
        self.block.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.block.extend_from_slice(&value.to_le_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.u16(code);
        self.u16(value.len() as u16);
        self.padded(value);
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.u32(kind);
        self.u32(0);
    }

    /// Fills in the length, which stands at both ends of a block.
    fn end(&mut self) -> io::Result<()> {
        let length = self.block.len() as u32 + 4;
        self.block[4..8].copy_from_slice(&length.to_le_bytes());
        self.u32(length);
        self.out.write_all(&self.block)
    }
}
