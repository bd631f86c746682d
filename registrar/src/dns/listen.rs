//! The two sockets of a DNS registrar.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

/// Receive buffer that is asked for; a burst of queries waits there.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Ports that are tried when any will do.
const ATTEMPTS: usize = 64;

/// Why the sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address makes no sense.
    #[error("dns_listen_addr: `{0}` is no ADDRESS:PORT such as [::]:53")]
    Address(String),
    /// A socket cannot be opened.
    #[error("dns_listen_addr: cannot listen on {protocol} {address}: {source}{}", remedy(.source))]
    Socket {
        /// UDP or TCP.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop the other DNS server (often systemd-resolved), or name one address"
        }
        io::ErrorKind::PermissionDenied => "; give the process CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// A UDP and a TCP socket on one port.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

impl Listeners {
    /// Opens both on `text`: an address and port, a name and port, or a port behind a colon.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open(text: &str) -> Result<Self, ListenError> {
        let address = resolve(text).ok_or_else(|| ListenError::Address(text.to_owned()))?;
        // A port that is free for UDP may be in use for TCP; with port 0 another one will do.
        let attempts = if address.port() == 0 { ATTEMPTS } else { 1 };
        let mut result = Self::pair(address);
        for _ in 1..attempts {
            match &result {
                Err(ListenError::Socket { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse =>
                {
                    result = Self::pair(address);
                }
                _ => break,
            }
        }
        result
    }

    /// Takes the two sockets of a predecessor, if they are what `text` asks for.
    pub fn adopt(text: &str, udp: OwnedFd, tcp: OwnedFd) -> Option<Self> {
        let address = resolve(text)?;
        let listeners = Self { udp: udp.into(), tcp: tcp.into() };
        let fits = |bound: SocketAddr| {
            bound == address || (address.port() == 0 && bound.ip() == address.ip())
        };
        let bound = [listeners.udp.local_addr().ok()?, listeners.tcp.local_addr().ok()?];
        bound.into_iter().all(fits).then_some(listeners)
    }

    fn pair(address: SocketAddr) -> Result<Self, ListenError> {
        let failed =
            |protocol, address| move |source| ListenError::Socket { protocol, address, source };
        let udp = bind(address, Type::DGRAM, Protocol::UDP)
            .map(UdpSocket::from)
            .map_err(failed("UDP", address))?;
        // With port 0, the port that UDP was given.
        let address = udp.local_addr().map_err(failed("UDP", address))?;
        let tcp = bind(address, Type::STREAM, Protocol::TCP)
            .and_then(|socket| {
                socket.listen(256)?;
                Ok(socket.into())
            })
            .map_err(failed("TCP", address))?;
        Ok(Self { udp, tcp })
    }

    /// Address of both.
    pub fn address(&self) -> Option<SocketAddr> {
        self.udp.local_addr().ok()
    }
}

fn resolve(text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        return Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.parse().ok()?));
    }
    text.to_socket_addrs().ok()?.next()
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    } else {
        // The system may grant less; then less waits.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_in_the_reference() {
        assert_eq!(resolve(":53"), Some("[::]:53".parse().unwrap()));
        assert_eq!(resolve("[::]:53"), Some("[::]:53".parse().unwrap()));
        assert_eq!(resolve("127.0.0.1:5353"), Some("127.0.0.1:5353".parse().unwrap()));
        for wrong in ["", "53", "[::]", ":x", "[::]:70000"] {
            assert_eq!(resolve(wrong), None, "{wrong}");
        }
    }
}
