//! A pool of pipes for splicing.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use crossbeam_queue::ArrayQueue;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Wanted capacity of a pipe: the larger, the fewer times a relay wakes up. It costs a slot for
/// each page, not the pages.
pub(crate) const SIZE: usize = 1024 * 1024;
/// What is taken where the kernel refuses more, e.g. to users beyond their share of pipe pages.
const MODEST_SIZE: usize = 256 * 1024;

/// Empty pipes that wait for their next use; more than this are closed.
static POOL: LazyLock<ArrayQueue<Pipe>> = LazyLock::new(|| ArrayQueue::new(256));

/// A non-blocking pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
}

impl Pipe {
    /// An empty pipe from the pool, or a new one.
    pub(crate) fn take() -> std::io::Result<Self> {
        if let Some(pipe) = POOL.pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // An even smaller pipe works too, only slower.
        let _ =
            fcntl_setpipe_size(&write, SIZE).or_else(|_| fcntl_setpipe_size(&write, MODEST_SIZE));
        Ok(Self { read, write })
    }

    /// Gives an empty pipe back.
    pub(crate) fn give_back(self) {
        let _ = POOL.push(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::fcntl_getpipe_size;

    #[test]
    fn pipes_are_large() {
        let pipe = Pipe::take().unwrap();
        // Root has no share to exceed.
        if rustix::process::geteuid().is_root() {
            assert!(fcntl_getpipe_size(&pipe.write).unwrap() >= MODEST_SIZE);
        }
        pipe.give_back();
    }
}
