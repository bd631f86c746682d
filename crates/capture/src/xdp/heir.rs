//! AF_XDP sockets that a predecessor opened: the program stays on the interface, so no packet is lost
//! between the two.
//!
//! Their frames belong to the predecessor, whose consumers are gone. They are mapped to be read, and what
//! comes is copied out of them; making sockets over memory of our own would take privileges, and a moment
//! without any.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::time::Duration;

use super::fast_path::FlowTable;
use super::socket::{self, Received, Socket};
use super::tally::{Tallied, Tally};
use super::waiting::Waiting;
use super::{MAX_PIECES, MAX_QUEUES, clock};
use crate::afpacket::AfPacket;
use crate::position::Rings;
use crate::standby::Standby;
use crate::{Burst, Frame, Position, Source, Statistics};

/// Descriptors before the sockets: file of the frames, link of the program, map. Behind stages their counters follow
/// them, and the table of a fast path.
const KEPT: usize = 3;

/// An interface that a predecessor read through AF_XDP.
#[derive(Debug)]
pub struct Heir {
    reading: Reading,
    /// Counters of what was read before the interface went away.
    before: Statistics,
}

#[derive(Debug)]
enum Reading {
    Rings(Box<Taken>),
    /// The interface went away and came back.
    Interface(AfPacket),
    /// The interface is away; `None` only while another state is made.
    Absent(Option<Standby>),
}

impl Heir {
    /// Goes on with the descriptors behind that of the packet socket `standby`.
    ///
    /// # Errors
    /// When there are too few of them, or their rings or frames cannot be mapped.
    pub(crate) fn new(
        standby: Standby,
        descriptors: impl Iterator<Item = OwnedFd>,
        rings: Rings,
    ) -> io::Result<Self> {
        let taken = Taken::new(standby, descriptors.collect(), rings)?;
        Ok(Self { reading: Reading::Rings(Box::new(taken)), before: Statistics::default() })
    }

    /// Waits for an interface that is away.
    pub(crate) fn absent(standby: Standby) -> Self {
        Self { reading: Reading::Absent(Some(standby)), before: Statistics::default() }
    }
}

impl Source for Heir {
    fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<Burst> {
        match &mut self.reading {
            Reading::Rings(taken) => taken.burst(max, timeout, each),
            Reading::Interface(source) => source.burst(max, timeout, each),
            Reading::Absent(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn cease(&mut self) {
        match &mut self.reading {
            Reading::Rings(taken) => {
                taken.ceased = true;
                taken.sockets.iter_mut().for_each(Socket::cease);
            }
            Reading::Interface(source) => source.cease(),
            // Nothing was read since the interface went away.
            Reading::Absent(_) => {}
        }
    }

    fn statistics(&mut self) -> Statistics {
        let now = match &mut self.reading {
            Reading::Rings(taken) => taken.statistics(),
            Reading::Interface(source) => source.statistics(),
            Reading::Absent(_) => Statistics::default(),
        };
        Statistics {
            received: self.before.received + now.received,
            dropped: self.before.dropped + now.dropped,
            full: self.before.full + now.full,
            truncated: self.before.truncated + now.truncated,
            prefiltered: self.before.prefiltered + now.prefiltered,
            passed: self.before.passed + now.passed,
        }
    }

    fn resume(&mut self) -> io::Result<()> {
        if let Reading::Interface(source) = &mut self.reading {
            return source.resume();
        }
        self.before = self.statistics();
        let standby = match std::mem::replace(&mut self.reading, Reading::Absent(None)) {
            Reading::Rings(taken) => Some(taken.standby),
            Reading::Absent(standby) => standby,
            Reading::Interface(_) => None,
        };
        match standby.map(Standby::start) {
            Some(Ok(source)) => {
                self.reading = Reading::Interface(source);
                Ok(())
            }
            Some(Err((standby, error))) => {
                self.reading = Reading::Absent(Some(standby));
                Err(error)
            }
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.reading {
            Reading::Rings(taken) => taken.descriptors(),
            Reading::Interface(source) => source.descriptors(),
            Reading::Absent(standby) => standby.iter().map(Standby::descriptor).collect(),
        }
    }

    fn fast_path(&self) -> Option<&FlowTable> {
        match &self.reading {
            Reading::Rings(taken) => taken.table.as_ref(),
            Reading::Interface(_) | Reading::Absent(_) => None,
        }
    }

    fn hand_over(&mut self, each: &mut dyn FnMut(Frame<'_>)) -> Option<Position> {
        match &mut self.reading {
            Reading::Rings(taken) => {
                taken.refill();
                Some(Position::Rings(taken.rings))
            }
            Reading::Interface(source) => source.hand_over(each),
            Reading::Absent(_) => Some(Position::Absent),
        }
    }
}

/// The sockets and frames of a predecessor.
#[derive(Debug)]
struct Taken {
    // Dropped before what keeps the program on the interface.
    sockets: Vec<Socket>,
    waiting: Waiting,
    kept: Vec<OwnedFd>,
    standby: Standby,
    frames: Frames,
    rings: Rings,
    /// What the program's stages count, and what they had counted for the predecessor.
    tally: Option<(Tally, [u64; 2])>,
    table: Option<FlowTable>,
    /// Frames that are here and not with the kernel.
    spare: Vec<u64>,
    /// A packet of several frames.
    joined: Vec<u8>,
    /// Socket that is looked at first next time.
    turn: usize,
    received: u64,
    too_long: u64,
    /// What has not come by now is left alone.
    ceased: bool,
    /// Losses of the predecessor.
    before: (u64, u64),
}

impl Taken {
    fn new(standby: Standby, mut descriptors: Vec<OwnedFd>, rings: Rings) -> io::Result<Self> {
        let has_table = rings.stages.is_some_and(|(stages, _)| stages.fast_path);
        let kept = KEPT + usize::from(rings.stages.is_some()) + usize::from(has_table);
        if !(kept + 1..=kept + MAX_QUEUES as usize).contains(&descriptors.len()) {
            let text = format!("{} descriptors came", descriptors.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let each = rings.sockets as usize;
        let sockets = descriptors.drain(kept..).enumerate();
        let sockets: Vec<Socket> = sockets
            .map(|(n, fd)| Socket::take_over(fd, rings.entries, n % each == 0))
            .collect::<io::Result<_>>()?;
        if !sockets.len().is_multiple_of(each) {
            let text = format!("{} sockets came, {each} for each receive queue", sockets.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut maps = descriptors.drain(KEPT..);
        let tally = match (rings.stages, maps.next()) {
            (Some((_, processors)), Some(map)) => {
                let tally = Tally::map(map, processors)?;
                let before = counted(&tally);
                Some((tally, before))
            }
            _ => None,
        };
        let table = maps.next().map(FlowTable::of);
        drop(maps);
        let frames = Frames::map(descriptors[0].as_fd(), rings)?;
        let before = socket::losses(&sockets);
        Ok(Self {
            waiting: Waiting::new(&sockets)?,
            sockets,
            kept: descriptors,
            standby,
            frames,
            rings,
            tally,
            table,
            spare: Vec::new(),
            joined: Vec::new(),
            turn: 0,
            received: 0,
            too_long: 0,
            ceased: false,
            before,
        })
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut descriptors = vec![self.standby.descriptor()];
        descriptors.extend(self.kept.iter().map(AsFd::as_fd));
        descriptors.extend(self.tally.iter().map(|(tally, _)| tally.as_fd()));
        descriptors.extend(self.table.iter().map(AsFd::as_fd));
        descriptors.extend(self.sockets.iter().map(AsFd::as_fd));
        descriptors
    }

    fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<Burst> {
        let mut count = self.receive(max, each);
        if count == 0 {
            if self.ceased {
                return Ok(Burst::Ended);
            }
            self.waiting.wait(&self.sockets, timeout)?;
            count = self.receive(max, each);
        }
        self.received += count as u64;
        Ok(Burst::Frames(count))
    }

    fn receive(&mut self, max: usize, each: &mut dyn FnMut(Frame<'_>)) -> usize {
        let (mut count, mut now) = (0, None);
        for _ in 0..self.sockets.len() {
            let turn = self.turn;
            self.turn = if turn + 1 == self.sockets.len() { 0 } else { turn + 1 };
            let waiting = self.sockets[turn].waiting();
            if waiting == 0 {
                continue;
            }
            let now = *now.get_or_insert_with(clock);
            count += self.packets(turn, waiting, max - count, now, each);
            if count == max {
                break;
            }
        }
        self.refill();
        count
    }

    fn refill(&mut self) {
        socket::refill(&mut self.sockets, self.rings.sockets as usize, &mut self.spare);
    }

    /// Hands out packets of a socket.
    fn packets(
        &mut self,
        socket: usize,
        waiting: u32,
        max: usize,
        timestamp: u64,
        each: &mut dyn FnMut(Frame<'_>),
    ) -> usize {
        let (mut packets, mut taken) = (0, 0);
        let mut n = 0;
        while n < waiting && packets < max {
            let received = self.sockets[socket].peek(n);
            if !received.continued {
                n += 1;
                if let Some(data) = self.frames.bytes(received) {
                    each(plain(data, timestamp));
                }
            } else {
                let Some(parts) = self.join(socket, n, waiting) else { break };
                n += parts;
                if parts as usize <= MAX_PIECES {
                    each(plain(&self.joined, timestamp));
                } else {
                    self.too_long += 1;
                }
            }
            packets += 1;
            taken = n;
        }
        for n in 0..taken {
            let received = self.sockets[socket].peek(n);
            // Nothing is written outside the memory: the kernel checks addresses itself.
            self.spare.push(received.address & !u64::from(self.rings.frame_size - 1));
        }
        self.sockets[socket].take(taken);
        packets
    }

    /// Puts the packet that begins with descriptor `first` together; the number of its parts, `None` when
    /// its end has not come.
    fn join(&mut self, socket: usize, first: u32, waiting: u32) -> Option<u32> {
        self.joined.clear();
        for n in first..waiting {
            let received = self.sockets[socket].peek(n);
            if ((n - first) as usize) < MAX_PIECES {
                self.joined.extend_from_slice(self.frames.bytes(received).unwrap_or_default());
            }
            if !received.continued {
                return Some(n - first + 1);
            }
        }
        None
    }

    fn statistics(&self) -> Statistics {
        let (dropped, full) = socket::losses(&self.sockets);
        let since = |(tally, before): &(Tally, [u64; 2])| {
            let now = counted(tally);
            [now[0] - before[0], now[1] - before[1]]
        };
        let [prefiltered, passed] = self.tally.as_ref().map_or([0; 2], since);
        Statistics {
            received: self.received,
            dropped: self.too_long + dropped.saturating_sub(self.before.0),
            full: full.saturating_sub(self.before.1),
            truncated: 0,
            prefiltered,
            passed,
        }
    }
}

/// What was prefiltered, and what passed.
fn counted(tally: &Tally) -> [u64; 2] {
    [Tallied::Prefiltered, Tallied::Passed].map(|what| tally.sum(what))
}

/// A frame as AF_XDP hands it out, which tells nothing of its checksum.
const fn plain(data: &[u8], timestamp: u64) -> Frame<'_> {
    Frame { data, timestamp, truncated: false, checksum_incomplete: false }
}

/// The frames, mapped to be read.
#[derive(Debug)]
struct Frames {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Frames {}

impl Frames {
    fn map(file: BorrowedFd<'_>, rings: Rings) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let len = usize::try_from(rings.len).map_err(|_| invalid())?;
        let offset = libc::off_t::try_from(rings.offset).map_err(|_| invalid())?;
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the structure outlives the call.
        if unsafe { libc::fstat(file.as_raw_fd(), &raw mut status) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no pointers are passed.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        // Reading beyond its end would fault.
        let end = offset.checked_add_unsigned(rings.len).ok_or_else(invalid)?;
        if len == 0 || seals & libc::F_SEAL_SHRINK == 0 || status.st_size < end {
            return Err(invalid());
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { base, len })
    }

    /// What was received; `None` when it lies elsewhere.
    fn bytes(&self, received: Received) -> Option<&[u8]> {
        let start = usize::try_from(received.address).ok()?;
        let len = received.len as usize;
        if start.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: mapped and initialised; the kernel has handed the frame over and writes it only after it
        // was given back, which takes `&mut` of the owner of this value.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(start), len) })
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
