//! The one clock of the rings.

/// CLOCK_MONOTONIC in nanoseconds, at the resolution of a kernel tick, cheap enough per burst.
pub(crate) fn coarse_now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // libc's, since rustix looks for the vDSO by itself, also where valgrind has taken it away.
    // SAFETY: writes to one variable. This clock always exists, so it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
