//! The queue region: rings of descriptors between the balancer and one consumer.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::abi::{self, Descriptor, Header, header, ring};
use crate::error::AttachError;
use crate::map::{Map, is_fixed, memory_file, seal_size};

/// A mapped queue region.
#[derive(Debug)]
pub(crate) struct QueueMap {
    map: Map,
    header: Header,
}

impl QueueMap {
    /// Makes a region, in state *running*.
    pub(crate) fn create(
        header: Header,
        generation: u64,
    ) -> rustix::io::Result<(OwnedFd, Arc<Self>)> {
        let len = abi::region_len(header.producers, header.slots);
        let fd = memory_file("conjure-queue", len)?;
        let map = Map::new(&fd, len, true)?;
        // The consumer gets a writable descriptor: without the seal it could cut the file and make
        // the balancer fault.
        seal_size(&fd)?;
        map.set_prefix(&header.encode());
        map.u64(header::GENERATION).store(generation, Ordering::Relaxed);
        map.u32(header::STATE).store(abi::state::RUNNING, Ordering::Release);
        Ok((fd, Arc::new(Self { map, header })))
    }

    /// Maps and checks the region that `fd` refers to.
    pub(crate) fn open(fd: &OwnedFd, producers: u32, slots: u32) -> Result<Arc<Self>, AttachError> {
        if producers as usize > abi::MAX_PRODUCERS || slots > abi::MAX_SLOTS {
            return Err(AttachError::Protocol("an impossible number of rings"));
        }
        let len = abi::region_len(producers, slots);
        if !is_fixed(fd, len)? {
            return Err(AttachError::Protocol("a queue region that can shrink"));
        }
        let map = Map::new(fd, len, true)?;
        let header = Header::decode(&map.prefix())?;
        if (header.producers, header.slots) != (producers, slots) {
            return Err(AttachError::Protocol("sizes that differ from the region's"));
        }
        Ok(Arc::new(Self { map, header }))
    }

    pub(crate) const fn header(&self) -> &Header {
        &self.header
    }

    /// Frames come back in the order in which they were handed out, and are not named.
    pub(crate) const fn returns_in_order(&self) -> bool {
        self.header.features & abi::RETURNS_IN_ORDER != 0
    }

    /// Its consumer wants to know time and hash of every packet.
    pub(crate) const fn is_described(&self) -> bool {
        self.header.features & abi::DESCRIBED != 0
    }

    pub(crate) fn state(&self) -> &AtomicU32 {
        self.map.u32(header::STATE)
    }

    pub(crate) fn waiting(&self) -> &AtomicU32 {
        self.map.u32(header::WAITING)
    }

    pub(crate) fn wakes(&self) -> &AtomicU32 {
        self.map.u32(header::WAKES)
    }

    pub(crate) fn consumer_heartbeat(&self) -> &AtomicU64 {
        self.map.u64(header::CONSUMER_HEARTBEAT)
    }

    /// Wakes the consumer if it sleeps. The caller has published its indices and then passed a
    /// full fence.
    #[inline]
    pub(crate) fn wake(&self) {
        let waiting = self.waiting();
        if waiting.load(Ordering::Relaxed) != 0 && waiting.swap(0, Ordering::AcqRel) != 0 {
            self.wakes().fetch_add(1, Ordering::Relaxed);
            // The word is shared between processes, so the operation is not private. Nobody
            // waiting is not an error.
            let _ = rustix::thread::futex::wake(waiting, rustix::thread::futex::Flags::empty(), 1);
        }
    }
}

/// One ring of a region.
#[derive(Debug)]
pub(crate) struct Ring {
    queue: Arc<QueueMap>,
    base: NonNull<u8>,
    returns: NonNull<AtomicU64>,
    mask: u64,
}

// SAFETY: the pointers refer to the mapping that `queue` keeps alive, and all access is atomic.
unsafe impl Send for Ring {}

impl Ring {
    /// Ring number `index` of a region.
    ///
    /// # Panics
    /// When the region has no such ring.
    pub(crate) fn new(queue: Arc<QueueMap>, index: u32) -> Self {
        let Header { slots, producers, .. } = queue.header;
        assert!(index < producers, "ring {index} of {producers}");
        let stride = abi::ring_stride(slots);
        let base = queue.map.at(abi::HEADER_LEN + index as usize * stride, stride);
        // SAFETY: the return entries lie within the stride that was just checked.
        let returns = unsafe { base.add(abi::returns_offset(slots)) }.cast();
        let mask = u64::from(slots) - 1;
        Self { queue, base, returns, mask }
    }

    pub(crate) const fn queue(&self) -> &Arc<QueueMap> {
        &self.queue
    }

    /// Number of descriptors.
    #[inline]
    pub(crate) const fn slots(&self) -> u64 {
        self.mask + 1
    }

    /// The control word at `offset`, one of the constants of [`ring`].
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset < ring::DESCRIPTORS);
        // SAFETY: `offset` is one of the layout's constants below the first descriptor, so the
        // word lies in the ring, is aligned, and is only ever accessed atomically.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).as_ptr().cast()) }
    }

    #[inline]
    fn descriptor(&self, index: u64) -> [&AtomicU64; 2] {
        let at = ring::DESCRIPTORS + 16 * (index & self.mask) as usize;
        // SAFETY: the masked index is below the number of descriptors; alignment and atomicity as
        // above.
        unsafe {
            [
                AtomicU64::from_ptr(self.base.add(at).as_ptr().cast()),
                AtomicU64::from_ptr(self.base.add(at + 8).as_ptr().cast()),
            ]
        }
    }

    /// Stores descriptor `index`; published by the next store to [`ring::PROD`].
    #[inline]
    pub(crate) fn put(&self, index: u64, descriptor: Descriptor) {
        let [address, word] = self.descriptor(index);
        address.store(descriptor.address, Ordering::Relaxed);
        word.store(descriptor.word(), Ordering::Relaxed);
    }

    /// Asks the processor to load the descriptors from `from` to before `to`.
    #[inline]
    pub(crate) fn prefetch_descriptors(&self, from: u64, to: u64) {
        for index in (from..to).step_by(4) {
            prefetch(self.descriptor(index)[0].as_ptr().cast());
        }
    }

    /// Asks the processor to take the cache lines of `count` descriptors away from the consumer,
    /// which still has them from the round before.
    #[inline]
    pub(crate) fn claim_descriptors(&self, from: u64, count: u64) {
        for index in (from..from + count).step_by(4) {
            claim(self.descriptor(index)[0].as_ptr().cast());
        }
    }

    /// Asks the processor to take the cache lines of `count` return entries away from the producer,
    /// which still has them from the round before.
    #[inline]
    pub(crate) fn claim_returns(&self, from: u64, count: u64) {
        for index in (from..from + count).step_by(8) {
            claim(std::ptr::from_ref(self.return_entry(index)).cast());
        }
    }

    /// Asks the processor to load the return entries from `from` to before `to`.
    #[inline]
    pub(crate) fn prefetch_returns(&self, from: u64, to: u64) {
        for index in (from..to.min(from + self.slots())).step_by(8) {
            prefetch(std::ptr::from_ref(self.return_entry(index)).cast());
        }
    }

    /// The descriptors from number `from` on, at most `count` of them and none beyond the end of the ring,
    /// where they go on with another call.
    #[inline]
    pub(crate) fn descriptors(&self, from: u64, count: usize) -> &[[AtomicU64; 2]] {
        let at = (from & self.mask) as usize;
        let count = count.min(self.slots() as usize - at);
        // SAFETY: the descriptors lie in the ring, `at` and `count` stay within their number, and all
        // access to them is atomic, by either process.
        unsafe {
            let first = self.base.add(ring::DESCRIPTORS).cast::<[AtomicU64; 2]>();
            std::slice::from_raw_parts(first.add(at).as_ptr(), count)
        }
    }

    /// The return entries from number `from` on, as [`Ring::descriptors`].
    #[inline]
    pub(crate) fn returns(&self, from: u64, count: usize) -> &[AtomicU64] {
        let at = (from & self.mask) as usize;
        let count = count.min(self.slots() as usize - at);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.returns.add(at).as_ptr(), count) }
    }

    /// Return entry `index`.
    #[inline]
    pub(crate) fn return_entry(&self, index: u64) -> &AtomicU64 {
        // SAFETY: the masked index is below the number of return entries.
        unsafe { self.returns.add((index & self.mask) as usize).as_ref() }
    }
}

/// Asks the processor to load a cache line for writing. A hint without effect on memory.
#[inline]
pub(crate) fn claim(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults and changes nothing; processors without it do nothing.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]",
            in(reg) address,
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks the processor to load a cache line. A hint without effect on memory, whatever the address.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
