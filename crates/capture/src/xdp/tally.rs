//! Counters in the kernel that are read without asking it: a program counts, each processor in a place of its
//! own, and the places are mapped here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use super::assembly::{Assembly, code};
use super::bpf;

/// Bytes of the place of a processor, so that no two share a line of the cache. Each counter has a word there.
const PLACE: u32 = 64;
/// Processors at most.
const MAX_PROCESSORS: u32 = 4096;

/// What is counted; the number is that of a word.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tallied {
    /// Frames that were dropped because no detector needs them.
    Prefiltered = 0,
    /// Frames that went to the host because their flow is that of a session.
    Passed = 1,
}

/// The counters.
#[derive(Debug)]
pub(super) struct Tally {
    map: OwnedFd,
    base: NonNull<u8>,
    processors: u32,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Tally {}

impl Tally {
    /// Counters at 0.
    pub(super) fn new() -> io::Result<Self> {
        let processors = processors()?;
        Self::map(bpf::shared_values(PLACE, processors, b"conjure_tally")?, processors)
    }

    /// The counters of another process, with places for this many processors.
    pub(super) fn map(map: OwnedFd, processors: u32) -> io::Result<Self> {
        if processors == 0 || processors > MAX_PROCESSORS {
            let text =
                format!("places for {processors} processors; 1 to {MAX_PROCESSORS} are possible");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len(processors),
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { map, base, processors })
    }

    /// Places.
    pub(super) const fn processors(&self) -> u32 {
        self.processors
    }

    /// Writes the counting of one frame. Registers 0 to 5 are used.
    pub(super) fn count(&self, program: &mut Assembly, what: Tallied) {
        const PROCESSOR: i32 = 8;
        let uncounted = program.label();
        program.call(PROCESSOR);
        program.look_up(self.map.as_raw_fd(), 0);
        program.jump_if(code::JUMP_IF_EQUAL, 0, 0, uncounted);
        program.value(code::MOVE, 1, 1);
        program.store(code::ADD_IN_MEMORY, 0, 8 * what as i16, 1);
        program.place(uncounted);
    }

    /// What all processors have counted.
    pub(super) fn sum(&self, what: Tallied) -> u64 {
        let place = |processor: u32| {
            let at = (processor * PLACE) as usize + 8 * what as usize;
            // SAFETY: within the mapping, aligned as places are; the kernel changes it as a whole.
            unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU64>() }.load(Ordering::Relaxed)
        };
        (0..self.processors).map(place).fold(0, u64::wrapping_add)
    }
}

impl AsFd for Tally {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), len(self.processors)) };
    }
}

/// Bytes of the mapping; the kernel rounds them up to pages.
const fn len(processors: u32) -> usize {
    (processors * PLACE) as usize
}

/// Numbers that processors of this host may ever have.
fn processors() -> io::Result<u32> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(PATH)?;
    past_last(&text).ok_or_else(|| {
        let text = format!("{PATH} says {:?}, which is no list of processors", text.trim());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// The number after the last one of a list such as `0-3,8`.
fn past_last(list: &str) -> Option<u32> {
    let last = list.trim().rsplit([',', '-']).next()?;
    last.parse::<u32>().ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let of = ["0", "0-1\n", "0-3,8", "0,2-5"].map(|list| past_last(list).unwrap());
        assert_eq!(of, [1, 2, 9, 6]);
        assert_eq!([past_last(""), past_last("0-x"), past_last("4294967295")], [None; 3]);
    }
}
