//! Waiting for packets of several sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::MAX_QUEUES;
use super::socket::{self, Socket};

/// Tells when one of several sockets has got packets, at the cost of those that have: `poll(2)` looks at all of them.
#[derive(Debug)]
pub(super) struct Waiting(Option<OwnedFd>);

impl Waiting {
    /// Watches these sockets.
    pub(super) fn new(sockets: &[Socket]) -> io::Result<Self> {
        if sockets.len() == 1 {
            return Ok(Self(None));
        }
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        for socket in sockets {
            // Edges are enough: who waits has found all rings empty before.
            let events = (libc::EPOLLIN | libc::EPOLLET).cast_unsigned();
            let mut event = libc::epoll_event { events, u64: 0 };
            let socket = socket.as_fd().as_raw_fd();
            // SAFETY: both descriptors are open, and the kernel only reads the event.
            let result = unsafe {
                libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event)
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self(Some(epoll)))
    }

    /// Waits at most `timeout` for packets of any of `sockets`, which are those that are watched.
    pub(super) fn wait(&self, sockets: &[Socket], timeout: Duration) -> io::Result<()> {
        let Some(epoll) = &self.0 else { return socket::wait(&sockets[0], timeout) };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MAX_QUEUES as usize];
        // SAFETY: as many valid entries as said that live through the call.
        let ready = unsafe {
            libc::epoll_wait(
                epoll.as_raw_fd(),
                events.as_mut_ptr(),
                MAX_QUEUES.cast_signed(),
                socket::milliseconds(timeout),
            )
        };
        socket::outcome(ready, sockets)
    }
}
