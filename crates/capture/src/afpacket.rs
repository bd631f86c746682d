//! `AF_PACKET` with a `TPACKET_V3` ring (`spec/ingest.md` 8.4).
//!
//! The kernel fills blocks of the ring and hands each over as a whole; frames are read in place
//! and the block is given back when the last of them has been handed out.

mod bare;

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

pub use bare::BarePacket;

use crate::position::{Block, Blocks};
use crate::{Burst, Frame, OpenError, Position, Source, Statistics};

/// The ring. Every millisecond a block is handed over, full or not, so that it is many blocks that bridge a
/// pause of the reader; the longest frame, with what stands before it, must fit into one.
const BLOCKS: Blocks = Blocks { size: 256 << 10, count: 256 };
/// Milliseconds after which the kernel hands over a block that is not full.
const RETIRE_MS: u32 = 1;
/// Nominal frame size; blocks hold frames of any length.
const FRAME: usize = 2048;

/// A packet socket that gets nothing yet.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    // Protocol 0: nothing arrives before it is bound.
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One interface.
#[derive(Debug)]
pub struct AfPacket {
    socket: OwnedFd,
    interface: CString,
    ring: Ring,
    block: usize,
    /// Frames of the present block that were not handed out yet, and the offset of the first.
    left: u32,
    offset: usize,
    /// A frame with its VLAN tag put back.
    tagged: Vec<u8>,
    statistics: Statistics,
    /// Blocks that are still read when the source has ceased.
    last: Option<usize>,
}

/// The mapped ring.
#[derive(Debug)]
struct Ring {
    base: NonNull<u8>,
    blocks: Blocks,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    fn map(socket: &OwnedFd, blocks: Blocks) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses; the length is that of the
        // ring that was set on the socket.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                blocks.bytes(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { base, blocks })
    }

    /// Offset of a block.
    const fn start(&self, block: usize) -> usize {
        block * self.blocks.size as usize
    }

    /// Status word of a block, shared with the kernel.
    fn status(&self, block: usize) -> &AtomicU32 {
        let at = self.start(block) + mem::offset_of!(libc::tpacket_block_desc, hdr);
        // SAFETY: within the mapping, aligned to 8 bytes as blocks are aligned to pages; the first
        // word of the header is the status, and both sides access it atomically.
        unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU32>() }
    }

    /// Frames in a block, also while the kernel fills it: 0 when it has just begun one.
    fn frames(&self, block: usize) -> u32 {
        let header = mem::offset_of!(libc::tpacket_block_desc, hdr);
        let at = self.start(block) + header + mem::offset_of!(libc::tpacket_hdr_v1, num_pkts);
        // SAFETY: within the mapping and aligned; a number that the kernel may change meanwhile.
        unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU32>() }.load(Ordering::Acquire)
    }

    /// Header of a block that belongs to us.
    fn header(&self, block: usize) -> libc::tpacket_hdr_v1 {
        let at = self.start(block) + mem::offset_of!(libc::tpacket_block_desc, hdr);
        // SAFETY: within the mapping and aligned; the block is ours, so the kernel does not write.
        unsafe { ptr::read(self.base.as_ptr().add(at).cast::<libc::tpacket_hdr_v1>()) }
    }

    /// Bytes `offset..offset + len` of a block that belongs to us, `None` beyond its end.
    fn bytes(&self, block: usize, offset: usize, len: usize) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        if end > self.blocks.size as usize {
            return None;
        }
        // SAFETY: within the mapping; the block is ours, so the kernel does not write.
        Some(unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(self.start(block) + offset), len)
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.blocks.bytes()) };
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl AfPacket {
    /// Bytes of the kernel's ring.
    pub const RING: usize = BLOCKS.bytes();

    /// Opens `interface`, promiscuous; frames that the host itself sends are left out.
    ///
    /// # Errors
    /// When the interface does not exist or the process may not capture.
    pub fn open(interface: &str) -> Result<Self, OpenError> {
        let failed = |what| move |cause| OpenError::of_system(interface, what, cause);
        let no_interface = || OpenError::NoInterface { interface: interface.to_owned() };
        let name = CString::new(interface).map_err(|_| no_interface())?;
        let index = index_of(&name).ok_or_else(no_interface)?;
        let socket = packet_socket().map_err(failed("packet socket"))?;
        Self::start(socket, name, index).map_err(|(_, _, what, cause)| failed(what)(cause))
    }

    /// Makes a source of a packet socket. When that fails both come back, with what was attempted and why.
    pub(crate) fn start(
        socket: OwnedFd,
        interface: CString,
        index: libc::c_int,
    ) -> Result<Self, (OwnedFd, CString, &'static str, io::Error)> {
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCKS.size,
            tp_block_nr: BLOCKS.count,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: BLOCKS.size / FRAME as u32 * BLOCKS.count,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        let ring = set(&socket, libc::PACKET_VERSION, &version)
            .map_err(|cause| ("TPACKET_V3", cause))
            .and_then(|()| {
                set(&socket, libc::PACKET_RX_RING, &request)
                    .map_err(|cause| ("64 MiB of ring", cause))
            })
            .and_then(|()| {
                set(&socket, libc::PACKET_IGNORE_OUTGOING, &1i32)
                    .map_err(|cause| ("ignoring own frames", cause))
            })
            .and_then(|()| Ring::map(&socket, BLOCKS).map_err(|cause| ("mapping the ring", cause)))
            .and_then(|ring| match promiscuous(&socket, index) {
                Ok(()) => Ok(ring),
                Err(cause) => Err(("promiscuous mode", cause)),
            })
            .and_then(|ring| match bind(&socket, index) {
                Ok(()) => Ok(ring),
                Err(cause) => Err(("binding", cause)),
            });
        let ring = match ring {
            Ok(ring) => ring,
            Err((what, cause)) => {
                // Without ring, so that it can have one at the next attempt.
                // SAFETY: all-zero is a valid value of this plain structure.
                let none: libc::tpacket_req3 = unsafe { mem::zeroed() };
                let _ = set(&socket, libc::PACKET_RX_RING, &none);
                return Err((socket, interface, what, cause));
            }
        };
        Ok(Self {
            socket,
            interface,
            ring,
            block: 0,
            left: 0,
            offset: 0,
            tagged: Vec::new(),
            statistics: Statistics::default(),
            last: None,
        })
    }

    /// Goes on reading the socket of a predecessor at this block.
    ///
    /// # Errors
    /// When it is no packet socket with a ring.
    pub fn take_over(interface: &str, socket: OwnedFd, block: Block) -> Result<Self, OpenError> {
        let failed =
            |what| move |cause| OpenError::System { interface: interface.to_owned(), what, cause };
        let name = CString::new(interface)
            .map_err(|_| OpenError::NoInterface { interface: interface.to_owned() })?;
        let ring = Ring::map(&socket, block.blocks).map_err(failed("mapping the ring"))?;
        Ok(Self {
            socket,
            interface: name,
            block: block.number as usize % ring.blocks.count as usize,
            ring,
            left: 0,
            offset: 0,
            tagged: Vec::new(),
            statistics: Statistics::default(),
            last: None,
        })
    }

    /// The kernel has handed the block over.
    fn is_ours(&self, block: usize) -> bool {
        self.ring.status(block).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Takes the next block when the kernel has handed it over.
    fn take_block(&mut self) -> bool {
        if self.last == Some(0) || !self.is_ours(self.block) {
            return false;
        }
        let header = self.ring.header(self.block);
        self.left = header.num_pkts;
        self.offset = header.offset_to_first_pkt as usize;
        true
    }

    /// Gives the present block back and goes on to the next.
    fn return_block(&mut self) {
        fence(Ordering::Release);
        self.ring.status(self.block).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % self.ring.blocks.count as usize;
        self.left = 0;
        self.last = self.last.map(|blocks| blocks.saturating_sub(1));
    }

    /// No block is left of those that are still read, or the kernel has put nothing into it.
    fn has_ended(&mut self) -> bool {
        let is_empty = |block| !self.is_ours(block) && self.ring.frames(block) == 0;
        if self.last.is_some() && is_empty(self.block) {
            self.last = Some(0);
        }
        self.last == Some(0)
    }

    /// Hands out the frame at the present offset; false when the block makes no sense.
    #[inline]
    fn hand_out(&mut self, each: &mut impl FnMut(Frame<'_>)) -> bool {
        let size = mem::size_of::<libc::tpacket3_hdr>();
        let Some(bytes) = self.ring.bytes(self.block, self.offset, size) else { return false };
        // SAFETY: `bytes` is as long as the header, whose fields may have any value; the read does
        // not need alignment.
        let header = unsafe { ptr::read_unaligned(bytes.as_ptr().cast::<libc::tpacket3_hdr>()) };
        let start = self.offset + usize::from(header.tp_mac);
        let Some(data) = self.ring.bytes(self.block, start, header.tp_snaplen as usize) else {
            return false;
        };
        let truncated = header.tp_snaplen < header.tp_len;
        self.statistics.truncated += u64::from(truncated);
        let timestamp = u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec);
        // The kernel has taken the outer VLAN tag off; what it was stands in the header.
        let data = if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && data.len() >= 12 {
            let tpid = match header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID {
                0 => 0x8100,
                _ => header.hv1.tp_vlan_tpid,
            };
            self.tagged.clear();
            self.tagged.extend_from_slice(&data[..12]);
            self.tagged.extend_from_slice(&tpid.to_be_bytes());
            self.tagged.extend_from_slice(&(header.hv1.tp_vlan_tci as u16).to_be_bytes());
            self.tagged.extend_from_slice(&data[12..]);
            self.tagged.as_slice()
        } else {
            data
        };
        let checksum_incomplete = header.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
        each(Frame { data, timestamp, truncated, checksum_incomplete });
        self.offset += header.tp_next_offset as usize;
        true
    }

    /// [`Source::burst`] for whoever knows what the source is, without a call for each frame.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn read(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut impl FnMut(Frame<'_>),
    ) -> io::Result<Burst> {
        let mut count = 0;
        if self.left == 0 && !self.take_block() {
            if self.has_ended() {
                return Ok(Burst::Ended);
            }
            self.wait(timeout)?;
            if !self.take_block() {
                return Ok(Burst::Frames(0));
            }
        }
        while count < max {
            if self.left == 0 {
                // A block may be handed over empty.
                self.return_block();
                if !self.take_block() {
                    return Ok(Burst::Frames(count));
                }
                continue;
            }
            self.left -= 1;
            if self.hand_out(each) {
                count += 1;
            } else {
                self.left = 0;
            }
        }
        if self.left == 0 {
            self.return_block();
        }
        Ok(Burst::Frames(count))
    }

    fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN | libc::POLLERR,
            revents: 0,
        };
        // Rounded up, so that only a wait of no time at all does not sleep.
        let ms = timeout.as_nanos().div_ceil(1_000_000);
        let ms = libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX);
        // SAFETY: one valid entry that lives through the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, ms) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        if poll.revents & libc::POLLERR != 0 {
            return Err(self.error());
        }
        Ok(())
    }

    /// The error that is pending on the socket, e.g. ENETDOWN.
    fn error(&self) -> io::Error {
        let mut code: libc::c_int = 0;
        let mut len = mem::size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: pointer and length describe `code`.
        unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                ptr::from_mut(&mut code).cast(),
                &raw mut len,
            )
        };
        io::Error::from_raw_os_error(if code == 0 { libc::EIO } else { code })
    }
}

pub(crate) fn promiscuous(socket: &OwnedFd, index: libc::c_int) -> io::Result<()> {
    let membership = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(socket, libc::PACKET_ADD_MEMBERSHIP, &membership)
}

/// Number of an interface of this network namespace.
pub(crate) fn index_of(name: &std::ffi::CStr) -> Option<libc::c_int> {
    // SAFETY: a terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    libc::c_int::try_from(index).ok().filter(|index| *index > 0)
}

fn bind(socket: &OwnedFd, index: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: pointer and length describe `address`.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Source for AfPacket {
    fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<Burst> {
        self.read(max, timeout, &mut |frame| each(frame))
    }

    /// Binds the socket to the interface of the same name, which may be another one by now. Making a
    /// packet socket takes a capability, binding it again does not.
    fn resume(&mut self) -> io::Result<()> {
        let index = index_of(&self.interface).ok_or(io::ErrorKind::NotFound)?;
        promiscuous(&self.socket, index)?;
        bind(&self.socket, index)
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn hand_over(&mut self, each: &mut dyn FnMut(Frame<'_>)) -> Option<Position> {
        if self.left > 0 {
            while self.left > 0 {
                self.left -= 1;
                if !self.hand_out(&mut |frame| each(frame)) {
                    break;
                }
            }
            self.return_block();
        }
        let number = u32::try_from(self.block).unwrap_or(0);
        Some(Position::Block(Block { number, blocks: self.ring.blocks }))
    }

    fn cease(&mut self) {
        let all = self.ring.blocks.count as usize;
        let ready = (0..all).take_while(|n| self.is_ours((self.block + n) % all)).count();
        // The kernel fills the one behind those that it has handed over.
        self.last = Some((ready + 1).min(all));
    }

    fn statistics(&mut self) -> Statistics {
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut fresh: libc::tpacket_stats_v3 = unsafe { mem::zeroed() };
        let mut len = mem::size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: pointer and length describe `fresh`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut fresh).cast(),
                &raw mut len,
            )
        };
        // The kernel counts since the last call.
        if result == 0 {
            self.statistics.received += u64::from(fresh.tp_packets);
            self.statistics.dropped += u64::from(fresh.tp_drops);
            self.statistics.full += u64::from(fresh.tp_freeze_q_cnt);
        }
        self.statistics
    }
}
