//! Messages with descriptors over a Unix socket.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 96 * 1024;
/// Descriptors of one message at most.
pub(crate) const MAX_DESCRIPTORS: usize = 32;
/// Longest silence of a peer.
const LIMIT: Duration = Duration::from_secs(10);

/// One conversation between a daemon and its successor; every message is whole.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
        set_socket_timeout(&socket, Timeout::Send, Some(LIMIT))?;
        Ok(Self { socket })
    }

    /// The process at the other end, when it is of our own user or root; `None` otherwise.
    pub(crate) fn trusted_peer(&self) -> Option<u32> {
        let peer = socket_peercred(&self.socket).ok()?;
        let own = rustix::process::geteuid();
        (peer.uid == own || peer.uid.is_root()).then(|| peer.pid.as_raw_nonzero().get() as u32)
    }

    /// Waits longer, or not at all, for what the peer says.
    ///
    /// # Errors
    /// When the socket has failed.
    pub fn patience(&self, limit: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.socket, Timeout::Recv, limit)?)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the peer is gone or does not read.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let parts = [io::IoSlice::new(message)];
        rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// When the peer is gone, silent for too long, or says too much.
    pub fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [io::IoSliceMut::new(&mut buffer)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            })
            .collect();
        if received.bytes == 0 && descriptors.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(received.bytes);
        Ok((buffer, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
