//! The running daemon's end: gives its descriptors to a successor that asks.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::HELLO;
use crate::channel::{Channel, MAX_DESCRIPTORS};

/// Path of the hand-over socket of `daemon` in `dir`; `offset` 0 has no suffix.
pub fn socket_path(dir: &Path, daemon: &str, offset: u32) -> PathBuf {
    match offset {
        0 => dir.join(format!("{daemon}.handover.sock")),
        offset => dir.join(format!("{daemon}-{offset}.handover.sock")),
    }
}

/// Waits for a successor.
#[derive(Debug)]
pub struct Host {
    listener: OwnedFd,
    descriptors: Vec<(String, OwnedFd)>,
}

impl Host {
    /// Binds the socket at `path`, mode 0600, in the place of a predecessor's. `descriptors` are what a
    /// successor gets, by name.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path, descriptors: Vec<(String, OwnedFd)>) -> io::Result<Self> {
        let fresh = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(&fresh)?)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&listener, 4)?;
        std::fs::rename(&fresh, path)?;
        Ok(Self { listener, descriptors })
    }

    /// Waits for a successor of the same user, or root's, and gives it the descriptors. Blocks; for a
    /// thread of its own. Returns the conversation and the successor's process id.
    ///
    /// # Errors
    /// When the listening socket has failed.
    pub fn wait(&self) -> io::Result<(Channel, u32)> {
        loop {
            let accepted = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC);
            let socket = match accepted {
                Ok(socket) => socket,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            // Whoever breaks off, or may not ask, gets nothing more; the next one may.
            if let Ok(Some(served)) = self.greet(socket) {
                return Ok(served);
            }
        }
    }

    fn greet(&self, socket: OwnedFd) -> io::Result<Option<(Channel, u32)>> {
        use std::os::fd::AsFd;
        let channel = Channel::new(socket)?;
        let Some(pid) = channel.trusted_peer() else { return Ok(None) };
        if channel.receive()?.0 != HELLO {
            return Ok(None);
        }
        for part in self.descriptors.chunks(MAX_DESCRIPTORS) {
            let names: Vec<&str> = part.iter().map(|(name, _)| name.as_str()).collect();
            let descriptors: Vec<_> = part.iter().map(|(_, fd)| fd.as_fd()).collect();
            channel.send(names.join("\n").as_bytes(), &descriptors)?;
        }
        channel.send(b"end", &[])?;
        Ok(Some((channel, pid)))
    }
}
