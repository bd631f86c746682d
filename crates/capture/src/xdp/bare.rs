//! The least that reading an interface through AF_XDP takes: what measurements compare with.

use std::os::fd::AsFd;
use std::time::Duration;

use shm::{Loan, Memory};

use super::bpf::{self, Attached, Hook, Program, SocketMap};
use super::socket::{self, Binding, Socket};
use super::{XdpOptions, text};
use crate::OpenError;
use crate::standby::Standby;

/// The first receive queue of an interface, read by a loop that looks at no packet.
#[derive(Debug)]
pub struct BareXdp {
    // Dropped before what keeps the program on the interface.
    socket: Socket,
    _program: Attached,
    _map: SocketMap,
    _standby: Standby,
    /// Takes the place in its frame off an address.
    frame: u64,
}

impl BareXdp {
    /// Opens the interface, which must have native XDP; receives into `loans`, `options.entries` of them
    /// at most.
    ///
    /// # Errors
    /// When the interface does not exist or the process may not do this.
    pub fn open(
        interface: &str,
        options: XdpOptions,
        memory: &Memory,
        loans: impl IntoIterator<Item = Loan>,
    ) -> Result<Self, OpenError> {
        let (standby, index) = Standby::join(interface)?;
        let number = index.unsigned_abs();
        let open = || {
            let map = SocketMap::new(1)?;
            let text = text::tap(&map, None, None, None);
            let program = bpf::attach(&Program::load(&text, &text)?, number, Hook::Native)?;
            let binding = Binding { zero_copy: false, fragments: false };
            let mut socket = Socket::new(memory, options.entries, None)?;
            socket.bind(number, 0, binding, None)?;
            let count = socket.wanted() as usize;
            socket.fill(loans.into_iter().take(count).map(Loan::into_offset));
            map.insert(0, 0, socket.as_fd())?;
            let frame = !(u64::from(memory.frame_size()) - 1);
            Ok(Self { socket, _program: program, _map: map, _standby: standby, frame })
        };
        open().map_err(|cause| OpenError::System {
            interface: interface.to_owned(),
            what: "bare AF_XDP socket",
            cause,
        })
    }

    /// Waits at most `timeout` for packets and gives their frames back to the kernel; how many they were.
    ///
    /// # Errors
    /// When the interface has gone away.
    pub fn turn(&mut self, timeout: Duration) -> std::io::Result<u32> {
        let mut count = self.socket.waiting();
        if count == 0 {
            socket::wait(&self.socket, timeout)?;
            count = self.socket.waiting();
        }
        self.socket.recycle(count, self.frame);
        Ok(count)
    }
}
