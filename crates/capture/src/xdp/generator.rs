//! Frames that the kernel makes, for measurements and tests (`spec/ingest.md` 16.2): faster than any
//! program can send.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::bpf::{self, Attached, Hook, Memory, Program};
use super::text;
use crate::OpenError;
use crate::afpacket::index_of;

/// Sends one frame over and over by a network interface.
#[derive(Debug)]
pub struct Generator {
    program: OwnedFd,
    frame: Vec<u8>,
}

impl Generator {
    /// Will send `frame` by `interface`, `group` times at once in every `period`, at most two seconds. When the
    /// interface is an end of a veth pair, the other end drops the frames unless an XDP program is on it: that
    /// of a source, or a [`PassThrough`].
    ///
    /// # Errors
    /// When the interface does not exist or the process may not do this.
    pub fn new(
        interface: &str,
        frame: Vec<u8>,
        group: u16,
        period: Duration,
    ) -> Result<Self, OpenError> {
        let period = i32::try_from(period.as_nanos()).unwrap_or(i32::MAX).max(1);
        let number = number_of(interface)?;
        let load = || {
            let memory = Memory::new(text::PACE)?;
            bpf::load(&text::paced(&memory, number, group.into(), period), 0)
        };
        let program = load().map_err(|cause| failed(interface, cause))?;
        Ok(Self { program, frame })
    }

    /// Sends on the processor of the calling thread, which does nothing else, until the process gets a signal
    /// or some minutes are over. The receive queue of a veth pair is the processor's number modulo their number.
    ///
    /// # Errors
    /// When the kernel cannot, e.g. before Linux 5.18, and at the signal.
    pub fn run(&self) -> std::io::Result<()> {
        bpf::run(self.program.as_fd(), &self.frame, u32::MAX, true).map(drop)
    }
}

/// Lets the end of a veth pair take the frames of a [`Generator`] into the host, as long as it lives.
#[derive(Debug)]
pub struct PassThrough(
    #[expect(dead_code, reason = "keeps the program on the interface")] Attached,
);

impl PassThrough {
    /// Opens `interface`.
    ///
    /// # Errors
    /// When it does not exist, has a program, or the process may not do this.
    pub fn new(interface: &str) -> Result<Self, OpenError> {
        let (text, number) = (text::pass(), number_of(interface)?);
        let program = Program::load(&text, &text);
        let attached = program.and_then(|program| bpf::attach(&program, number, Hook::Native));
        attached.map(Self).map_err(|cause| failed(interface, cause))
    }
}

fn number_of(interface: &str) -> Result<u32, OpenError> {
    let name = std::ffi::CString::new(interface).ok();
    let index = name.and_then(|name| index_of(&name)).map(i32::unsigned_abs);
    index.ok_or_else(|| OpenError::NoInterface { interface: interface.to_owned() })
}

fn failed(interface: &str, cause: std::io::Error) -> OpenError {
    OpenError::System { interface: interface.to_owned(), what: "XDP program", cause }
}
