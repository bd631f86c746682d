//! A consumer that holds a queue, as the balancer sees it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags};

use crate::abi::ring;
use crate::peer::Peer;
use crate::queue::{QueueMap, Ring};

/// A consumer that holds a queue.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) socket: OwnedFd,
    pub(super) peer: Peer,
    pub(super) map: Arc<QueueMap>,
    pub(super) rings: Vec<Ring>,
    pub(super) hung: bool,
    /// Queues whose packets it sees, one bit each; none for the consumer of a queue.
    pub(super) watched: u64,
}

impl Holder {
    /// The connection has ended. It ends with the last process that has it.
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let polled = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default()));
        polled.is_ok_and(|n| n > 0)
    }

    /// A process that ends while its connection lives has given the queue to a successor, of which only
    /// the connection is known.
    pub(super) fn notice_succession(&mut self) {
        let Some(pidfd) = &self.peer.pidfd else { return };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        let polled = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default()));
        if polled.is_ok_and(|n| n > 0) && !self.is_gone() {
            (self.peer.pid, self.peer.pidfd) = (0, None);
        }
    }

    pub(super) fn processed(&self) -> u64 {
        self.rings
            .iter()
            .map(|r| r.word(ring::PROCESSED).load(Ordering::Relaxed))
            .fold(0, u64::saturating_add)
    }

    /// Descriptors published and not consumed, the most in any ring.
    pub(super) fn backlog(&self) -> u64 {
        self.rings
            .iter()
            .map(|r| {
                let consumed = r.word(ring::CONS).load(Ordering::Acquire);
                r.word(ring::PROD).load(Ordering::Relaxed).saturating_sub(consumed)
            })
            .max()
            .unwrap_or(0)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.backlog() == 0 || self.is_gone()
    }

    pub(super) fn heartbeat_age(&self, now: u64) -> u64 {
        now.saturating_sub(self.map.consumer_heartbeat().load(Ordering::Relaxed))
    }
}
