//! The monitor role: a snapshot of the balancer as JSON.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};

use crate::consumer::connect_as;
use crate::error::AttachError;
use crate::handshake::{ANY_SET, Answer, Hello, Role};

/// Longest snapshot that is read, in bytes.
const MAX_SNAPSHOT: usize = 1 << 18;

/// Asks the balancer of `cluster` in `dir` for its state, as JSON text.
///
/// # Errors
/// When no balancer answers within a second or it refuses.
pub fn monitor(dir: &Path, cluster: u32) -> Result<String, AttachError> {
    let path = crate::socket_path(dir, cluster);
    let (socket, answer, _) =
        connect_as(&path, Hello::new(Role::Monitor, ANY_SET, 0), Duration::from_secs(1))?;
    if answer != Answer::Monitor {
        return Err(AttachError::Protocol("a welcome for another role"));
    }
    rustix::net::send(socket.as_fd(), b"status", SendFlags::NOSIGNAL)?;
    let mut buffer = vec![0; MAX_SNAPSHOT];
    let (len, _) = rustix::net::recv(socket.as_fd(), &mut buffer[..], RecvFlags::empty())?;
    String::from_utf8(buffer[..len].to_vec())
        .map_err(|_| AttachError::Protocol("text that is not UTF-8"))
}
