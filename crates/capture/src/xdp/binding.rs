//! How sockets get the packets of a receive queue.

use std::io;
use std::time::{Duration, Instant};

use shm::Memory;

use super::socket::{Binding, Socket};
use super::{Hook, Refusal, XdpOptions};

/// Time that the kernel may take to let go of sockets whose process is gone.
const RELEASE: Duration = Duration::from_secs(2);

/// Binds the socket of the first queue as well as it can be; with what the driver refused.
pub(super) fn bind_first(
    memory: &Memory,
    options: XdpOptions,
    interface: u32,
    queue: u32,
    hook: Hook,
    fragments: bool,
) -> io::Result<(Socket, Binding, Option<Refusal>)> {
    let zero_copy = [options.zero_copy && hook == Hook::Native, false];
    let ways = zero_copy
        .into_iter()
        .flat_map(|zero_copy| [fragments, false].map(|fragments| Binding { zero_copy, fragments }));
    let mut last = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    let mut refused = None;
    for binding in ways {
        let socket = Socket::new(memory, options.entries, None)?;
        match bind_patiently(&socket, interface, queue, binding) {
            Ok(()) => return Ok((socket, binding, refused)),
            Err(error) if is_unsupported(&error) => {
                if binding.zero_copy {
                    refused = Some(Refusal { way: "zero copy", cause: error.to_string() });
                }
                last = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Binds a socket, also when the queue is not free yet: the kernel lets go of sockets some time after the process
/// that had them is gone.
fn bind_patiently(socket: &Socket, interface: u32, queue: u32, binding: Binding) -> io::Result<()> {
    let until = Instant::now() + RELEASE;
    loop {
        match socket.bind(interface, queue, binding, None) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound,
        }
    }
}

/// Binds sockets for `queues` queues of the detector to a receive queue that has `first`, beside that.
fn bind_beside(
    memory: &Memory,
    options: XdpOptions,
    (interface, queue): (u32, u32),
    first: &Socket,
    queues: u32,
) -> io::Result<Vec<Socket>> {
    let shared = Binding { zero_copy: false, fragments: false };
    let bound = |_| {
        let socket = Socket::beside(memory, options.entries)?;
        socket.bind(interface, queue, shared, Some(first))?;
        Ok(socket)
    };
    (0..queues).map(bound).collect()
}

/// Binds sockets for `queues` queues of the detector to each receive queue, where there is one socket for each of
/// `received`. All of them, in the order of receive queues, or the given ones and why there are no more.
pub(super) fn bind_sorted(
    memory: &Memory,
    options: XdpOptions,
    interface: u32,
    received: std::ops::Range<u32>,
    first: Vec<Socket>,
    queues: u32,
) -> (Vec<Socket>, io::Result<()>) {
    let beside = |(queue, socket)| bind_beside(memory, options, (interface, queue), socket, queues);
    match received.zip(&first).map(beside).collect::<io::Result<Vec<_>>>() {
        Ok(further) => {
            let all = first.into_iter().zip(further);
            (
                all.flat_map(|(socket, further)| std::iter::once(socket).chain(further)).collect(),
                Ok(()),
            )
        }
        Err(error) => (first, Err(error)),
    }
}

pub(super) fn is_unsupported(error: &io::Error) -> bool {
    /// The kernel's own number for what a driver cannot do.
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | ENOTSUPP))
}
