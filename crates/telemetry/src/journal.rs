//! The native protocol of the systemd journal: one datagram per entry, a field per line.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where the journal listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// Connects to the journal. It never makes a writer wait: what it does not take is for the stream.
pub(crate) fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Encodes an entry: `NAME=value` and a newline, or for values of several lines the name, a newline,
/// the length in eight bytes, little end first, the value and a newline.
pub(crate) fn entry(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            out.push(b'\n');
            out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            out.push(b'=');
        }
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_several_lines_carry_their_length() {
        assert_eq!(
            entry(&[("PRIORITY", "3"), ("CONJURE_CORE", "0")]),
            b"PRIORITY=3\nCONJURE_CORE=0\n"
        );
        assert_eq!(entry(&[("MESSAGE", "one\ntwo=2")]), b"MESSAGE\n\x09\0\0\0\0\0\0\0one\ntwo=2\n");
    }
}
