//! Listeners that share a port (`SO_REUSEPORT`). The kernel picks one of them for each connection that
//! begins, by a hash of its addresses, and what waits at one of them never comes to another.

use std::io;
use std::mem::size_of;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

/// Sends every connection that begins from now on to the first listener of the group of `listener`, so
/// that the others run empty and can be closed without harm. Connections whose handshake is under way stay
/// where they are.
///
/// # Errors
/// When the kernel refuses: `listener` is in no group.
#[allow(unsafe_code)]
pub fn steer_to_first(listener: &TcpListener) -> io::Result<()> {
    // A program of one step, whose result is the number of the listener.
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut steps = [libc::sock_filter { code, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: steps.as_mut_ptr() };
    // SAFETY: the socket is open while it is borrowed; the kernel reads the program and its one step,
    // which live until the call returns.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Spreads connections over the group of `listener` again. Without an earlier [`steer_to_first`]
/// nothing happens.
///
/// # Errors
/// When the kernel refuses.
#[allow(unsafe_code)]
pub fn spread(listener: &TcpListener) -> io::Result<()> {
    let unused = 0i32;
    // SAFETY: the socket is open while it is borrowed, and the kernel reads the four bytes of `unused`.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            (&raw const unused).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // There is no program, or no group yet.
            error if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            error => Err(error),
        },
    }
}
