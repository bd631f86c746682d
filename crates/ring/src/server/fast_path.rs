//! Who has the table of the kernel fast path.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};

use super::socket::send;
use crate::fast_path::{self, BUCKETS, SLOTS};
use crate::handshake::Answer;

/// The table, and who asked for it. A connection stays open, so that either side knows when the other is gone.
#[derive(Debug, Default)]
pub(super) struct Offer {
    pub(super) table: Option<OwnedFd>,
    pub(super) connections: Vec<OwnedFd>,
}

impl Offer {
    /// Answers a detector.
    pub(super) fn admit(&mut self, socket: OwnedFd) {
        let answer = Answer::FastPath { namespace: fast_path::namespace(), flows: BUCKETS * SLOTS };
        let table: Vec<_> = self.table.iter().map(AsFd::as_fd).collect();
        if send(socket.as_fd(), &answer.encode(), &table).is_ok() {
            self.connections.push(socket);
        }
    }

    /// Forgets detectors that are gone.
    pub(super) fn reap(&mut self) {
        self.connections.retain(|socket| {
            let mut fds = [PollFd::new(socket, PollFlags::empty())];
            let polled = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default()));
            polled.is_ok_and(|n| n == 0)
        });
    }
}
