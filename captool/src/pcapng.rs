//! Compressed pcapng with two interfaces: 0 for IPv4, 1 for IPv6, each from the IP header on.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::select::Flow;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Link types of the two interfaces.
const LINKS: [u16; 2] = [228, 229];
const SNAPLEN: u32 = 65_535;

const OPT_COMMENT: u16 = 1;
const OPT_IF_TSRESOL: u16 = 9;

/// Writes packets.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: GzEncoder<W>,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self {
            out: GzEncoder::new(out, Compression::default()),
            block: Vec::with_capacity(4096),
        };
        writer.begin(SECTION);
        writer.u32(BYTE_ORDER);
        // Version 1.0, and a section whose length is not known.
        writer.u16(1);
        writer.u16(0);
        writer.block.extend_from_slice(&u64::MAX.to_le_bytes());
        writer.end()?;
        for link in LINKS {
            writer.begin(INTERFACE);
            writer.u16(link);
            writer.u16(0);
            writer.u32(SNAPLEN);
            // Times in nanoseconds.
            writer.option(OPT_IF_TSRESOL, &[9]);
            writer.u32(0);
            writer.end()?;
        }
        Ok(writer)
    }

    /// Writes a packet of `flow` that begins with its IP header, with the four comments of the
    /// reference. `time` is in nanoseconds since the epoch, `length` that on the wire.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn packet(&mut self, ip: &[u8], length: usize, time: u64, flow: &Flow) -> io::Result<()> {
        self.begin(PACKET);
        self.u32(u32::from(ip[0] >> 4 == 6));
        self.u32((time >> 32) as u32);
        self.u32(time as u32);
        self.u32(ip.len() as u32);
        self.u32(length as u32);
        self.padded(ip);
        for comment in [
            format!("cc:{}", flow.place.country),
            format!("asn:{}", flow.place.asn),
            format!("subnet:{}", flow.network),
            format!("sublen:{}", flow.network.prefix_len()),
        ] {
            self.option(OPT_COMMENT, comment.as_bytes());
        }
        self.u32(0);
        self.end()
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> io::Result<()> {
        self.out.finish()?.flush()
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
