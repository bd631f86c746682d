//! The low-water mark of a TCP socket (`SO_RCVLOWAT`): how many bytes must wait before the kernel
//! calls it readable. The end of the stream and errors make it readable whatever its mark is.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::AsRawFd;

use tokio::net::TcpStream;

use crate::pace::BATCH;

/// Where the mark of a socket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mark {
    /// Every byte is reported.
    #[default]
    Byte,
    /// [`BATCH`] bytes are, or half a receive window where that is less.
    Batch,
    /// All that the receive window can hold. Not more: for a higher mark the kernel would make the
    /// receive buffer larger.
    Window,
}

impl Mark {
    /// Moves the mark of `socket`, which stands at `self`. The kernel reports at once what waits
    /// already and is enough.
    ///
    /// # Errors
    /// When the kernel refuses; the mark stands where it stood.
    pub(crate) fn set(&mut self, socket: &TcpStream, to: Self) -> io::Result<()> {
        if *self != to {
            set(
                socket,
                match to {
                    Self::Byte => 1,
                    Self::Batch => (window(socket)? / 2).min(BATCH),
                    Self::Window => window(socket)?,
                },
            )?;
            *self = to;
        }
        Ok(())
    }
}

/// Bytes that the receive window of `socket` can grow to with its buffer as it is.
#[allow(unsafe_code)]
fn window(socket: &TcpStream) -> io::Result<i32> {
    // SAFETY: it is made of integers and bit fields of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the socket is open while it is borrowed, and the kernel writes at most `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(info.tcpi_rcv_ssthresh.try_into().unwrap_or(i32::MAX)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn set(socket: &TcpStream, mark: i32) -> io::Result<()> {
    // SAFETY: the socket is open while it is borrowed, and the kernel reads the four bytes of `mark`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const mark).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
