//! Packets: a common header and chunks (RFC 9260 section 3).

use crate::chunk::Chunk;

/// Length of the common header.
pub const HEADER: usize = 12;
/// Length of a chunk's header.
pub const CHUNK_HEADER: usize = 4;

/// A received packet whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Sender's port.
    pub source: u16,
    /// Receiver's port.
    pub destination: u16,
    /// The receiver's verification tag.
    pub tag: u32,
    chunks: &'a [u8],
}

/// A packet that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    /// Shorter than a header and one chunk.
    #[error("a packet of {0} bytes holds no chunk")]
    Short(usize),
    /// The CRC32c is wrong.
    #[error("wrong checksum")]
    Checksum,
    /// A chunk does not fit.
    #[error("a chunk that does not fit into its packet")]
    Chunk,
}

impl<'a> Packet<'a> {
    /// Reads the header and checks the checksum, not the chunks.
    ///
    /// # Errors
    /// When the packet is too short or its checksum is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadPacket> {
        if bytes.len() < HEADER + CHUNK_HEADER {
            return Err(BadPacket::Short(bytes.len()));
        }
        let (header, chunks) = bytes.split_at(HEADER);
        let sent = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if sent != checksum(header, chunks) {
            return Err(BadPacket::Checksum);
        }
        Ok(Self {
            source: u16::from_be_bytes([header[0], header[1]]),
            destination: u16::from_be_bytes([header[2], header[3]]),
            tag: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            chunks,
        })
    }

    /// The chunks in order. After an error nothing follows.
    pub const fn chunks(&self) -> Chunks<'a> {
        Chunks { rest: self.chunks }
    }
}

/// The chunks of a packet.
#[derive(Debug, Clone)]
pub struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, BadPacket>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        if bytes.len() < CHUNK_HEADER {
            return Some(Err(BadPacket::Chunk));
        }
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if length < CHUNK_HEADER || length > bytes.len() {
            return Some(Err(BadPacket::Chunk));
        }
        // The last chunk's padding may be missing.
        self.rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Chunk::parse(bytes[0], bytes[1], &bytes[CHUNK_HEADER..length]).ok_or(BadPacket::Chunk))
    }
}

/// CRC32c over the packet with a checksum field of zero; it goes onto the wire in little-endian
/// order (RFC 9260 appendix A).
fn checksum(header: &[u8], chunks: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&header[..8]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, chunks)
}

/// A packet under construction at the end of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    limit: usize,
}

impl<'a> Writer<'a> {
    /// Begins a packet of at most `limit` bytes.
    pub fn new(out: &'a mut Vec<u8>, ports: (u16, u16), tag: u32, limit: usize) -> Self {
        let start = out.len();
        out.extend_from_slice(&ports.0.to_be_bytes());
        out.extend_from_slice(&ports.1.to_be_bytes());
        out.extend_from_slice(&tag.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        Self { out, start, limit }
    }

    /// Bytes left for chunks, their headers included.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.out.len() - self.start)
    }

    /// Whether no chunk was added.
    pub fn is_empty(&self) -> bool {
        self.out.len() == self.start + HEADER
    }

    /// Adds a chunk.
    pub fn chunk(&mut self, chunk: &Chunk<'_>) {
        chunk.write(self.out);
    }

    /// Adds a DATA chunk whose payload lies in two pieces.
    pub fn data(&mut self, data: &crate::chunk::DataHeader, payload: (&[u8], &[u8])) {
        data.write(self.out, payload);
    }

    /// Completes the packet; its length, or `None` without a chunk, when nothing is left of it.
    pub fn finish(self) -> Option<usize> {
        if self.is_empty() {
            self.out.truncate(self.start);
            return None;
        }
        let (header, chunks) = self.out[self.start..].split_at_mut(HEADER);
        let crc = checksum(header, chunks);
        header[8..].copy_from_slice(&crc.to_le_bytes());
        Some(self.out.len() - self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Data, Sack};
    use proptest::prelude::*;

    #[test]
    fn broken_packets_are_refused() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, (5000, 5000), 7, 100);
        writer.chunk(&Chunk::CookieAck);
        assert_eq!(writer.finish(), Some(16));
        assert!(Packet::parse(&bytes).is_ok());
        assert_eq!(Packet::parse(&bytes[..15]).unwrap_err(), BadPacket::Short(15));
        bytes[4] ^= 1;
        assert_eq!(Packet::parse(&bytes).unwrap_err(), BadPacket::Checksum);
        let empty = Writer::new(&mut bytes, (1, 2), 3, 100);
        assert_eq!(empty.finish(), None);
        assert_eq!(bytes.len(), 16);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            tag: u32, tsn: u32, ssn: u16, flags in 0u8..16, window: u32,
            payload in proptest::collection::vec(any::<u8>(), 1..1200),
            gaps in proptest::collection::vec(any::<(u16, u16)>(), 0..9),
        ) {
            let gap_bytes: Vec<u8> =
                gaps.iter().flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat()).collect();
            let data = Chunk::Data(Data { flags, tsn, stream: 1, ssn, ppid: 51, payload: &payload });
            let sack = Chunk::Sack(Sack { cumulative: tsn, window, gaps: &gap_bytes, duplicates: &[] });
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes, (1, 2), tag, 9999);
            writer.chunk(&data);
            writer.chunk(&sack);
            writer.finish();
            let packet = Packet::parse(&bytes).unwrap();
            prop_assert_eq!((packet.source, packet.destination, packet.tag), (1, 2, tag));
            let read: Vec<_> = packet.chunks().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read, vec![data, sack]);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::parse(&bytes);
            for chunk in (Chunks { rest: &bytes }) {
                let _ = chunk.map(|chunk| chunk.write(&mut Vec::new()));
            }
        }
    }
}
