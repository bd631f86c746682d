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
pub fn steer_to_first(listener: &TcpListener) -> io::Result<()> {
    // A program of one step, whose result is the number of the listener.
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut steps = [libc::sock_filter { code, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: steps.as_mut_ptr() };
    set(listener, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Spreads connections over the group of `listener` again. Without an earlier [`steer_to_first`]
/// nothing happens.
///
/// # Errors
/// When the kernel refuses.
pub fn spread(listener: &TcpListener) -> io::Result<()> {
    // The kernel wants a number, and does not look at it.
    set(listener, libc::SO_DETACH_REUSEPORT_BPF, &0i32).or_else(|error| {
        match error.raw_os_error() {
            // There is no program, or no group yet.
            Some(libc::ENOENT | libc::EINVAL) => Ok(()),
            _ => Err(error),
        }
    })
}

#[allow(unsafe_code)]
fn set<T>(listener: &TcpListener, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the socket is open while it is borrowed; the kernel only reads `value`, and what it refers to,
    // which live until the call returns.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
