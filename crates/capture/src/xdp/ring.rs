//! Rings that are shared with the kernel.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// A ring that is shared with the kernel.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    len: usize,
    layout: Layout,
    pub(super) mask: u32,
}

/// Where the parts of a ring lie in its mapping.
#[derive(Debug, Clone, Copy)]
struct Layout {
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps a ring of `entries` entries of `size` bytes.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        page: libc::off_t,
        entries: u32,
        size: usize,
    ) -> io::Result<Self> {
        let layout = Layout {
            producer: offsets.producer as usize,
            consumer: offsets.consumer as usize,
            flags: offsets.flags as usize,
            entries: offsets.desc as usize,
        };
        let len = layout.entries + entries as usize * size;
        // SAFETY: a new mapping at an address that the kernel chooses; it refuses a length beyond the ring.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { base, len, layout, mask: entries - 1 })
    }

    #[inline]
    pub(super) fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: one of the offsets that the kernel gave for this mapping, aligned to a cache line; both
        // sides access these words atomically.
        unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU32>() }
    }

    #[inline]
    pub(super) fn producer(&self) -> &AtomicU32 {
        self.word(self.layout.producer)
    }

    #[inline]
    pub(super) fn consumer(&self) -> &AtomicU32 {
        self.word(self.layout.consumer)
    }

    /// Address of an entry of type `T`, the type that the ring was mapped with.
    #[inline]
    pub(super) fn entry<T>(&self, index: u32) -> *mut T {
        let at = self.layout.entries + (index & self.mask) as usize * mem::size_of::<T>();
        // SAFETY: masked, so it lies among the entries of the mapping.
        unsafe { self.base.as_ptr().add(at).cast() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The ring with the free frames of a receive queue.
#[derive(Debug)]
pub(super) struct Fill {
    ring: Ring,
    /// Our index, and how far the kernel was seen.
    filled: u32,
    used: u32,
}

impl Fill {
    /// Goes on where the ring is; a new one begins at 0.
    pub(super) fn new(ring: Ring) -> Self {
        let filled = ring.producer().load(Ordering::Acquire);
        let used = ring.consumer().load(Ordering::Acquire);
        Self { ring, filled, used }
    }

    /// Frames that may be put in now.
    #[inline]
    pub(super) fn wanted(&mut self) -> u32 {
        let size = self.ring.mask + 1;
        if self.filled.wrapping_sub(self.used) >= size / 2 {
            self.used = self.ring.consumer().load(Ordering::Acquire);
        }
        size - self.filled.wrapping_sub(self.used)
    }

    /// Puts a frame in, which the kernel sees once it is published.
    #[inline]
    pub(super) fn put(&mut self, frame: u64) {
        // SAFETY: the entry lies in the ring of addresses, and is ours until the index is published.
        unsafe { ptr::write(self.ring.entry(self.filled), frame) };
        self.filled = self.filled.wrapping_add(1);
    }

    /// Gives the kernel what was put in.
    #[inline]
    pub(super) fn publish(&self) {
        self.ring.producer().store(self.filled, Ordering::Release);
    }

    /// The driver has asked to be told of new frames.
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        let flags = self.ring.word(self.ring.layout.flags).load(Ordering::Relaxed);
        flags & libc::XDP_RING_NEED_WAKEUP != 0
    }
}
