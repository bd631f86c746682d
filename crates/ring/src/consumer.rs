//! A detector worker's end of a queue.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::abi::{self, BURST, Descriptor, FrameFlags, ring, state};
use crate::chain;
use crate::clock::coarse_now;
use crate::error::AttachError;
use crate::frames::{Frames, Span};
use crate::handshake::{ABI, ANY_QUEUE, ANY_SET, Answer, Hello, MAX_MESSAGE, Role};
use crate::packed::{Packed, State};
use crate::queue::{QueueMap, Ring, prefetch};
use crate::status::bump;

/// Longest sleep before looking at rings and connection again.
const SLEEP: Duration = Duration::from_millis(5);
/// Pauses of the processor between two looks for packets, about a microsecond. A consumer that looks after
/// every burst of the balancer takes the cache lines away that the balancer is writing, so it lets several
/// bursts come together.
const PAUSES: u32 = 24;
/// How far ahead of the return entries of a burst the cache lines of later ones are claimed: those of the
/// next burst are then here when it comes.
const CLAIM_AHEAD: u64 = BURST as u64;
/// First pause before attaching again; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Time that the balancer may take to answer.
const HANDSHAKE_LIMIT: Duration = Duration::from_millis(500);

/// What a consumer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The packets of the queue with this global id, which has no other consumer.
    Queue(u16),
    /// The packets that go to this queue, without taking one from its consumer.
    MirrorOfQueue(u16),
    /// The packets that go to any queue of this set, in the same way.
    MirrorOfSet(u8),
    /// Every packet that goes to any queue, once.
    MirrorOfAll,
}

impl Reads {
    const fn hello(self, described: bool) -> Hello {
        let hello = match self {
            Self::Queue(queue) => Hello::new(Role::Consumer, ANY_SET, queue),
            Self::MirrorOfQueue(queue) => Hello::new(Role::Mirror, ANY_SET, queue),
            Self::MirrorOfSet(set) => Hello::new(Role::Mirror, set, ANY_QUEUE),
            Self::MirrorOfAll => Hello::new(Role::Mirror, ANY_SET, ANY_QUEUE),
        };
        Hello { described, ..hello }
    }
}

/// What to consume, and how.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Folder of the control socket (`CJ_IPC_DIR`).
    pub dir: PathBuf,
    /// Cluster number.
    pub cluster: u32,
    /// Which packets.
    pub reads: Reads,
    /// Time to look for packets without sleeping; zero where the processor is shared.
    pub spin: Duration,
    /// Time of reception and hash of every packet are wanted, which cost the balancer a cache line.
    pub described: bool,
}

impl ConsumerOptions {
    /// The queue with this global id, looked at for the default time of 20 microseconds, for the bytes of its
    /// packets alone.
    pub const fn new(dir: PathBuf, cluster: u32, queue: u16) -> Self {
        let (reads, spin) = (Reads::Queue(queue), Duration::from_micros(20));
        Self { dir, cluster, reads, spin, described: false }
    }

    /// A reader that sleeps whenever nothing comes, because the processor is the detector's, and wants to know
    /// all of every packet.
    pub const fn sleeping(dir: PathBuf, cluster: u32, reads: Reads) -> Self {
        Self { dir, cluster, reads, spin: Duration::ZERO, described: true }
    }
}

/// Whether a consumer has its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// Attached; the number counts the consumers that this queue has had since the balancer started.
    Attached {
        /// Generation of the queue.
        generation: u64,
    },
    /// Not attached; it will be tried again.
    Detached,
}

/// Counters of a consumer since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsumerStatistics {
    /// Packets received.
    pub packets: u64,
    /// Packets that the balancer dropped because our ring was full or we held too many frames.
    pub dropped: u64,
    /// Descriptors refused because they left the frames region.
    pub errors: u64,
    /// Times that the queue was attached.
    pub attaches: u64,
}

/// Receives the packets of one queue.
///
/// The balancer may die and come back, even with other sizes: [`Consumer::receive`] attaches again
/// by itself.
#[derive(Debug)]
pub struct Consumer {
    options: ConsumerOptions,
    attached: Option<Attachment>,
    next_attempt: Instant,
    backoff: Duration,
    last_error: Option<AttachError>,
    /// Counters of earlier attachments.
    past: ConsumerStatistics,
}

#[derive(Debug)]
pub(crate) struct Attachment {
    socket: OwnedFd,
    /// The regions' files, for a successor of this process.
    files: [OwnedFd; 2],
    queue: Arc<QueueMap>,
    frames: Frames,
    rings: Vec<Inlet>,
    /// Ring that is looked at first next time.
    turn: usize,
    generation: u64,
    burst: Held,
    /// The ring of the last burst, when that was all that its producer had published.
    emptied: Option<usize>,
    packets: u64,
    errors: u64,
}

/// A ring with the consumer's own copies of its indices.
#[derive(Debug)]
struct Inlet {
    ring: Ring,
    cons: u64,
    rprod: u64,
    /// What the producer was last seen to have published. Looking again takes the cache line from
    /// the producer, so it is done only when all of that is consumed.
    published: u64,
}

impl Inlet {
    /// Names the frames of `descriptors`, which go back next; the balancer sees it when their number is
    /// published.
    fn name_returns(&self, descriptors: &[Descriptor], frame_size: u32) {
        let mask = !(u64::from(frame_size) - 1);
        self.ring.claim_returns(self.rprod + CLAIM_AHEAD, descriptors.len() as u64);
        for (number, descriptor) in (self.rprod..).zip(descriptors) {
            self.ring.return_entry(number).store(descriptor.address & mask, Ordering::Relaxed);
        }
    }
}

/// The burst that the caller looks at.
#[derive(Debug)]
struct Held {
    /// Ring that it came from.
    ring: usize,
    descriptors: [Descriptor; BURST],
    /// Descriptors that the burst uses.
    count: usize,
    packet_count: usize,
    /// Every packet is the descriptor of the same number; otherwise `packets` tells.
    plain: bool,
    packets: [Packet; BURST],
    /// Packets that were chained, put together.
    scratch: Vec<u8>,
}

/// One packet of a burst: a descriptor, or a range of the scratch buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Packet {
    first: u8,
    chained: Option<(usize, usize)>,
}

impl Consumer {
    /// A consumer that is not attached yet; the first [`Consumer::receive`] tries.
    pub fn detached(options: ConsumerOptions) -> Self {
        Self {
            options,
            attached: None,
            next_attempt: Instant::now(),
            backoff: MIN_BACKOFF,
            last_error: None,
            past: ConsumerStatistics::default(),
        }
    }

    /// Attaches once, now.
    ///
    /// # Errors
    /// Why it is not possible. A caller that wants to wait uses [`Consumer::detached`].
    pub fn connect(options: ConsumerOptions) -> Result<Self, AttachError> {
        let mut consumer = Self::detached(options);
        consumer.attempt();
        match consumer.last_error.take() {
            Some(error) => Err(error),
            None => Ok(consumer),
        }
    }

    /// Whether the queue is attached.
    pub fn state(&self) -> ConsumerState {
        match &self.attached {
            Some(a) => ConsumerState::Attached { generation: a.generation },
            None => ConsumerState::Detached,
        }
    }

    /// Why the last attempt to attach failed; `None` while attached.
    pub const fn last_error(&self) -> Option<&AttachError> {
        self.last_error.as_ref()
    }

    /// Counters since the consumer was made.
    pub fn statistics(&self) -> ConsumerStatistics {
        let mut sum = self.past;
        if let Some(a) = &self.attached {
            a.add_to(&mut sum);
        }
        sum
    }

    /// Gives back the last burst and waits up to `timeout` for the next.
    ///
    /// The burst is empty when no packet came in time or the queue is not attached. Frames are
    /// returned to the balancer by the next call, or by [`Consumer::release`].
    pub fn receive(&mut self, timeout: Duration) -> Burst<'_> {
        self.release();
        if self.attached.is_none() && !self.reattach(timeout) {
            return Burst { from: None };
        }
        let spin = self.options.spin;
        let outcome = self.attached.as_mut().map(|a| a.wait(spin, timeout));
        if outcome == Some(Outcome::Gone) {
            self.detach();
        }
        Burst { from: self.attached.as_ref() }
    }

    /// Gives the queue away to a successor of this process; `None` when it is not attached. Everything
    /// received is returned first, and nothing that is queued is lost.
    pub fn pack(mut self) -> Option<Packed> {
        let mut attached = self.attached.take()?;
        attached.release();
        Some(attached.pack())
    }

    /// Goes on with a queue that a predecessor gave away.
    ///
    /// # Errors
    /// When the descriptors or the state are not those of a queue.
    pub fn unpack(options: ConsumerOptions, packed: Packed) -> Result<Self, AttachError> {
        let mut consumer = Self::detached(options);
        consumer.attached = Some(Attachment::unpack(packed)?);
        Ok(consumer)
    }

    /// Returns the frames of the last burst now.
    pub fn release(&mut self) {
        if let Some(a) = &mut self.attached {
            a.release();
        }
    }

    fn detach(&mut self) {
        if let Some(mut a) = self.attached.take() {
            a.release();
            a.add_to(&mut self.past);
        }
        self.backoff = MIN_BACKOFF;
        self.next_attempt = Instant::now();
    }

    /// Tries to attach when it is time to, sleeping no longer than `timeout`.
    fn reattach(&mut self, timeout: Duration) -> bool {
        let wait = self.next_attempt.saturating_duration_since(Instant::now());
        if wait > timeout {
            std::thread::sleep(timeout);
            return false;
        }
        std::thread::sleep(wait);
        self.attempt();
        self.attached.is_some()
    }

    fn attempt(&mut self) {
        match Attachment::open(&self.options) {
            Ok(attachment) => {
                self.attached = Some(attachment);
                self.last_error = None;
                self.backoff = MIN_BACKOFF;
                self.past.attaches += 1;
            }
            Err(error) => {
                self.last_error = Some(error);
                self.next_attempt = Instant::now() + self.backoff;
                self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Lets packets come together.
fn rest() {
    for _ in 0..PAUSES {
        std::hint::spin_loop();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Packets,
    TimedOut,
    /// The balancer is gone or broke the rules.
    Gone,
}

impl Attachment {
    fn open(options: &ConsumerOptions) -> Result<Self, AttachError> {
        let path = crate::socket_path(&options.dir, options.cluster);
        let (socket, answer, fds) =
            connect_as(&path, options.reads.hello(options.described), HANDSHAKE_LIMIT)?;
        let Answer::Welcome { producers, slots, generation } = answer else {
            return Err(AttachError::NoMirrors);
        };
        let Ok([frames, queue]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(AttachError::Protocol("another number of descriptors"));
        };
        let rings = usize::try_from(producers).unwrap_or(usize::MAX).min(abi::MAX_PRODUCERS + 1);
        Self::on(socket, [frames, queue], slots, generation, &vec![(0, 0); rings])
    }

    /// Maps the regions of an attachment; `indices` are what was consumed and returned of each ring.
    pub(crate) fn on(
        socket: OwnedFd,
        files: [OwnedFd; 2],
        slots: u32,
        generation: u64,
        indices: &[(u64, u64)],
    ) -> Result<Self, AttachError> {
        let producers = u32::try_from(indices.len()).unwrap_or(u32::MAX);
        let queue = QueueMap::open(&files[1], producers, slots)?;
        let frames = Frames::open(&files[0], queue.header())?
            .ok_or(AttachError::Protocol("a frames region that can shrink"))?;
        let rings = (0..producers)
            .zip(indices)
            .map(|(p, (cons, rprod))| Inlet {
                ring: Ring::new(queue.clone(), p),
                cons: *cons,
                rprod: *rprod,
                published: *cons,
            })
            .collect();
        queue.consumer_heartbeat().store(coarse_now(), Ordering::Relaxed);
        Ok(Self {
            socket,
            files,
            queue,
            frames,
            rings,
            turn: 0,
            generation,
            burst: Held {
                ring: 0,
                descriptors: [Descriptor::default(); BURST],
                count: 0,
                packet_count: 0,
                plain: true,
                packets: [Packet::default(); BURST],
                scratch: Vec::new(),
            },
            emptied: None,
            packets: 0,
            errors: 0,
        })
    }

    fn pack(self) -> Packed {
        let state = State {
            slots: self.queue.header().slots,
            generation: self.generation,
            indices: self.rings.iter().map(|inlet| (inlet.cons, inlet.rprod)).collect(),
        };
        let [frames, queue] = self.files;
        Packed { descriptors: [self.socket, frames, queue], state: state.encode() }
    }

    fn add_to(&self, sum: &mut ConsumerStatistics) {
        sum.packets += self.packets;
        sum.errors += self.errors;
        for inlet in &self.rings {
            let word = |offset| inlet.ring.word(offset).load(Ordering::Relaxed);
            sum.dropped = sum
                .dropped
                .saturating_add(word(ring::DROPPED))
                .saturating_add(word(ring::DROPPED_QUOTA));
        }
    }

    /// Looks for packets: at once, then spinning, then sleeping.
    fn wait(&mut self, spin: Duration, timeout: Duration) -> Outcome {
        self.queue.consumer_heartbeat().store(coarse_now(), Ordering::Relaxed);
        if spin.is_zero() {
            self.emptied = None;
        }
        if let Some(outcome) = self.take() {
            return outcome;
        }
        let start = Instant::now();
        let spin = spin.min(timeout);
        while start.elapsed() < spin {
            rest();
            if let Some(outcome) = self.take() {
                return outcome;
            }
        }
        while let Some(left) = timeout.checked_sub(start.elapsed()) {
            if left.is_zero() {
                break;
            }
            if self.sleep(left.min(SLEEP)) {
                return Outcome::Gone;
            }
            if let Some(outcome) = self.take() {
                return outcome;
            }
        }
        if self.is_gone() {
            return Outcome::Gone;
        }
        Outcome::TimedOut
    }

    /// Sleeps until the balancer publishes something, at most `limit`. True when it is gone and
    /// nothing is left to read.
    fn sleep(&self, limit: Duration) -> bool {
        let waiting = self.queue.waiting();
        waiting.store(1, Ordering::SeqCst);
        // The balancer publishes, fences, looks at `waiting`; we do the reverse, so one of us sees
        // the other.
        fence(Ordering::SeqCst);
        if !self.has_packets() && self.queue.state().load(Ordering::Acquire) < state::CLOSED {
            let timeout = rustix::thread::futex::Timespec::try_from(limit).ok();
            // Timeout, wake-up and a changed word all mean: look again.
            let _ = rustix::thread::futex::wait(
                waiting,
                rustix::thread::futex::Flags::empty(),
                1,
                timeout.as_ref(),
            );
        }
        waiting.store(0, Ordering::Relaxed);
        self.queue.consumer_heartbeat().store(coarse_now(), Ordering::Relaxed);
        !self.has_packets() && self.is_gone()
    }

    fn has_packets(&self) -> bool {
        self.rings.iter().any(|i| i.ring.word(ring::PROD).load(Ordering::Acquire) != i.cons)
    }

    /// The queue was closed, or the balancer's end of the connection is.
    fn is_gone(&self) -> bool {
        if self.queue.state().load(Ordering::Acquire) >= state::CLOSED {
            return true;
        }
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default()))
            .is_ok_and(|n| n > 0)
    }

    /// Takes a burst from the next ring that has one.
    #[inline]
    fn take(&mut self) -> Option<Outcome> {
        for _ in 0..self.rings.len() {
            let index = self.turn;
            self.turn = if index + 1 == self.rings.len() { 0 } else { index + 1 };
            if self.emptied == Some(index) {
                // The last in turn: the other rings have nothing.
                self.emptied = None;
                rest();
            }
            let inlet = &mut self.rings[index];
            if inlet.published == inlet.cons {
                inlet.published = inlet.ring.word(ring::PROD).load(Ordering::Acquire);
            }
            let ready = inlet.published.wrapping_sub(inlet.cons);
            if ready == 0 {
                continue;
            }
            if ready > inlet.ring.slots() {
                return Some(Outcome::Gone);
            }
            return Some(self.take_from(index, ready.min(BURST as u64) as usize));
        }
        None
    }

    #[inline]
    fn take_from(&mut self, index: usize, ready: usize) -> Outcome {
        let inlet = &mut self.rings[index];
        let held = &mut self.burst;
        held.ring = index;
        inlet.ring.prefetch_descriptors(inlet.cons, inlet.cons + ready as u64);
        let base = self.frames.base();
        let (mut words, mut span) = (0, Span::NONE);
        let mut done = 0;
        while done < ready {
            let descriptors = inlet.ring.descriptors(inlet.cons + done as u64, ready - done);
            let held = &mut held.descriptors[done..done + descriptors.len()];
            for ([address, word], held) in descriptors.iter().zip(held) {
                let address = address.load(Ordering::Relaxed);
                let word = word.load(Ordering::Relaxed);
                prefetch(base.wrapping_add(address as usize));
                *held = Descriptor::from_words(address, word);
                words |= word;
                span.add(address, held.len);
            }
            done += descriptors.len();
        }
        if !self.queue.returns_in_order() {
            inlet.name_returns(&held.descriptors[..ready], self.queue.header().frame_size);
        }
        let flags = Descriptor::from_words(0, words).flags;
        let sound = self.frames.spans(&span);
        held.plain = sound && flags & FrameFlags::MORE_FRAGMENTS == 0;
        (held.count, held.packet_count) = (ready, ready);
        if !held.plain {
            let bad = held.arrange(ready, &self.frames);
            if held.count == 0 {
                // A chain without end: a faulty balancer.
                return Outcome::Gone;
            }
            bump(inlet.ring.word(ring::ERRORS), bad);
            self.errors += bad;
        }
        inlet.cons += held.count as u64;
        self.emptied = (inlet.cons == inlet.published).then_some(index);
        let packets = held.packet_count as u64;
        inlet.ring.word(ring::CONS).store(inlet.cons, Ordering::Release);
        bump(inlet.ring.word(ring::PROCESSED), packets);
        self.packets += packets;
        Outcome::Packets
    }

    /// Returns the held frames.
    #[inline]
    fn release(&mut self) {
        let count = std::mem::take(&mut self.burst.count);
        self.burst.packet_count = 0;
        if count != 0 {
            let inlet = &mut self.rings[self.burst.ring];
            inlet.rprod += count as u64;
            inlet.ring.word(ring::RPROD).store(inlet.rprod, Ordering::Release);
        }
    }
}

impl Held {
    /// Makes packets of the first `ready` descriptors when some are chained or leave the region. A
    /// chain whose end is not in reach stays for the next burst. Returns how many were refused.
    #[cold]
    fn arrange(&mut self, ready: usize, frames: &Frames) -> u64 {
        self.packet_count = 0;
        self.scratch.clear();
        let (mut at, mut bad) = (0, 0);
        while at < ready {
            let Some(len) = chain::length(&self.descriptors[at..ready]) else {
                break;
            };
            let chain = &self.descriptors[at..at + len];
            if !chain.iter().all(|d| frames.holds(d)) {
                bad += 1;
            } else {
                let chained = (len > 1).then(|| {
                    let start = self.scratch.len();
                    for piece in chain {
                        // SAFETY: all descriptors of the chain were just found in the region.
                        self.scratch.extend_from_slice(unsafe { frames.packet(piece) });
                    }
                    (start, self.scratch.len())
                });
                self.packets[self.packet_count] = Packet { first: at as u8, chained };
                self.packet_count += 1;
            }
            at += len;
        }
        self.count = at;
        bad
    }

    /// Packet `index` of a burst that is not plain, and its first descriptor.
    #[cold]
    fn arranged<'a>(&'a self, index: usize, frames: &'a Frames) -> (Descriptor, &'a [u8]) {
        let packet = self.packets[index];
        let descriptor = self.descriptors[usize::from(packet.first)];
        let data = match packet.chained {
            Some((start, end)) => &self.scratch[start..end],
            // SAFETY: `arrange` makes packets only of descriptors in the region.
            None => unsafe { frames.packet(&descriptor) },
        };
        (descriptor, data)
    }
}

/// A burst of at most 64 packets. It borrows the consumer, which returns the frames afterwards.
#[derive(Debug, Clone, Copy)]
pub struct Burst<'a> {
    from: Option<&'a Attachment>,
}

impl<'a> Burst<'a> {
    /// Number of packets.
    #[inline]
    pub fn len(&self) -> usize {
        self.from.map_or(0, |a| a.burst.packet_count)
    }

    /// True when there is no packet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The packets, in the order in which they were captured.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Frame<'a>> + use<'a> {
        let from = self.from;
        (0..self.len()).filter_map(move |i| from.map(|a| a.frame(i)))
    }
}

impl Attachment {
    #[inline]
    fn frame(&self, index: usize) -> Frame<'_> {
        let held = &self.burst;
        let (descriptor, data) = if held.plain {
            let descriptor = held.descriptors[index];
            // SAFETY: a burst is plain when all its descriptors are in the region.
            (descriptor, unsafe { self.frames.packet(&descriptor) })
        } else {
            held.arranged(index, &self.frames)
        };
        Frame {
            data,
            flags: FrameFlags(descriptor.flags & !FrameFlags::MORE_FRAGMENTS),
            interface: descriptor.interface,
            frames: &self.frames,
            descriptor,
        }
    }
}

/// One received packet.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The Ethernet frame as captured.
    pub data: &'a [u8],
    /// What the balancer knows about it.
    pub flags: FrameFlags,
    /// Index of the input interface in the balancer.
    pub interface: u16,
    frames: &'a Frames,
    descriptor: Descriptor,
}

impl Frame<'_> {
    /// Time of reception in nanoseconds since the epoch, where the source has one.
    pub fn timestamp(&self) -> Option<u64> {
        self.flags
            .has(FrameFlags::TIMESTAMP)
            .then(|| u64::from_le_bytes(self.frames.head_room(&self.descriptor, 8)))
    }

    /// The balancer's distribution hash.
    pub fn hash(&self) -> Option<u32> {
        self.flags
            .has(FrameFlags::HASH)
            .then(|| u32::from_le_bytes(self.frames.head_room(&self.descriptor, 12)))
    }
}

/// Connects to the control socket with `hello` and returns the connection, the answer and the
/// descriptors that came with it.
pub(crate) fn connect_as(
    path: &Path,
    hello: Hello,
    limit: Duration,
) -> Result<(OwnedFd, Answer, Vec<OwnedFd>), AttachError> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(limit),
    )?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Send,
        Some(limit),
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
        .map_err(|e| AttachError::NoServer { path: path.to_owned(), source: e.into() })?;
    rustix::net::send(socket.as_fd(), &hello.encode(), SendFlags::NOSIGNAL)?;
    let mut buffer = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        &socket,
        &mut [std::io::IoSliceMut::new(&mut buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let fds = ancillary
        .drain()
        .flat_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        })
        .collect();
    if message.bytes == 0 {
        return Err(AttachError::Protocol("the end of the connection"));
    }
    let answer = Answer::decode(&buffer[..message.bytes])
        .ok_or(AttachError::Protocol("something that is not an answer"))?;
    match answer {
        Answer::Refused { code, pid, text } => Err(match code {
            1 => AttachError::Version { abi: ABI, text },
            2 => AttachError::NoSuchQueue(text),
            3 => AttachError::Busy { pid, text },
            4 => AttachError::Draining(text),
            5 => AttachError::NotPermitted(text),
            _ => AttachError::Protocol("an unknown refusal"),
        }),
        accepted => Ok((socket, accepted, fds)),
    }
}

const _: () = assert!(abi::MAX_FRAGMENTS <= BURST && BURST <= u8::MAX as usize);
