//! Files of captured packets as they are read: classic pcap in both byte orders and resolutions, and pcapng.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest packet that is believed; what is longer is a broken file.
const MAX_PACKET: usize = 256 * 1024;
/// Longest block of pcapng: a packet and what is said about it.
const MAX_BLOCK: usize = 2 * MAX_PACKET;
/// Interfaces of a section at most.
const MAX_INTERFACES: usize = 1 << 16;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

const OPT_END: u16 = 0;
const OPT_IF_TSRESOL: u16 = 9;
const OPT_IF_TSOFFSET: u16 = 14;

/// A file that is no recording this program can read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("{path}: {cause}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It does not begin like a recording.
    #[error("{path}: found magic number {magic:#010x}, expected a pcap or pcapng file", path = path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first four bytes.
        magic: u32,
    },
}

/// One packet.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// Link type of its interface (`LINKTYPE_*`).
    pub link: u32,
    /// The captured bytes.
    pub data: &'a [u8],
    /// Bytes on the wire.
    pub length: usize,
    /// Time of capture in nanoseconds since the epoch.
    pub time: u64,
}

/// An open file.
pub struct Recording {
    input: Box<dyn Read + Send>,
    form: Form,
    swapped: bool,
    buffer: Vec<u8>,
}

/// Where the parts of a packet stand, and what they mean.
#[derive(Debug)]
enum Form {
    Classic { nanoseconds: bool, link: u32 },
    Blocks { interfaces: Vec<Interface> },
}

/// An interface of a section of pcapng.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link: u32,
    snaplen: usize,
    resolution: Resolution,
    /// Seconds that are added to every time.
    offset: i64,
}

/// Units of a time in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    /// Ten to this power.
    Ten(u32),
    /// Two to this power.
    Two(u32),
}

impl Resolution {
    const fn of(byte: u8) -> Self {
        let power = (byte & 0x7f) as u32;
        if byte & 0x80 == 0 { Self::Ten(power) } else { Self::Two(power) }
    }

    /// Nanoseconds of `units`.
    fn nanoseconds(self, units: u64) -> u64 {
        let units = u128::from(units);
        let nanoseconds = match self {
            Self::Ten(power @ 0..=9) => units * 10u128.pow(9 - power),
            Self::Ten(power) => units / 10u128.checked_pow(power - 9).unwrap_or(u128::MAX),
            Self::Two(power) => (units * 1_000_000_000).checked_shr(power).unwrap_or(0),
        };
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("form", &self.form).finish_non_exhaustive()
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn u32_at(bytes: &[u8], at: usize, swapped: bool) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    if swapped { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
}

fn u16_at(bytes: &[u8], at: usize, swapped: bool) -> u16 {
    let two = [bytes[at], bytes[at + 1]];
    if swapped { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) }
}

impl Recording {
    /// The format of the file: `pcap` or `pcapng`.
    pub const fn format(&self) -> &'static str {
        match self.form {
            Form::Classic { .. } => "pcap",
            Form::Blocks { .. } => "pcapng",
        }
    }

    /// Reads a recording from `input`; `path` is its name in errors.
    ///
    /// # Errors
    /// When it cannot be read or does not begin like one.
    pub fn read(input: impl Read + Send + 'static, path: &Path) -> Result<Self, RecordingError> {
        let failed = |cause| RecordingError::Read { path: path.to_owned(), cause };
        let mut input: Box<dyn Read + Send> = Box::new(input);
        let mut magic = [0; 4];
        input.read_exact(&mut magic).map_err(failed)?;
        let (swapped, nanoseconds) = match u32::from_le_bytes(magic) {
            SECTION => {
                let form = Form::Blocks { interfaces: Vec::new() };
                let mut recording = Self { input, form, swapped: false, buffer: Vec::new() };
                recording.section().map_err(failed)?;
                return Ok(recording);
            }
            0xa1b2_c3d4 => (false, false),
            0xd4c3_b2a1 => (true, false),
            0xa1b2_3c4d => (false, true),
            0x4d3c_b2a1 => (true, true),
            magic => return Err(RecordingError::Magic { path: path.to_owned(), magic }),
        };
        let mut header = [0; 20];
        input.read_exact(&mut header).map_err(failed)?;
        // The upper bits may say how long the frame check sequence is.
        let link = u32_at(&header, 16, swapped) & 0x0fff_ffff;
        Ok(Self { input, form: Form::Classic { nanoseconds, link }, swapped, buffer: Vec::new() })
    }

    /// Link type of all packets; none in pcapng, where each interface has its own.
    pub const fn link(&self) -> Option<u32> {
        match self.form {
            Form::Classic { link, .. } => Some(link),
            Form::Blocks { .. } => None,
        }
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends within a packet, `InvalidData` when it is broken, and what the system
    /// says.
    pub fn packet(&mut self) -> io::Result<Option<Recorded<'_>>> {
        match self.form {
            Form::Classic { nanoseconds, link } => self.record(nanoseconds, link),
            Form::Blocks { .. } => self.block(),
        }
    }

    /// Reads the first bytes of what comes next; false at the end.
    fn begin(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        let mut read = 0;
        while read < bytes.len() {
            match self.input.read(&mut bytes[read..]) {
                Ok(0) if read == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn record(&mut self, nanoseconds: bool, link: u32) -> io::Result<Option<Recorded<'_>>> {
        let mut header = [0; 16];
        if !self.begin(&mut header)? {
            return Ok(None);
        }
        let field = |at| u32_at(&header, at, self.swapped);
        let (captured, length) = (field(8) as usize, field(12) as usize);
        if captured > MAX_PACKET {
            let text = format!("a packet of {captured} bytes; at most {MAX_PACKET} are expected");
            return Err(invalid(text));
        }
        self.buffer.resize(captured, 0);
        self.input.read_exact(&mut self.buffer)?;
        let fraction = u64::from(field(4)) * if nanoseconds { 1 } else { 1000 };
        let time = u64::from(field(0)) * 1_000_000_000 + fraction;
        Ok(Some(Recorded { link, data: &self.buffer, length, time }))
    }

    /// Reads the body of a section's first block, of which the type has been read, and begins the section.
    fn section(&mut self) -> io::Result<()> {
        let mut start = [0; 8];
        self.input.read_exact(&mut start)?;
        self.swapped = match u32::from_le_bytes([start[4], start[5], start[6], start[7]]) {
            BYTE_ORDER => false,
            order if order.swap_bytes() == BYTE_ORDER => true,
            order => return Err(invalid(format!("a section with the byte order {order:#010x}"))),
        };
        self.body(u32_at(&start, 0, self.swapped), 12)?;
        self.form = Form::Blocks { interfaces: Vec::new() };
        Ok(())
    }

    /// Reads the rest of a block of `total` bytes, of which `read` have been read, into the buffer, without the
    /// length at its end.
    fn body(&mut self, total: u32, read: usize) -> io::Result<()> {
        let total = total as usize;
        if total < read + 4 || !total.is_multiple_of(4) || total > MAX_BLOCK {
            return Err(invalid(format!(
                "a block of {total} bytes; at most {MAX_BLOCK} are expected"
            )));
        }
        self.buffer.resize(total - read, 0);
        self.input.read_exact(&mut self.buffer)?;
        self.buffer.truncate(total - read - 4);
        Ok(())
    }

    fn block(&mut self) -> io::Result<Option<Recorded<'_>>> {
        loop {
            let mut kind = [0; 4];
            if !self.begin(&mut kind)? {
                return Ok(None);
            }
            let kind = u32_at(&kind, 0, self.swapped);
            // The same in both byte orders, one of which begins here.
            if kind == SECTION {
                self.section()?;
                continue;
            }
            let mut total = [0; 4];
            self.input.read_exact(&mut total)?;
            self.body(u32_at(&total, 0, self.swapped), 8)?;
            let swapped = self.swapped;
            let Form::Blocks { interfaces } = &mut self.form else { return Ok(None) };
            match kind {
                INTERFACE => {
                    if interfaces.len() == MAX_INTERFACES {
                        return Err(invalid(format!("more than {MAX_INTERFACES} interfaces")));
                    }
                    interfaces.push(Interface::of(&self.buffer, swapped)?);
                }
                PACKET | SIMPLE_PACKET => {
                    let (link, time, length, (start, end)) =
                        place(kind, &self.buffer, interfaces, swapped)?;
                    return Ok(Some(Recorded {
                        link,
                        data: &self.buffer[start..end],
                        length,
                        time,
                    }));
                }
                _ => {}
            }
        }
    }
}

impl Interface {
    /// Of the body of its block.
    fn of(body: &[u8], swapped: bool) -> io::Result<Self> {
        if body.len() < 8 {
            return Err(invalid(format!("an interface of {} bytes", body.len())));
        }
        let mut interface = Self {
            link: u16_at(body, 0, swapped).into(),
            snaplen: u32_at(body, 4, swapped) as usize,
            resolution: Resolution::Ten(6),
            offset: 0,
        };
        let mut options = &body[8..];
        while options.len() >= 4 {
            let (code, len) = (u16_at(options, 0, swapped), u16_at(options, 2, swapped));
            let Some(value) = options.get(4..4 + usize::from(len)) else {
                return Err(invalid(format!("an option of {len} bytes that leaves its block")));
            };
            match (code, value) {
                (OPT_END, _) => break,
                (OPT_IF_TSRESOL, [byte]) => interface.resolution = Resolution::of(*byte),
                (OPT_IF_TSOFFSET, &[a, b, c, d, e, f, g, h]) => {
                    let bytes = [a, b, c, d, e, f, g, h];
                    interface.offset =
                        if swapped { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
                }
                _ => {}
            }
            options = options.get(4 + usize::from(len).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(interface)
    }

    /// Nanoseconds since the epoch of a time in this interface's units.
    fn time(&self, units: u64) -> u64 {
        let offset = i128::from(self.offset) * 1_000_000_000;
        let time = i128::from(self.resolution.nanoseconds(units)) + offset;
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// Link type, time, length on the wire and place of the packet in the body of a block of this kind.
fn place(
    kind: u32,
    body: &[u8],
    interfaces: &[Interface],
    swapped: bool,
) -> io::Result<(u32, u64, usize, (usize, usize))> {
    let start = if kind == PACKET { 20 } else { 4 };
    if body.len() < start {
        return Err(invalid(format!("a packet's block of {} bytes", body.len())));
    }
    let field = |at| u32_at(body, at, swapped);
    let number = if kind == PACKET { field(0) } else { 0 };
    let Some(interface) = interfaces.get(number as usize) else {
        return Err(invalid(format!(
            "a packet of interface {number}; there are {} so far",
            interfaces.len()
        )));
    };
    let (time, captured, length) = if kind == PACKET {
        let units = u64::from(field(4)) << 32 | u64::from(field(8));
        (interface.time(units), field(12) as usize, field(16) as usize)
    } else {
        let length = field(0) as usize;
        let limit = if interface.snaplen == 0 { length } else { interface.snaplen };
        (0, length.min(limit), length)
    };
    if captured > body.len() - start {
        return Err(invalid(format!("a packet of {captured} bytes that leaves its block")));
    }
    Ok((interface.link, time, length, (start, start + captured)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcapng::{LINK_ETHERNET, LINK_IPV4, PcapngWriter, Record};
    use proptest::prelude::*;

    /// Link, bytes, length and time of every packet.
    type Packets = Vec<(u32, Vec<u8>, usize, u64)>;

    fn read(bytes: Vec<u8>) -> Result<Packets, String> {
        let mut recording = Recording::read(io::Cursor::new(bytes), Path::new("x"))
            .map_err(|error| error.to_string())?;
        let mut packets = Vec::new();
        while let Some(p) = recording.packet().map_err(|error| error.to_string())? {
            packets.push((p.link, p.data.to_vec(), p.length, p.time));
        }
        Ok(packets)
    }

    fn put(out: &mut Vec<u8>, swapped: bool, words: &[u32]) {
        for word in words {
            out.extend(if swapped { word.to_be_bytes() } else { word.to_le_bytes() });
        }
    }

    fn classic(swapped: bool, magic: u32, frames: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, swapped, &[magic, 0x0004_0002, 0, 0, 65535, 1]);
        for frame in frames {
            put(&mut out, swapped, &[7, 9, frame.len() as u32, frame.len() as u32 + 1]);
            out.extend_from_slice(frame);
        }
        out
    }

    #[test]
    fn classic_files_of_both_byte_orders_and_resolutions() {
        for swapped in [false, true] {
            for (magic, time) in [(0xa1b2_c3d4, 7_000_009_000), (0xa1b2_3c4d, 7_000_000_009)] {
                let packets = read(classic(swapped, magic, &[b"one", b"", b"three"])).unwrap();
                assert_eq!(packets.len(), 3);
                assert_eq!(packets[2], (1, b"three".to_vec(), 6, time));
            }
        }
    }

    #[test]
    fn what_is_written_as_pcapng_is_read() {
        let mut writer = PcapngWriter::new(Vec::new()).unwrap();
        writer.interface(LINK_ETHERNET, 262_144, Some("eth0")).unwrap();
        writer.interface(LINK_IPV4, 262_144, None).unwrap();
        let mut expected = Packets::new();
        for number in 0..6usize {
            let data: Vec<u8> = (0..60 + number as u8).collect();
            let comments = if number % 2 == 0 { vec![] } else { vec!["a comment".to_owned()] };
            let time = 1_700_000_000_000_000_007 + number as u64;
            let (interface, length) = (number as u32 % 2, data.len() + number);
            let record = Record { interface, data: &data, length, time, comments: &comments };
            writer.packet(&record).unwrap();
            let link = if interface == 0 { LINK_ETHERNET } else { LINK_IPV4 };
            expected.push((link.into(), data, length, time));
        }
        let once = writer.into_inner();
        assert_eq!(read(once.clone()).unwrap(), expected);
        // Two files are one with two sections.
        let twice = [expected.clone(), expected].concat();
        assert_eq!(read([once.clone(), once].concat()).unwrap(), twice);
    }

    /// A file of the other byte order with microseconds and an offset, a block that nobody knows, and a packet
    /// without time.
    #[test]
    fn pcapng_of_others() {
        for swapped in [false, true] {
            let mut out = Vec::new();
            put(&mut out, swapped, &[SECTION, 28, BYTE_ORDER, 1 << 16, u32::MAX, u32::MAX, 28]);
            let halves = |a: u16, b: u16| {
                // Two fields of 16 bits, in this order.
                if swapped {
                    u32::from(a) << 16 | u32::from(b)
                } else {
                    u32::from(b) << 16 | u32::from(a)
                }
            };
            let (high, low) = if swapped { (0, 1000) } else { (1000, 0) };
            put(&mut out, swapped, &[INTERFACE, 36, halves(113, 0), 4, halves(14, 8), high, low]);
            put(&mut out, swapped, &[halves(0, 0), 36]);
            put(&mut out, swapped, &[0x0bad, 16, 0xdead_beef, 16]);
            put(&mut out, swapped, &[PACKET, 36, 0, 0, 5_000_001, 2, 9]);
            out.extend(b"ab\0\0");
            put(&mut out, swapped, &[36, SIMPLE_PACKET, 20, 6]);
            out.extend(b"wxyz");
            put(&mut out, swapped, &[20]);
            assert_eq!(
                read(out).unwrap(),
                [(113, b"ab".to_vec(), 9, 1_005_000_001_000), (113, b"wxyz".to_vec(), 6, 0)]
            );
        }
    }

    #[test]
    fn resolutions() {
        assert_eq!(Resolution::of(9).nanoseconds(7), 7);
        assert_eq!(Resolution::of(6).nanoseconds(7), 7_000);
        assert_eq!(Resolution::of(12).nanoseconds(7_999), 7);
        assert_eq!(Resolution::of(0x80 | 10).nanoseconds(512), 500_000_000);
        assert_eq!(Resolution::of(0).nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(Resolution::of(0x7f).nanoseconds(7), 0);
        assert_eq!(Resolution::of(0xff).nanoseconds(7), 0);
    }

    #[test]
    fn what_is_no_recording_is_named() {
        let error = read(b"GIF89a-and-more-of-that".to_vec()).unwrap_err();
        assert!(error.contains("0x38464947") && error.contains("pcapng"), "{error}");
        let mut cut = classic(false, 0xa1b2_c3d4, &[b"frame"]);
        cut.pop();
        assert!(read(cut).is_err());
        let mut endless = classic(false, 0xa1b2_c3d4, &[b"frame"]);
        endless[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(endless).unwrap_err().contains("4294967295"));
        let mut section = Vec::new();
        put(&mut section, false, &[SECTION, 28, BYTE_ORDER, 1, 0, 0, 28]);
        let mut orphan = section.clone();
        put(&mut orphan, false, &[PACKET, 32, 3, 0, 0, 0, 0, 32]);
        assert!(read(orphan).unwrap_err().contains("interface 3; there are 0"));
        put(&mut section, false, &[PACKET, 0xffff_fff0]);
        assert!(read(section).unwrap_err().contains("a block of 4294967280 bytes"));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read([classic(false, 0xa1b2_c3d4, &[]), bytes].concat());
        }

        #[test]
        fn any_blocks_never_panic(blocks in proptest::collection::vec(
            (prop_oneof![Just(1u32), Just(3), Just(6), Just(SECTION), any::<u32>()],
             prop_oneof![8 => Just(None), 1 => any::<u32>().prop_map(Some)],
             proptest::collection::vec(prop_oneof![Just(0u32), 0u32..40, any::<u32>()], 0..12)), 0..6)) {
            let mut out = Vec::new();
            put(&mut out, false, &[SECTION, 28, BYTE_ORDER, 1, 0, 0, 28]);
            for (kind, total, body) in blocks {
                let total = total.unwrap_or(12 + 4 * body.len() as u32);
                put(&mut out, false, &[kind, total]);
                put(&mut out, false, &body);
                put(&mut out, false, &[total]);
            }
            let _ = read(out);
        }
    }
}
