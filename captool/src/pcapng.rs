//! Compressed pcapng with two interfaces: 0 for IPv4, 1 for IPv6, each from the IP header on.

use std::io::{self, Write};

use capture::pcapng::{LINK_IPV4, LINK_IPV6, PcapngWriter, Record};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::select::Flow;

const SNAPLEN: u32 = 65_535;

/// Writes packets.
#[derive(Debug)]
pub struct Writer<W: Write>(PcapngWriter<GzEncoder<W>>);

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = PcapngWriter::new(GzEncoder::new(out, Compression::default()))?;
        for link in [LINK_IPV4, LINK_IPV6] {
            writer.interface(link, SNAPLEN, None)?;
        }
        Ok(Self(writer))
    }

    /// Writes a packet of `flow` that begins with its IP header, with the four comments of the
    /// reference. `time` is in nanoseconds since the epoch, `length` that on the wire.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn packet(&mut self, ip: &[u8], length: usize, time: u64, flow: &Flow) -> io::Result<()> {
        let comments = [
            format!("cc:{}", flow.place.country),
            format!("asn:{}", flow.place.asn),
            format!("subnet:{}", flow.network),
            format!("sublen:{}", flow.network.prefix_len()),
        ];
        let interface = u32::from(ip[0] >> 4 == 6);
        self.0.packet(&Record { interface, data: ip, length, time, comments: &comments })
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> io::Result<()> {
        self.0.into_inner().finish()?.flush()
    }
}
