//! The least that reading an interface through `AF_PACKET` takes: what measurements compare with.

use std::io;
use std::mem;
use std::ptr;
use std::time::Duration;

use super::{AfPacket, FRAME};
use crate::OpenError;

/// Buffers that are used in turn.
const BUFFERS: usize = 1024;

/// An interface, read by a loop that copies each frame to a buffer of its own and looks at none.
#[derive(Debug)]
pub struct BarePacket {
    source: AfPacket,
    buffers: Vec<[u8; FRAME]>,
    next: usize,
}

impl BarePacket {
    /// Opens the interface.
    ///
    /// # Errors
    /// As [`AfPacket::open`].
    pub fn open(interface: &str) -> Result<Self, OpenError> {
        let source = AfPacket::open(interface)?;
        Ok(Self { source, buffers: vec![[0; FRAME]; BUFFERS], next: 0 })
    }

    /// Waits at most `timeout` for a block and copies its frames; how many they were.
    ///
    /// # Errors
    /// When the interface has gone away.
    pub fn turn(&mut self, timeout: Duration) -> io::Result<u32> {
        let source = &mut self.source;
        if !source.take_block() {
            source.wait(timeout)?;
            if !source.take_block() {
                return Ok(0);
            }
        }
        let (count, mut offset) = (source.left, source.offset);
        for _ in 0..count {
            let size = mem::size_of::<libc::tpacket3_hdr>();
            let Some(bytes) = source.ring.bytes(source.block, offset, size) else { break };
            // SAFETY: `bytes` is as long as the header, whose fields may have any value; the read does not
            // need alignment.
            let header =
                unsafe { ptr::read_unaligned(bytes.as_ptr().cast::<libc::tpacket3_hdr>()) };
            let start = offset + usize::from(header.tp_mac);
            let len = (header.tp_snaplen as usize).min(FRAME);
            let Some(data) = source.ring.bytes(source.block, start, len) else { break };
            self.buffers[self.next % BUFFERS][..len].copy_from_slice(data);
            self.next += 1;
            offset += header.tp_next_offset as usize;
        }
        source.return_block();
        Ok(count)
    }
}
