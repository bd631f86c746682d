//! The UDP socket: batches of datagrams, with the local address of each.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Wanted size of the kernel's buffers, bytes; the host may allow less.
const KERNEL_BUFFER: usize = 4 << 20;
/// Bytes that one receive may fill: what generic receive offload puts together at most.
const RECEIVE: usize = 65_536;
/// Receives of one system call.
const BATCH: usize = 8;

/// A datagram socket that knows at which local address a datagram came in.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: UdpSocket,
    state: UdpSocketState,
    v6: bool,
}

/// Where datagrams come from and go to. IPv4 is never written as IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    pub(crate) peer: SocketAddr,
    /// Unknown until a datagram has come.
    pub(crate) local: Option<IpAddr>,
}

/// Memory for one batch.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH],
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BATCH * RECEIVE], meta: [RecvMeta::default(); BATCH] }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Socket {
    /// Binds to `address`, to both families when it is the IPv6 wildcard.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket =
            RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        Self::from_std(socket.into())
    }

    /// Takes a bound socket.
    pub(crate) fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        let v6 = socket.local_addr()?.is_ipv6();
        let socket = RawSocket::from(socket);
        socket.set_nonblocking(true)?;
        // What the host does not allow is less, not an error.
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        let state = UdpSocketState::new((&socket).into())?;
        // Paths with a small MTU get fragments, as from existing peers: SCTP's packets have one
        // length and there is no probing.
        if v6 {
            let _ =
                rustix::net::sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::WANT);
        }
        let _ = rustix::net::sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::WANT);
        let inner = UdpSocket::from_std(socket.into())?;
        Ok(Self { inner, state, v6 })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Waits for datagrams and gives each to `take` with the path it came by.
    pub(crate) async fn receive(
        &self,
        batch: &mut Batch,
        mut take: impl FnMut(Path, &mut [u8]),
    ) -> io::Result<()> {
        let n = loop {
            self.inner.readable().await?;
            let mut rest = &mut batch.bytes[..];
            let mut slices: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| {
                let (slice, behind) = std::mem::take(&mut rest).split_at_mut(RECEIVE);
                rest = behind;
                IoSliceMut::new(slice)
            });
            let received = self.inner.try_io(Interest::READABLE, || {
                self.state.recv((&self.inner).into(), &mut slices, &mut batch.meta)
            });
            match received {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        for (bytes, meta) in batch.bytes.chunks_exact_mut(RECEIVE).zip(&batch.meta).take(n) {
            let path = Path {
                peer: canonical(meta.addr),
                local: meta.dst_ip.map(|address| address.to_canonical()),
            };
            if meta.len == 0 {
                take(path, &mut []);
            }
            for datagram in bytes[..meta.len].chunks_mut(meta.stride.max(1)) {
                take(path, datagram);
            }
        }
        Ok(())
    }

    /// Datagrams that one send may hold.
    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends datagrams of `segment` bytes each, the last may be shorter. A datagram that the kernel
    /// refuses is lost; only [`io::ErrorKind::WouldBlock`] is an error.
    pub(crate) fn send(&self, path: Path, contents: &[u8], segment: usize) -> io::Result<()> {
        let single = contents.len() <= segment;
        match self.try_send(path, contents, (!single).then_some(segment)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // Perhaps this path takes no segments: one by one, then.
            Err(_) if !single => {
                for datagram in contents.chunks(segment) {
                    let sent = self.try_send(path, datagram, None);
                    if sent.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                        break;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn try_send(&self, path: Path, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let destination = match path.peer.ip() {
            IpAddr::V4(v4) if self.v6 => {
                SocketAddr::new(v4.to_ipv6_mapped().into(), path.peer.port())
            }
            _ => path.peer,
        };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: path.local,
        };
        self.inner
            .try_io(Interest::WRITABLE, || self.state.try_send((&self.inner).into(), &transmit))
    }

    /// Waits until the kernel may take datagrams again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.inner.writable().await
    }
}
