//! AF_XDP: the kernel or the network card writes packets into frames of the balancer
//! (`spec/ingest.md` 8.3).
//!
//! A small program on the interface gives the packets of each receive queue to a socket; packets of a
//! queue without socket go on into the host. The frames are on loan from the balancer's shared memory,
//! where consumers read them, so nothing is copied behind the kernel. Program and sockets vanish with the
//! process, however it ends, unless a successor has them: an [`Heir`].

mod assembly;
mod attachment;
mod bare;
mod binding;
mod bpf;
mod choice;
mod ethernet;
mod fast_path;
mod generator;
mod heir;
mod lent;
mod live;
mod obstacle;
mod opening;
mod prefilter;
mod ring;
mod socket;
mod sorting;
mod tally;
mod text;
mod trial;
mod waiting;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shm::{Loan, Memory, Piece};

pub use attachment::{Attachment, Refusal};
pub use bare::BareXdp;
pub use bpf::Hook;
pub use choice::{AgainstXdp, against_xdp};
pub use fast_path::FlowTable;
pub use generator::{Generator, PassThrough};
pub use heir::Heir;
pub use live::{LiveFrames, LiveFramesError, Passed};
pub use obstacle::{AgainstFastPath, against_fast_path};
pub use sorting::Sorting;
pub use trial::{Staged, Trial};

use crate::position::{Rings, Stages};
use crate::standby::Standby;
use crate::{Burst, OpenError, Position, Statistics};
use bpf::{Attached, SocketMap};
use lent::Lent;
use socket::Socket;
use tally::{Tallied, Tally};
use waiting::Waiting;

/// Receive queues of one interface at most, and sockets of all of them.
const MAX_QUEUES: u32 = 64;
/// Packets that are loaded before they are looked at: the kernel wrote them on another processor.
const AHEAD: u32 = 8;
/// Parts of one packet at most; a longer one is dropped.
const MAX_PIECES: usize = 40;

/// An interface, and which of its receive queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdpName {
    /// Name of the interface.
    pub interface: String,
    /// One receive queue; `None` for all.
    pub queue: Option<u32>,
}

impl XdpName {
    /// Receive queues that this names.
    ///
    /// # Errors
    /// When the interface does not exist or the process may not capture.
    pub fn queues(&self) -> Result<u32, OpenError> {
        let (standby, _) = Standby::join(&self.interface)?;
        let all = standby.receive_queues().clamp(1, MAX_QUEUES);
        Ok(if self.queue.is_some() { 1 } else { all })
    }
}

/// Sizes of an AF_XDP source.
#[derive(Debug, Clone, Copy)]
pub struct XdpOptions<'a> {
    /// Entries of the rings of each receive queue, a power of two.
    pub entries: u32,
    /// Try to have the driver write into our memory.
    pub zero_copy: bool,
    /// Go through the hook behind the driver when the driver has none.
    pub generic: bool,
    /// Have the program drop what no detector needs, frames that are neither TCP nor UDP, and count it.
    pub prefilter: bool,
    /// Have the program give packets of the flows of this table to the host, and count them.
    pub fast_path: Option<&'a FlowTable>,
    /// Have the program give each packet to its queue of the detector.
    pub sorting: Option<Sorting>,
}

impl XdpOptions<'_> {
    /// Rings of 32,768 entries for one receive queue, shorter ones for several: together they hold 65,536
    /// frames at most. Without prefilter, fast path and sorting.
    pub fn for_queues(queues: u32) -> Self {
        let share = 65_536 / queues.clamp(1, MAX_QUEUES);
        let entries = (1 << share.ilog2()).min(32_768);
        Self {
            entries,
            zero_copy: true,
            generic: true,
            prefilter: false,
            fast_path: None,
            sorting: None,
        }
    }

    /// Frames that `queues` receive queues use: as many as a ring has entries, for a frame is free or received.
    /// Further sockets of a queue take theirs from the same ring, so they need no more.
    pub const fn frames(self, queues: u32) -> u32 {
        self.entries * queues
    }
}

/// How packets came.
#[derive(Debug, Clone, Copy)]
pub struct Reception {
    /// Time of their arrival in nanoseconds since the epoch.
    pub timestamp: u64,
    /// Queue of the only queue set that they are for, where [`Sorting`] says so.
    pub queue: Option<u32>,
}

/// One interface.
#[derive(Debug)]
pub struct Xdp {
    // Dropped first: packets go on into the host again.
    program: Attached,
    map: SocketMap,
    /// What the program's stages before the sockets are, and what they count.
    stages: Option<(Stages, Tally)>,
    table: Option<FlowTable>,
    memory: Memory,
    entries: u32,
    /// Those of the first receive queue, then those of the next: each time the one with the ring of free frames, whose
    /// packets are looked at, and then one for each queue of the detector where packets are sorted.
    sockets: Vec<Socket>,
    waiting: Waiting,
    /// Sockets of each receive queue.
    sockets_each: usize,
    /// The detector has a single queue.
    is_single: bool,
    standby: Standby,
    attachment: Attachment,
    lent: Lent,
    /// Frames that are here and not with the kernel.
    spare: Vec<u64>,
    pieces: Vec<Piece>,
    /// Socket that is looked at first next time.
    turn: usize,
    statistics: Statistics,
    /// Packets in more parts than there may be.
    too_long: u64,
    /// What has not come by now is left alone.
    ceased: bool,
}

impl Xdp {
    /// How the interface is read.
    pub const fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// As [`Source::fast_path`](crate::Source::fast_path).
    pub const fn fast_path(&self) -> Option<&FlowTable> {
        self.table.as_ref()
    }

    /// Receives into these frames from now on.
    pub fn lend(&mut self, loans: impl IntoIterator<Item = Loan>) {
        for loan in loans {
            let offset = self.lent.insert(loan);
            self.spare.push(offset);
        }
        self.refill();
    }

    fn refill(&mut self) {
        socket::refill(&mut self.sockets, self.sockets_each, &mut self.spare);
    }

    /// What is open, for a successor.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut descriptors = vec![
            self.standby.descriptor(),
            self.memory.file(),
            self.program.link.as_fd(),
            self.map.0.as_fd(),
        ];
        descriptors.extend(self.stages.iter().map(|(_, tally)| tally.as_fd()));
        descriptors.extend(self.table.iter().map(AsFd::as_fd));
        descriptors.extend(self.sockets.iter().map(AsFd::as_fd));
        descriptors
    }

    /// Where a successor goes on: packets that come meanwhile wait for it in the rings. Nothing may be read
    /// afterwards, unless there is no successor.
    pub fn hand_over(&mut self) -> Position {
        self.refill();
        Position::Rings(Rings {
            entries: self.entries,
            frame_size: self.memory.frame_size(),
            offset: self.memory.offset() as u64,
            len: self.memory.len() as u64,
            sockets: self.sockets_each as u32,
            stages: self.stages.as_ref().map(|(stages, tally)| (*stages, tally.processors())),
        })
    }

    /// Closes the source; all its frames come back, and a packet socket that can go on with the interface.
    pub fn close(self) -> (Vec<Loan>, Standby) {
        let Self { mut lent, standby, sockets, .. } = self;
        drop(sockets);
        (lent.remove_all(), standby)
    }

    /// Waits at most `timeout` for packets and hands at most `max` of them to `each`, in their parts, which leaves a
    /// frame in the place of every one it keeps. `reads`: packets whose queue is known are looked at all the same.
    ///
    /// # Errors
    /// When the interface has gone away.
    pub fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        reads: bool,
        each: &mut dyn FnMut(&mut [Piece], &Reception),
    ) -> io::Result<Burst> {
        let mut count = self.receive(max, reads, each);
        if count == 0 {
            if self.ceased {
                return Ok(Burst::Ended);
            }
            self.waiting.wait(&self.sockets, timeout)?;
            count = self.receive(max, reads, each);
        }
        Ok(Burst::Frames(count))
    }

    /// As [`Source::cease`](crate::Source::cease).
    pub fn cease(&mut self) {
        self.ceased = true;
        self.sockets.iter_mut().for_each(Socket::cease);
    }

    /// Queue of the detector that packets of a socket are for; `None` when they have to be looked at.
    #[inline]
    fn queue_of(&self, socket: usize) -> Option<u32> {
        let sorted = (socket % self.sockets_each) as u32;
        if self.is_single { Some(0) } else { sorted.checked_sub(1) }
    }

    fn receive(
        &mut self,
        max: usize,
        reads: bool,
        each: &mut dyn FnMut(&mut [Piece], &Reception),
    ) -> usize {
        let mut count = 0;
        let mut now = None;
        for _ in 0..self.sockets.len() {
            let turn = self.turn;
            self.turn = if turn + 1 == self.sockets.len() { 0 } else { turn + 1 };
            let waiting = self.sockets[turn].waiting();
            if waiting == 0 {
                continue;
            }
            let now = *now.get_or_insert_with(clock);
            let queue = self.queue_of(turn);
            let ahead = if reads || queue.is_none() { AHEAD } else { 0 };
            let reception = &Reception { timestamp: now, queue };
            let each = &mut |pieces: &mut [Piece]| each(pieces, reception);
            let (packets, taken) = self.packets(turn, waiting, max - count, ahead, each);
            self.sockets[turn].take(taken);
            count += packets;
            if count == max {
                break;
            }
        }
        self.statistics.received += count as u64;
        self.refill();
        count
    }

    /// Hands out packets of a socket, of which as many as `ahead` are loaded before; how many packets, and how many
    /// descriptors they were.
    #[inline]
    fn packets(
        &mut self,
        socket: usize,
        waiting: u32,
        max: usize,
        ahead: u32,
        each: &mut impl FnMut(&mut [Piece]),
    ) -> (usize, u32) {
        let (mut packets, mut taken) = (0, 0);
        for n in 0..waiting.min(ahead) {
            self.memory.expect(self.sockets[socket].peek(n).address);
        }
        for n in 0..waiting {
            if ahead > 0 && n + ahead < waiting {
                self.memory.expect(self.sockets[socket].peek(n + ahead).address);
            }
            let received = self.sockets[socket].peek(n);
            // An address that we did not give is not ours to touch.
            if let Some((loan, start)) = self.lent.remove(received.address) {
                self.pieces.push(Piece { loan, start, len: received.len });
            }
            if received.continued {
                continue;
            }
            taken = n + 1;
            packets += 1;
            if self.pieces.len() <= MAX_PIECES {
                each(&mut self.pieces);
            } else {
                self.too_long += 1;
            }
            for piece in self.pieces.drain(..) {
                self.spare.push(self.lent.insert(piece.loan));
            }
            if packets == max {
                break;
            }
        }
        // The kernel publishes whole packets; what is left of one comes again.
        for piece in self.pieces.drain(..) {
            self.lent.insert(piece.loan);
        }
        (packets, taken)
    }

    /// Counters since the source was opened.
    pub fn statistics(&mut self) -> Statistics {
        let (dropped, full) = socket::losses(&self.sockets);
        let dropped = dropped + self.too_long;
        let counted = |what| self.stages.as_ref().map_or(0, |(_, tally)| tally.sum(what));
        let [prefiltered, passed] = [Tallied::Prefiltered, Tallied::Passed].map(counted);
        Statistics { dropped, full, prefiltered, passed, ..self.statistics }
    }
}

/// Nanoseconds since the epoch.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
