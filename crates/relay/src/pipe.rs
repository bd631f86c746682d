//! A pool of pipes for splicing.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use crossbeam_queue::ArrayQueue;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Wanted capacity of a pipe. The kernel clamps it for users beyond their share of pipe pages.
pub(crate) const SIZE: usize = 256 * 1024;

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
        // A smaller pipe works too, only slower.
        let _ = fcntl_setpipe_size(&write, SIZE);
        Ok(Self { read, write })
    }

    /// Gives an empty pipe back.
    pub(crate) fn give_back(self) {
        let _ = POOL.push(self);
    }
}
