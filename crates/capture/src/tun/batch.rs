//! Packets of one burst on their way to a tun device, segments of a flow as one.
//!
//! The kernel takes a large TCP segment with a header that says how to cut it, and only does so where
//! somebody needs the pieces: the way through its stack is paid once for up to 64 KiB. What it would
//! cut is byte by byte what came in ([`packet::segment`]). A checksum that was verified here is not
//! verified again.
//!
//! Nothing waits here for more: whoever has pushed a burst flushes it.

use crate::xdp::{LiveFrames, Passed};
use packet::segment::{CHECKSUM_OFFSET, Flow, Kind, Run, Segment};
use std::io::{self, IoSlice};

/// Length of `struct virtio_net_hdr`, in bytes.
pub const VNET_LEN: usize = 10;
/// The TCP checksum is to be completed from the sum of the pseudo header.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// Packets of a batch at most.
const PACKETS: usize = 128;
/// Bytes of a batch at most: a burst of full frames fits, and so does the longest packet.
const BYTES: usize = 256 * 1024;

/// What became of the packets of a batch.
#[derive(Debug, Default)]
pub struct Sent {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Bytes of those, as they came in.
    pub bytes: u64,
    /// Packets that it did not take.
    pub lost: u64,
    /// Why, of the last of those.
    pub error: Option<io::Error>,
    /// Of the packets, acknowledgements that the kernel took in together.
    pub together: u64,
    /// Why it will not take any more of them so.
    pub alone: Option<io::Error>,
}

impl Sent {
    /// Adds `packets` of `bytes` in all, which the kernel took or did not.
    pub fn note(&mut self, packets: u64, bytes: u64, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.packets += packets;
                self.bytes += bytes;
            }
            Err(error) => {
                self.lost += packets;
                self.error = Some(error);
            }
        }
    }

    /// Adds what became of others.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.error = other.error.or(self.error.take());
        self.together += other.together;
        self.alone = other.alone.or(self.alone.take());
    }
}

/// Packets that go to a device that wants a header before each.
#[derive(Debug)]
pub struct Batch {
    /// Copies of the packets, each behind room for a header. What is verified is what is sent,
    /// whatever becomes of the frame meanwhile.
    arena: Box<[u8]>,
    used: usize,
    /// In the order of their first packets.
    writes: Vec<Write>,
    pieces: Vec<Piece>,
    /// Acknowledgements that go before all other writes, when they are kept apart.
    acknowledgements: Option<Vec<Write>>,
    /// A packet came that may belong to any flow.
    has_unclear: bool,
}

/// What one write will take.
#[derive(Debug)]
struct Write {
    /// The first packet in the arena, without its header.
    start: usize,
    end: usize,
    /// Its flow of TCP, if it belongs to one.
    flow: Option<Flow>,
    /// When it is a segment with verified checksums: the run that starts with it.
    run: Option<Joined>,
    /// Captured bytes of all its packets.
    bytes: u64,
}

#[derive(Debug)]
struct Joined {
    run: Run,
    ip_len: usize,
    header_len: usize,
    /// First and last of the further pieces.
    pieces: Option<(usize, usize)>,
}

/// The data of a further segment, and where the next of its run is.
#[derive(Debug)]
struct Piece {
    start: usize,
    end: usize,
    next: Option<usize>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch; it allocates nothing later on.
    pub fn new() -> Self {
        Self {
            arena: vec![0; BYTES].into(),
            used: 0,
            writes: Vec::with_capacity(PACKETS),
            pieces: Vec::with_capacity(PACKETS),
            acknowledgements: None,
            has_unclear: false,
        }
    }

    /// An empty batch that keeps acknowledgements apart, which may go together: those that come before any other
    /// packet of their flow, so that they can go before all others.
    pub fn with_acknowledgements_apart() -> Self {
        Self { acknowledgements: Some(Vec::with_capacity(LiveFrames::MOST)), ..Self::new() }
    }

    /// Takes an IP packet, perhaps with bytes of its frame behind it; false when there is no room
    /// before the next [`flush`](Self::flush). An empty batch has room for any packet.
    #[inline]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let start = self.used + VNET_LEN;
        let end = start + packet.len();
        let count = self.writes.len() + self.pieces.len() + self.acknowledgements();
        if end > self.arena.len() || count == PACKETS {
            return false;
        }
        self.arena[start..end].copy_from_slice(packet);
        self.used = end;
        self.place(start, end);
        true
    }

    /// Whether it keeps acknowledgements apart.
    pub const fn keeps_acknowledgements_apart(&self) -> bool {
        self.acknowledgements.is_some()
    }

    /// Number of acknowledgements that are kept apart.
    pub fn acknowledgements(&self) -> usize {
        self.acknowledgements.as_ref().map_or(0, Vec::len)
    }

    /// Finds the write for the packet at `start`.
    fn place(&mut self, start: usize, end: usize) {
        let bytes = (end - start) as u64;
        let packet = &self.arena[start..end];
        let (segment, flow) = match Kind::of(packet) {
            Kind::Segment(segment, flow) if self.goes_apart(&segment, flow) => {
                let end = start + segment.len();
                let apart = self.acknowledgements.get_or_insert_default();
                return apart.push(Write { start, end, flow: Some(flow), run: None, bytes });
            }
            Kind::Segment(segment, flow) if segment.is_intact() => (segment, flow),
            other => {
                let flow = match other {
                    Kind::Tcp(flow) | Kind::Segment(_, flow) => Some(flow),
                    Kind::Elsewhere | Kind::Anywhere => None,
                };
                self.has_unclear |= matches!(other, Kind::Anywhere);
                separate(&mut self.writes, &other);
                self.writes.push(Write { start, end, flow, run: None, bytes });
                return;
            }
        };
        let end = start + segment.len();
        // Only the last one of a flow can be open.
        let same = |write: &&mut Write| write.flow == Some(flow);
        let last = self.writes.iter_mut().rev().find(same);
        if let Some(write) = last
            && let Some(joined) = &mut write.run
        {
            if !joined.run.has_ended()
                && let Some(first) = Segment::known(&self.arena[write.start..write.end])
                && joined.run.take(&first, &segment)
            {
                let at = self.pieces.len();
                self.pieces.push(Piece { start: start + segment.header_len(), end, next: None });
                match &mut joined.pieces {
                    Some((_, last)) => {
                        self.pieces[*last].next = Some(at);
                        *last = at;
                    }
                    none => *none = Some((at, at)),
                }
                write.bytes += bytes;
                return;
            }
            joined.run.end();
        }
        let (ip_len, header_len) = (segment.ip_len(), segment.header_len());
        let run = Some(Joined { run: Run::new(&segment), ip_len, header_len, pieces: None });
        self.writes.push(Write { start, end, flow: Some(flow), run, bytes });
    }

    /// Whether a segment goes with the acknowledgements that are kept apart: it is one, and nothing came before it
    /// that it must not overtake.
    fn goes_apart(&self, segment: &Segment<'_>, flow: Flow) -> bool {
        let has_room = |apart: &Vec<Write>| apart.len() < LiveFrames::MOST;
        self.acknowledgements.as_ref().is_some_and(has_room)
            && segment.is_empty()
            && segment.len() <= LiveFrames::LONGEST
            && !self.has_unclear
            && self.writes.iter().all(|write| write.flow != Some(flow))
    }

    /// Gives the acknowledgements that are kept apart to `pass`, in order. Those that it does not take stay.
    pub fn pass(&mut self, pass: impl FnOnce(&mut dyn Iterator<Item = &[u8]>) -> Passed) -> Sent {
        let (mut sent, arena) = (Sent::default(), &self.arena);
        if let Some(apart) = &mut self.acknowledgements {
            let passed = pass(&mut apart.iter().map(|one| &arena[one.start..one.end]));
            sent.together = passed.taken as u64;
            sent.alone = passed.error;
            for one in apart.drain(..passed.taken.min(apart.len())) {
                sent.note(1, one.bytes, Ok(()));
            }
        }
        sent
    }

    /// Gives each write to `write`, header first, in order; afterwards the batch is empty.
    pub fn flush(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>) -> Sent {
        let mut sent = Sent::default();
        let apart = self.acknowledgements.iter().flatten();
        for one in apart.clone().chain(&self.writes) {
            write_header(&mut self.arena[one.start - VNET_LEN..one.end], one);
        }
        let mut parts = [IoSlice::new(&[]); PACKETS];
        for one in apart.chain(&self.writes) {
            parts[0] = IoSlice::new(&self.arena[one.start - VNET_LEN..one.end]);
            let mut count = 1;
            let mut next =
                one.run.as_ref().and_then(|joined| joined.pieces).map(|(first, _)| first);
            while let Some(piece) = next.map(|at| &self.pieces[at]) {
                parts[count] = IoSlice::new(&self.arena[piece.start..piece.end]);
                count += 1;
                next = piece.next;
            }
            sent.note(count as u64, one.bytes, write(&parts[..count]));
        }
        self.used = 0;
        self.has_unclear = false;
        if let Some(apart) = &mut self.acknowledgements {
            apart.clear();
        }
        self.writes.clear();
        self.pieces.clear();
        sent
    }
}

/// Ends the runs that a packet of this kind must not be overtaken by.
fn separate<'a>(writes: &'a mut [Write], kind: &Kind<'_>) {
    let with_run = |write: &'a mut Write| write.run.as_mut().map(|joined| &mut joined.run);
    match kind {
        Kind::Tcp(flow) | Kind::Segment(_, flow) => {
            let of_flow = writes.iter_mut().filter(|write| write.flow == Some(*flow));
            of_flow.filter_map(with_run).for_each(Run::end);
        }
        Kind::Anywhere => writes.iter_mut().filter_map(with_run).for_each(Run::end),
        Kind::Elsewhere => {}
    }
}

/// Writes the header before the packet in `slot`, and into the packet what belongs to the large
/// segment.
fn write_header(slot: &mut [u8], write: &Write) {
    let (header, packet) = slot.split_at_mut(VNET_LEN);
    header.fill(GSO_NONE);
    let Some(joined) = &write.run else { return };
    joined.run.write_headers(&mut packet[..joined.header_len], joined.ip_len);
    header[0] = NEEDS_CHECKSUM;
    let mut set = |at: usize, number: usize| {
        // None exceeds the length of a packet.
        header[at..at + 2].copy_from_slice(&(number as u16).to_le_bytes());
    };
    set(6, joined.ip_len);
    set(8, CHECKSUM_OFFSET);
    if joined.run.count() > 1 {
        set(2, joined.header_len);
        set(4, joined.run.size());
        header[1] = if packet[0] >> 4 == 4 { GSO_TCPV4 } else { GSO_TCPV6 };
    }
}
