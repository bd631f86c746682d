//! Endpoints in libzmq's notation, and the sockets behind them.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

const BACKLOG: u32 = 100;

/// Where a publisher listens or a subscriber connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `tcp://HOST:PORT`; the host may be `*` (all IPv4 addresses) or an interface when binding.
    Tcp {
        /// Name, address (IPv6 without brackets), interface or `*`.
        host: String,
        /// TCP port; 0 or `*` lets the kernel choose when binding.
        port: u16,
    },
    /// `ipc://PATH`.
    Path(PathBuf),
    /// `ipc://@NAME`: the Linux abstract socket whose address is a zero byte and `NAME`.
    Abstract(String),
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is not a ZeroMQ endpoint: {problem}; expected tcp://HOST:PORT, ipc://PATH or ipc://@NAME"
)]
pub struct EndpointError {
    found: String,
    problem: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |problem| EndpointError { found: text.to_owned(), problem };
        if let Some(rest) = text.strip_prefix("tcp://") {
            let (host, port) = rest.rsplit_once(':').ok_or_else(|| error("no port"))?;
            let port = if port == "*" {
                0
            } else {
                port.parse().map_err(|_| error("the port is not a number up to 65535"))?
            };
            let host = match host.strip_prefix('[') {
                Some(inner) => inner.strip_suffix(']').ok_or_else(|| error("unclosed bracket"))?,
                None => host,
            };
            if host.is_empty() {
                return Err(error("no host"));
            }
            return Ok(Self::Tcp { host: host.to_owned(), port });
        }
        let rest = text.strip_prefix("ipc://").ok_or_else(|| error("unknown scheme"))?;
        // sun_path has 108 bytes, of which one is the leading or trailing zero.
        match rest.strip_prefix('@') {
            _ if rest.len() > 107 => Err(error("the name is longer than 107 bytes")),
            Some("") => Err(error("no name")),
            Some(name) => Ok(Self::Abstract(name.to_owned())),
            None if rest.is_empty() => Err(error("no path")),
            None => Ok(Self::Path(PathBuf::from(rest))),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Path(path) => write!(f, "ipc://{}", path.display()),
            Self::Abstract(name) => write!(f, "ipc://@{name}"),
        }
    }
}

impl Endpoint {
    /// Opens a listening socket here. Returns it with the endpoint it really has (a chosen port).
    pub(crate) async fn bind(&self) -> io::Result<(Listener, Self)> {
        match self {
            Self::Tcp { host, port } => {
                let address = SocketAddr::new(bind_address(host).await?, *port);
                let socket =
                    if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.set_reuseaddr(true)?;
                socket.bind(address)?;
                let listener = socket.listen(BACKLOG)?;
                let bound = listener.local_addr()?;
                let endpoint = Self::Tcp { host: host.clone(), port: bound.port() };
                Ok((Listener::Tcp(listener), endpoint))
            }
            Self::Path(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                        remove_stale(path).await?;
                        UnixListener::bind(path)?
                    }
                    other => other?,
                };
                Ok((Listener::Unix(listener), self.clone()))
            }
            Self::Abstract(name) => {
                Ok((Listener::Unix(UnixListener::bind(abstract_path(name))?), self.clone()))
            }
        }
    }

    /// Takes a socket that listens here already, as another process passed it on.
    pub(crate) fn adopt(&self, descriptor: OwnedFd) -> io::Result<(Listener, Self)> {
        match self {
            Self::Tcp { host, .. } => {
                let listener = std::net::TcpListener::from(descriptor);
                listener.set_nonblocking(true)?;
                let port = listener.local_addr()?.port();
                let endpoint = Self::Tcp { host: host.clone(), port };
                Ok((Listener::Tcp(TcpListener::from_std(listener)?), endpoint))
            }
            Self::Path(_) | Self::Abstract(_) => {
                let listener = std::os::unix::net::UnixListener::from(descriptor);
                listener.set_nonblocking(true)?;
                Ok((Listener::Unix(UnixListener::from_std(listener)?), self.clone()))
            }
        }
    }

    /// Connects to this endpoint.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                prepare(&stream);
                Ok(Stream::Tcp(stream))
            }
            Self::Path(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Self::Abstract(name) => {
                Ok(Stream::Unix(UnixStream::connect(abstract_path(name)).await?))
            }
        }
    }
}

/// The leading zero byte makes the address abstract; its length covers exactly the name.
fn abstract_path(name: &str) -> PathBuf {
    let mut bytes = vec![0];
    bytes.extend_from_slice(name.as_bytes());
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// Removes the socket file of a process that is gone; a live one keeps the address.
async fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !tokio::fs::symlink_metadata(path).await?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is not a socket"));
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tokio::fs::remove_file(path).await
        }
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

async fn bind_address(host: &str) -> io::Result<IpAddr> {
    if host == "*" {
        return Ok(Ipv4Addr::UNSPECIFIED.into());
    }
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let interface =
        if_addrs::get_if_addrs()?.into_iter().find(|i| i.name == host && i.ip().is_ipv4());
    if let Some(interface) = interface {
        return Ok(interface.ip());
    }
    let resolved = tokio::net::lookup_host((host, 0)).await?.next();
    resolved.map(|a| a.ip()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::AddrNotAvailable, "no such address, interface or host")
    })
}

/// A peer that acknowledges nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(120);

fn prepare(stream: &TcpStream) {
    // Latency matters for a registration, and a peer that lost power must not stay for ever.
    // Both are improvements only: a kernel that refuses them still carries the connection.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(SILENCE));
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// Waits for a connection. Returns it with a text for the peer's address.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                prepare(&stream);
                Ok((Stream::Tcp(stream), address.to_string()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|c| c.pid());
                let name = pid.map_or_else(|| "local".to_owned(), |pid| format!("pid {pid}"));
                Ok((Stream::Unix(stream), name))
            }
        }
    }
}

/// A connected socket of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_every_form() {
        for text in [
            "tcp://127.0.0.1:5591",
            "tcp://*:5591",
            "tcp://[::1]:9",
            "ipc:///run/x",
            "ipc://@detector",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        let any = Endpoint::Tcp { host: "*".to_owned(), port: 0 };
        assert_eq!("tcp://*:*".parse(), Ok(any));
    }

    #[test]
    fn names_what_is_wrong() {
        for (text, problem) in [
            ("udp://1:2", "unknown scheme"),
            ("tcp://host", "no port"),
            ("tcp://host:65536", "the port is not a number up to 65535"),
            ("tcp://:1", "no host"),
            ("ipc://@", "no name"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap_err().problem, problem, "{text}");
        }
    }
}
