//! Shared memory: anonymous files and their mappings.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// A new anonymous file of `len` bytes that can be sealed.
pub(crate) fn memory_file(name: &str, len: usize) -> rustix::io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, len as u64)?;
    Ok(fd)
}

/// Fixes the size of a file for good, so that no holder of it can make a mapping fault.
pub(crate) fn seal_size(fd: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
}

/// Fixes the size and forbids every new writable mapping; the owner's existing one stays.
pub(crate) fn seal_read_only(fd: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::fcntl_add_seals(
        fd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
    )
}

/// True when nobody can make the file shorter than `len` bytes, so that reading a mapping of it
/// cannot fault.
pub(crate) fn is_fixed(fd: impl AsFd, len: usize) -> rustix::io::Result<bool> {
    let seals = rustix::fs::fcntl_get_seals(&fd)?;
    let size = rustix::fs::fstat(&fd)?.st_size;
    Ok(seals.contains(SealFlags::SHRINK) && size >= 0 && size as u64 >= len as u64)
}

/// A shared mapping of a whole file. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to no thread; all access to memory that may change goes through
// atomics or through the producer, which hands each frame to one owner at a time.
unsafe impl Send for Map {}
// SAFETY: as above; `&Map` gives out only atomics and reads.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of `fd`.
    pub(crate) fn new(fd: impl AsFd, len: usize, writable: bool) -> rustix::io::Result<Self> {
        let protection =
            if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases no Rust object.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)?
        };
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { base, len, writable })
    }

    /// Length in bytes.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Address of byte 0.
    #[inline]
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Address of byte `offset`, for `len` bytes.
    ///
    /// # Panics
    /// When the range leaves the mapping: offsets come from checked layouts, never from the peer.
    #[inline]
    pub(crate) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "range {offset}+{len} leaves a mapping of {} bytes",
            self.len
        );
        // SAFETY: the range was just checked to lie in the mapping.
        unsafe { self.base.add(offset) }
    }

    /// The 64-bit word at `offset`, which must be aligned.
    pub(crate) fn u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && self.writable);
        // SAFETY: in range (checked by `at`), aligned, mapped writable, and every access of either
        // process to these bytes is atomic.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).as_ptr().cast()) }
    }

    /// The 32-bit word at `offset`, which must be aligned.
    pub(crate) fn u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && self.writable);
        // SAFETY: as for `u64`.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).as_ptr().cast()) }
    }

    /// Copies the first `N` bytes (a multiple of 4) word by word, as the peer may be writing them.
    pub(crate) fn prefix<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        for (i, word) in out.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&self.u32(i * 4).load(Ordering::Relaxed).to_le_bytes());
        }
        out
    }

    /// Stores `bytes` (a multiple of 4) at the start, word by word.
    pub(crate) fn set_prefix(&self, bytes: &[u8]) {
        for (i, word) in bytes.chunks_exact(4).enumerate() {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            self.u32(i * 4).store(value, Ordering::Relaxed);
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this address and length, and no reference
        // into it outlives `self`. A failure leaves it mapped, which is harmless.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_frames_cannot_be_written_by_others() {
        let fd = memory_file("test", 8192).unwrap();
        let owner = Map::new(&fd, 8192, true).unwrap();
        seal_read_only(&fd).unwrap();
        owner.u64(4096).store(42, Ordering::Relaxed);
        let reader = Map::new(&fd, 8192, false).unwrap();
        // SAFETY: eight mapped, initialised bytes that nobody writes now.
        let seen = unsafe { reader.at(4096, 8).cast::<u64>().as_ptr().read_unaligned() };
        assert_eq!(seen, 42);
        assert_eq!(Map::new(&fd, 8192, true).unwrap_err(), Errno::PERM);
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
        assert!(is_fixed(&fd, 8192).unwrap());
        assert!(!is_fixed(&fd, 8193).unwrap());
    }

    #[test]
    #[should_panic(expected = "leaves a mapping")]
    fn ranges_are_checked() {
        let fd = memory_file("test", 4096).unwrap();
        let map = Map::new(&fd, 4096, true).unwrap();
        map.at(4090, 8);
    }
}
