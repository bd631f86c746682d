//! One AF_XDP socket: the packets of one receive queue of one interface.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libc::{c_int, c_void};
use shm::Memory;

use super::ring::{Fill, Ring};

/// The descriptor goes on in the next one.
const CONTINUED: u32 = 1;

/// Sets an option; `value` is what the kernel reads.
fn set<T>(socket: BorrowedFd<'_>, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of AF_XDP.
fn get<T>(socket: BorrowedFd<'_>, option: c_int) -> io::Result<T> {
    get_at(socket, libc::SOL_XDP, option)
}

/// Reads an option of a level.
fn get_at<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<T> {
    // SAFETY: the callers ask for plain structures of numbers only, for which all-zero is a value.
    let mut value: T = unsafe { mem::zeroed() };
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`; the kernel writes numbers only.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Makes a socket.
fn open() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A received packet, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// Offset of the first byte in the memory.
    pub(super) address: u64,
    /// Number of bytes.
    pub(super) len: u32,
    /// The packet goes on in the next.
    pub(super) continued: bool,
}

/// The descriptor at `index` of a ring of them, which the kernel has handed over.
#[inline]
fn received(ring: &Ring, index: u32) -> Received {
    // SAFETY: the entry lies in the ring, all of whose bytes are initialised.
    let entry: libc::xdp_desc = unsafe { ptr::read(ring.entry(index)) };
    Received { address: entry.addr, len: entry.len, continued: entry.options & CONTINUED != 0 }
}

/// How a socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) zero_copy: bool,
    /// Packets may lie in several frames.
    pub(super) fragments: bool,
}

/// A socket and its rings.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    receive: Ring,
    /// That of its receive queue; `None` when another socket of that queue has it.
    fill: Option<Fill>,
    /// Our index of the ring of packets, and how far the kernel was seen.
    taken: u32,
    arrived: u32,
    /// What comes from now on is left alone.
    ceased: bool,
    /// Memory is in use as long as the socket is; that of another process is kept by the kernel.
    _memory: Option<Memory>,
}

impl Socket {
    /// Makes a socket with rings of `entries` entries, a power of two, over `memory`; with `other`, the
    /// memory is that of this socket of another queue. It is not bound yet.
    pub(super) fn new(memory: &Memory, entries: u32, other: Option<&Self>) -> io::Result<Self> {
        let fd = open()?;
        let socket = fd.as_fd();
        if other.is_none() {
            let registration = libc::xdp_umem_reg_v1 {
                addr: memory.base().as_ptr().addr() as u64,
                len: memory.len() as u64,
                chunk_size: memory.frame_size(),
                headroom: 0,
            };
            set(socket, libc::XDP_UMEM_REG, &registration)?;
        }
        // Nothing is sent, but the kernel binds no socket without this ring.
        let completions: c_int = 64;
        let entries_option = entries as c_int;
        set(socket, libc::XDP_UMEM_FILL_RING, &entries_option)?;
        set(socket, libc::XDP_UMEM_COMPLETION_RING, &completions)?;
        set(socket, libc::XDP_RX_RING, &entries_option)?;
        Self::map(fd, entries, true, Some(memory.clone()))
    }

    /// Makes a further socket of a receive queue that has one over `memory`: both take frames from the ring of
    /// the first. It is not bound yet.
    pub(super) fn beside(memory: &Memory, entries: u32) -> io::Result<Self> {
        let fd = open()?;
        set(fd.as_fd(), libc::XDP_RX_RING, &(entries as c_int))?;
        Self::map(fd, entries, false, Some(memory.clone()))
    }

    /// Goes on with the bound socket of another process, whose rings have `entries` entries. `fills`: it has the
    /// free frames of its queue.
    pub(super) fn take_over(fd: OwnedFd, entries: u32, fills: bool) -> io::Result<Self> {
        Self::map(fd, entries, fills, None)
    }

    fn map(fd: OwnedFd, entries: u32, fills: bool, memory: Option<Memory>) -> io::Result<Self> {
        let socket = fd.as_fd();
        let offsets: libc::xdp_mmap_offsets = get(socket, libc::XDP_MMAP_OFFSETS)?;
        let fill_page = libc::off_t::try_from(libc::XDP_UMEM_PGOFF_FILL_RING)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let receive = Ring::map(
            socket,
            &offsets.rx,
            libc::XDP_PGOFF_RX_RING,
            entries,
            mem::size_of::<libc::xdp_desc>(),
        )?;
        let fill = || {
            Ring::map(socket, &offsets.fr, fill_page, entries, mem::size_of::<u64>()).map(Fill::new)
        };
        let fill = fills.then(fill).transpose()?;
        // How far a ring was used stands in it; a new one begins at 0.
        let taken = receive.consumer().load(Ordering::Acquire);
        let (arrived, ceased) = (taken, false);
        Ok(Self { fd, receive, fill, taken, arrived, ceased, _memory: memory })
    }

    /// Binds the socket to a receive queue of an interface. `other` as for [`Socket::new`], which then
    /// decides how.
    pub(super) fn bind(
        &self,
        interface: u32,
        queue: u32,
        binding: Binding,
        other: Option<&Self>,
    ) -> io::Result<()> {
        let flags = match other {
            Some(_) => libc::XDP_SHARED_UMEM,
            None => {
                let copy = if binding.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
                let fragments = if binding.fragments { libc::XDP_USE_SG } else { 0 };
                copy | fragments | libc::XDP_USE_NEED_WAKEUP
            }
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: other.map_or(0, |other| other.fd.as_raw_fd().unsigned_abs()),
        };
        // SAFETY: pointer and length describe `address`.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// True when the driver writes into the memory itself.
    pub(super) fn is_zero_copy(&self) -> bool {
        let options: io::Result<libc::xdp_options> = get(self.fd.as_fd(), libc::XDP_OPTIONS);
        options.is_ok_and(|options| options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// The error that is pending, e.g. that the interface is gone.
    pub(super) fn error(&self) -> Option<io::Error> {
        let code: c_int = get_at(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR).ok()?;
        (code != 0).then(|| io::Error::from_raw_os_error(code))
    }

    /// Counters of the kernel.
    pub(super) fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        get(self.fd.as_fd(), libc::XDP_STATISTICS)
    }

    /// Frames that may be given to the kernel through this socket now.
    #[inline]
    pub(super) fn wanted(&mut self) -> u32 {
        self.fill.as_mut().map_or(0, Fill::wanted)
    }

    /// Gives free frames to the kernel, at most as many as [`Socket::wanted`] said.
    #[inline]
    pub(super) fn fill(&mut self, frames: impl Iterator<Item = u64>) {
        if let Some(fill) = &mut self.fill {
            frames.for_each(|frame| fill.put(frame));
            fill.publish();
        }
    }

    /// How many descriptors have come and were not taken.
    #[inline]
    pub(super) fn waiting(&mut self) -> u32 {
        if self.arrived == self.taken && !self.ceased {
            self.arrived = self.receive.producer().load(Ordering::Acquire);
        }
        self.arrived.wrapping_sub(self.taken)
    }

    /// Leaves alone what comes from now on.
    pub(super) fn cease(&mut self) {
        self.arrived = self.receive.producer().load(Ordering::Acquire);
        self.ceased = true;
    }

    /// The descriptor number `n` of those waiting, `n` below [`Socket::waiting`].
    #[inline]
    pub(super) fn peek(&self, n: u32) -> Received {
        received(&self.receive, self.taken.wrapping_add(n))
    }

    /// Lets go of the first `count` descriptors; the frames they named are ours now.
    #[inline]
    pub(super) fn take(&mut self, count: u32) {
        self.taken = self.taken.wrapping_add(count);
        self.receive.consumer().store(self.taken, Ordering::Release);
    }

    /// Gives the frames of the first `count` descriptors back to the kernel at once; `frame` takes the place in
    /// a frame off an address. There is space, as the kernel took them from the other ring.
    #[inline]
    pub(super) fn recycle(&mut self, count: u32, frame: u64) {
        if let Some(fill) = &mut self.fill {
            for n in 0..count {
                fill.put(received(&self.receive, self.taken.wrapping_add(n)).address & frame);
            }
            fill.publish();
        }
        self.take(count);
    }

    /// Tells the driver about new frames when it has asked for that.
    #[inline]
    pub(super) fn wake(&self) {
        if self.fill.as_ref().is_some_and(Fill::is_awaited) {
            // SAFETY: no buffer is passed. What it returns says nothing that is needed here.
            unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    ptr::null_mut::<c_void>(),
                    0,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                    ptr::null_mut(),
                );
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits at most `timeout` for packets of a socket.
pub(super) fn wait(socket: &Socket, timeout: Duration) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry that lives through the call.
    let ready = unsafe { libc::poll(&raw mut entry, 1, milliseconds(timeout)) };
    outcome(ready, std::slice::from_ref(socket))
}

/// Rounded up, so that only a wait of no time at all does not sleep.
pub(super) fn milliseconds(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// What came of waiting for `sockets`, of which as many as `ready` have something, or of the error if that is negative.
pub(super) fn outcome(ready: c_int, sockets: &[Socket]) -> io::Result<()> {
    match ready {
        ..0 => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
        }
        // An interface that is gone wakes nobody up.
        0 => sockets.iter().find_map(Socket::error).map_or(Ok(()), Err),
        _ => Ok(()),
    }
}

/// Gives `spare` frames to the kernel, to each receive queue its part; every queue has `each` sockets, of which the
/// first has its free frames.
#[inline]
pub(super) fn refill(sockets: &mut [Socket], each: usize, spare: &mut Vec<u64>) {
    let queues = sockets.len() / each;
    for (n, socket) in sockets.iter_mut().step_by(each).enumerate() {
        let part = spare.len() / (queues - n);
        let count = part.min(socket.wanted() as usize);
        if count > 0 {
            let from = spare.len() - count;
            socket.fill(spare.drain(from..));
            socket.wake();
        }
    }
}

/// Packets that the kernel dropped since the sockets were made, and how often it found no frame.
pub(super) fn losses(sockets: &[Socket]) -> (u64, u64) {
    let (mut dropped, mut full) = (0, 0);
    for socket in sockets {
        let Ok(counters) = socket.statistics() else { continue };
        dropped += counters.rx_dropped + counters.rx_ring_full;
        // All sockets of a queue tell the same of the ring that they share.
        full += if socket.fill.is_some() { counters.rx_fill_ring_empty_descs } else { 0 };
    }
    (dropped, full)
}
