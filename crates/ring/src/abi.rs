//! Layout of the queue region and of its rings (`spec/ingest.md` 10.3). All fields little-endian.

/// First eight bytes of a queue region.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CJINGST1");
/// Version of the layout.
pub const ABI: u32 = 1;
/// Length of the header, which is also the offset of ring 0, in bytes.
pub const HEADER_LEN: usize = 4096;
/// Most queues that a balancer may have, over all sets: one bit each in a frame's holder mask.
pub const MAX_QUEUES: usize = 64;
/// Most rings (ingest threads) per queue.
pub const MAX_PRODUCERS: usize = 64;
/// Most descriptors in one ring.
pub const MAX_SLOTS: u32 = 1 << 20;
/// Frames received or returned at once, at most.
pub const BURST: usize = 64;
/// Most descriptors that one packet may be chained over.
pub const MAX_FRAGMENTS: usize = 48;

/// Queue states (offset 72).
pub mod state {
    /// Being set up.
    pub const INIT: u32 = 1;
    /// In use.
    pub const RUNNING: u32 = 2;
    /// The balancer is stopping; what is queued may still be read.
    pub const DRAINING: u32 = 3;
    /// The balancer reads and writes it no more.
    pub const CLOSED: u32 = 4;
}

/// Offsets in the header of a queue region, in bytes.
pub mod header {
    /// Generation u64, incremented per attach.
    pub const GENERATION: usize = 64;
    /// State u32.
    pub const STATE: usize = 72;
    /// CRC-32C of bytes 0..64 and 76..84.
    pub const CRC: usize = 84;
    /// Futex word u32: 1 while the consumer sleeps.
    pub const WAITING: usize = 128;
    /// Number of times the consumer was woken, u32.
    pub const WAKES: usize = 132;
    /// Consumer's heartbeat u64, CLOCK_MONOTONIC in nanoseconds.
    pub const CONSUMER_HEARTBEAT: usize = 256;
}

/// Offsets in a ring, in bytes.
pub mod ring {
    /// Descriptors published, u64 (producer).
    pub const PROD: usize = 0;
    /// Frames dropped because the ring was full, u64 (producer).
    pub const DROPPED: usize = 8;
    /// Producer's heartbeat u64, CLOCK_MONOTONIC in nanoseconds (producer).
    pub const HEARTBEAT: usize = 16;
    /// Frames dropped because too many were not returned, u64 (producer).
    pub const DROPPED_QUOTA: usize = 24;
    /// Descriptors consumed, u64 (consumer).
    pub const CONS: usize = 128;
    /// Addresses returned, u64 (consumer).
    pub const RPROD: usize = 256;
    /// Addresses taken back, u64 (producer).
    pub const RCONS: usize = 384;
    /// Packets processed, u64 (consumer).
    pub const PROCESSED: usize = 640;
    /// Descriptors that the consumer refused, u64 (consumer).
    pub const ERRORS: usize = 648;
    /// First descriptor.
    pub const DESCRIPTORS: usize = 1024;
}

/// Length of one ring with `slots` descriptors, in bytes.
pub const fn ring_stride(slots: u32) -> usize {
    (ring::DESCRIPTORS + 24 * slots as usize).next_multiple_of(4096)
}

/// Offset of the first return entry in a ring with `slots` descriptors, in bytes.
pub const fn returns_offset(slots: u32) -> usize {
    ring::DESCRIPTORS + 16 * slots as usize
}

/// Length of a queue region, in bytes.
pub const fn region_len(producers: u32, slots: u32) -> usize {
    HEADER_LEN + producers as usize * ring_stride(slots)
}

/// Flags of a descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameFlags(pub u16);

impl FrameFlags {
    /// The packet goes on in the next descriptor.
    pub const MORE_FRAGMENTS: u16 = 1 << 0;
    /// The capture is shorter than the packet on the wire.
    pub const TRUNCATED: u16 = 1 << 1;
    /// A VLAN tag was left in the head room.
    pub const VLAN_OUT_OF_BAND: u16 = 1 << 2;
    /// The receiver verified the layer-4 checksum.
    pub const CHECKSUM_GOOD: u16 = 1 << 3;
    /// The receiver found the layer-4 checksum wrong.
    pub const CHECKSUM_BAD: u16 = 1 << 4;
    /// The head room holds a time stamp.
    pub const TIMESTAMP: u16 = 1 << 5;
    /// The head room holds the distribution hash.
    pub const HASH: u16 = 1 << 6;
    /// The sender did not complete the layer-4 checksum: forwarding must.
    pub const CHECKSUM_INCOMPLETE: u16 = 1 << 7;

    /// True when every bit of `flags` is set.
    #[inline]
    pub const fn has(self, flags: u16) -> bool {
        self.0 & flags == flags
    }
}

/// One descriptor: where a packet, or a part of it, lies in the frames region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Offset of the first byte in the frames region.
    pub address: u64,
    /// Captured length in bytes.
    pub len: u32,
    /// [`FrameFlags`].
    pub flags: u16,
    /// Index of the input interface.
    pub interface: u16,
}

impl Descriptor {
    /// The second of the two words that a descriptor is stored as.
    #[inline]
    pub const fn word(&self) -> u64 {
        self.len as u64 | (self.flags as u64) << 32 | (self.interface as u64) << 48
    }

    /// Reads a descriptor from its two words.
    #[inline]
    pub const fn from_words(address: u64, word: u64) -> Self {
        Self {
            address,
            len: word as u32,
            flags: (word >> 32) as u16,
            interface: (word >> 48) as u16,
        }
    }
}

/// Feature of a queue region: frames come back in the order in which they were handed out, so that `rprod`
/// alone says which, and return entries are neither written nor read.
pub const RETURNS_IN_ORDER: u32 = 1;
/// Feature of a queue region: its consumer wants to know time of reception and hash of every packet. Without it
/// packets may come with neither.
pub const DESCRIBED: u32 = 2;

/// What the constant part of a queue region's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Random per start of the balancer.
    pub instance: [u8; 16],
    /// Cluster number.
    pub cluster: u32,
    /// Global queue id.
    pub queue: u32,
    /// Rings in the region.
    pub producers: u32,
    /// Descriptors per ring, a power of two.
    pub slots: u32,
    /// Length of the frames region in bytes.
    pub frames_len: u64,
    /// Size of one frame in bytes, a power of two.
    pub frame_size: u32,
    /// Bytes kept free before a packet.
    pub head_room: u32,
    /// Link type as in pcap; 1 is Ethernet.
    pub link_type: u32,
    /// What of the following holds: [`RETURNS_IN_ORDER`], [`DESCRIBED`].
    pub features: u32,
}

/// Why a header was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a queue region.
    #[error("not a queue region (bad magic)")]
    Magic,
    /// Another layout.
    #[error("queue region has layout {0}, this program knows {ABI}")]
    Abi(u32),
    /// The checksum does not match.
    #[error("queue region header is damaged (CRC-32C)")]
    Crc,
    /// A size that cannot be.
    #[error("queue region header has an impossible {0}")]
    Size(&'static str),
}

impl Header {
    /// The first 88 bytes of a region with this header, state and generation zero.
    pub fn encode(&self) -> [u8; 88] {
        let mut out = [0u8; 88];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &ABI.to_le_bytes());
        put(12, &(HEADER_LEN as u32).to_le_bytes());
        put(16, &self.instance);
        put(32, &self.cluster.to_le_bytes());
        put(36, &self.queue.to_le_bytes());
        put(40, &self.producers.to_le_bytes());
        put(44, &self.slots.to_le_bytes());
        put(48, &self.frames_len.to_le_bytes());
        put(56, &self.frame_size.to_le_bytes());
        put(60, &self.head_room.to_le_bytes());
        put(76, &self.link_type.to_le_bytes());
        put(80, &self.features.to_le_bytes());
        let crc = header_crc(&out);
        out[header::CRC..header::CRC + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks the first 88 bytes of a region.
    ///
    /// # Errors
    /// When it is not a region of this layout, is damaged, or announces impossible sizes.
    pub fn decode(bytes: &[u8; 88]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u64_at(0) != MAGIC {
            return Err(HeaderError::Magic);
        }
        if u32_at(8) != ABI || u32_at(12) as usize != HEADER_LEN {
            return Err(HeaderError::Abi(u32_at(8)));
        }
        if u32_at(header::CRC) != header_crc(bytes) {
            return Err(HeaderError::Crc);
        }
        let mut instance = [0; 16];
        instance.copy_from_slice(&bytes[16..32]);
        let read = Self {
            instance,
            cluster: u32_at(32),
            queue: u32_at(36),
            producers: u32_at(40),
            slots: u32_at(44),
            frames_len: u64_at(48),
            frame_size: u32_at(56),
            head_room: u32_at(60),
            link_type: u32_at(76),
            features: u32_at(80),
        };
        read.check()?;
        Ok(read)
    }

    /// Checks that the sizes can be those of a region.
    ///
    /// # Errors
    /// The name of the impossible size.
    pub fn check(&self) -> Result<(), HeaderError> {
        let possible = [
            ((1..=MAX_PRODUCERS as u32).contains(&self.producers), "number of rings"),
            (self.slots.is_power_of_two() && self.slots <= MAX_SLOTS, "number of slots"),
            (
                self.frame_size.is_power_of_two() && (256..=1 << 20).contains(&self.frame_size),
                "frame size",
            ),
            (
                self.head_room >= 16
                    && self.head_room.is_multiple_of(8)
                    && self.head_room < self.frame_size / 2,
                "head room",
            ),
            (
                self.frames_len > 0 && self.frames_len.is_multiple_of(u64::from(self.frame_size)),
                "frames region length",
            ),
        ];
        match possible.into_iter().find(|(ok, _)| !ok) {
            Some((_, what)) => Err(HeaderError::Size(what)),
            None => Ok(()),
        }
    }
}

fn header_crc(bytes: &[u8; 88]) -> u32 {
    let crc = crc32c(u32::MAX, &bytes[..64]);
    !crc32c(crc, &bytes[76..84])
}

/// CRC-32C over `bytes`, continuing from `crc`, without the final inversion. Run once per attach,
/// so a table would not pay.
fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: Header = Header {
        instance: [7; 16],
        cluster: 98,
        queue: 3,
        producers: 2,
        slots: 8192,
        frames_len: 2048 * 100,
        frame_size: 2048,
        head_room: 64,
        link_type: 1,
        features: 0,
    };

    #[test]
    fn crc_known_answer() {
        assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn offsets_of_the_spec() {
        let bytes = HEADER.encode();
        assert_eq!(&bytes[..8], b"CJINGST1");
        assert_eq!(bytes[44..48], 8192u32.to_le_bytes());
        assert_eq!(bytes[60..64], 64u32.to_le_bytes());
        assert_eq!(ring_stride(8192), 1024 + 24 * 8192 + 3072);
        assert_eq!(ring_stride(128), 4096);
        assert_eq!(region_len(2, 128), 4096 * 3);
    }

    proptest! {
        #[test]
        fn header_survives(cluster: u32, queue: u32, instance: [u8; 16], producers in 1u32..=64, shift in 0u32..=20) {
            let header = Header { cluster, queue, instance, producers, slots: 1 << shift, ..HEADER };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn damage_is_found(at in 0usize..88, bit in 0u8..8) {
            // Generation and state change while the region is in use and are not covered.
            prop_assume!(!(64..76).contains(&at));
            let mut bytes = HEADER.encode();
            bytes[at] ^= 1 << bit;
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn descriptor_survives(address: u64, len: u32, flags: u16, interface: u16) {
            let d = Descriptor { address, len, flags, interface };
            prop_assert_eq!(Descriptor::from_words(d.address, d.word()), d);
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let broken = [
            Header { slots: 100, ..HEADER },
            Header { producers: 0, ..HEADER },
            Header { frame_size: 3000, ..HEADER },
            Header { head_room: 8, ..HEADER },
            Header { frames_len: 2049, ..HEADER },
        ];
        for header in broken {
            assert!(matches!(Header::decode(&header.encode()), Err(HeaderError::Size(_))));
        }
    }
}
