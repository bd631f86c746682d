//! The lock and the control socket of a cluster.

use std::io::{Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use super::ServerOptions;
use crate::error::ServerError;

/// Time that a predecessor which was killed may take to disappear.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Locks the cluster. The lock dies with its holder, however it dies; a killed predecessor gets a
/// moment to disappear.
pub(super) fn take_lock(options: &ServerOptions) -> Result<std::fs::File, ServerError> {
    let path = options.dir.join(format!("ingest-{}.lock", options.cluster));
    let failed = |source| ServerError::Socket { path: path.clone(), source };
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while let Err(errno) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if errno != Errno::AGAIN {
            return Err(failed(errno.into()));
        }
        if Instant::now() >= deadline {
            let mut text = String::new();
            // The number only makes the message better.
            let _ = file.read_to_string(&mut text);
            return Err(ServerError::InUse {
                cluster: options.cluster,
                pid: text.trim().parse().unwrap_or(0),
                path,
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    write_pid(&mut file).map_err(failed)?;
    Ok(file)
}

pub(super) fn write_pid(file: &mut std::fs::File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

pub(super) fn listen(path: &Path, group: Option<u32>) -> Result<OwnedFd, ServerError> {
    let failed = |source: std::io::Error| ServerError::Socket { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let bind = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 64)?;
        Ok(socket)
    };
    let socket = bind().map_err(|e| failed(e.into()))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(failed)?;
    }
    Ok(socket)
}

pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    match rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)? {
        (0, _) => Err(Errno::CONNRESET),
        (len, _) => Ok(len),
    }
}

pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [std::io::IoSlice::new(message)];
    rustix::net::sendmsg(
        socket,
        &parts,
        &mut ancillary,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}

pub(super) fn timespec(duration: Duration) -> Option<rustix::event::Timespec> {
    rustix::event::Timespec::try_from(duration).ok()
}
