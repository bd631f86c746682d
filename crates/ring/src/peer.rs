//! Who is at the other end of a control connection.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};

/// `SO_PEERPIDFD` of Linux 6.5; libc does not name it on every target.
const SO_PEERPIDFD: libc::c_int = 77;

/// The process that connected.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Process id; 0 when it lives in another PID namespace.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Readable once the process has ended. Absent on old kernels and between PID namespaces, where
    /// only the end of the connection tells.
    pub(crate) pidfd: Option<OwnedFd>,
}

impl Peer {
    /// Asks the kernel who is connected to `socket`.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let cred = credentials(socket)?;
        let pidfd = peer_pidfd(socket).or_else(|| {
            let pid = Pid::from_raw(i32::try_from(cred.pid).ok()?)?;
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
        });
        Ok(Self { pid: cred.pid, uid: cred.uid, gid: cred.gid, pidfd })
    }

    /// True for root, for our own user, and for `group`.
    pub(crate) fn is_permitted(&self, group: Option<u32>) -> bool {
        self.uid == 0
            || self.uid == rustix::process::geteuid().as_raw()
            || group.is_some_and(|g| g == self.gid)
    }
}

struct Credentials {
    pid: u32,
    uid: u32,
    gid: u32,
}

/// `SO_PEERCRED`, read without a type that forbids process id 0 (another PID namespace).
fn credentials(socket: BorrowedFd<'_>) -> rustix::io::Result<Credentials> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the option writes at most `len` bytes into `cred`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    Ok(Credentials { pid: u32::try_from(cred.pid).unwrap_or(0), uid: cred.uid, gid: cred.gid })
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes at most `len` bytes into `fd`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    // SAFETY: on success the kernel has made a new descriptor that nobody else owns.
    (result == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last_errno() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&std::io::Error::last_os_error())
        .unwrap_or(rustix::io::Errno::IO)
}
