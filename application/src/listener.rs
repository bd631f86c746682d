//! Accepting phantom connections (`spec/application.md` 11.1 to 11.3).

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use telemetry::log::Logger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use crate::throttle::Throttle;
use crate::{Station, connection};

/// Port of phantom connections.
pub const PORT: u16 = 41245;

/// Pause after an accept that failed, e.g. for lack of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Listens on `address`, both families when it is the IPv6 wildcard.
///
/// # Errors
/// When the socket cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bound(address, false)
}

/// Listens on `address` together with the listeners that are there, all of which have `SO_REUSEPORT`.
///
/// # Errors
/// When the socket cannot be bound; also where a listener belongs to another user.
pub fn join(address: SocketAddr) -> io::Result<TcpListener> {
    bound(address, true)
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(somaxconn())?;
    Ok(socket.into())
}

/// The wildcard of both families at [`PORT`].
pub fn default_address() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT)
}

/// Longest accept queue that the host allows.
fn somaxconn() -> i32 {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(4096)
}

/// Sets what Go sets on every socket: no delay, keepalive 15 s, 15 s, 9 probes. It is visible to
/// clients and censors, and it finds vanished peers.
///
/// # Errors
/// When the socket is gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(15))
        .with_retries(9);
    socket.set_tcp_keepalive(&keepalive)
}

/// Where the client wanted to go: the destination before DNAT, or, without DNAT, the address that
/// the connection arrived at (transparent sockets, and connections to the station itself, which
/// are treated as those to a phantom nobody registered).
///
/// # Errors
/// When the socket is gone already.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let found = socket.original_dst_v4().or_else(|_| socket.original_dst_v6());
    match found.ok().and_then(|address| address.as_socket()) {
        Some(address) => Ok(SocketAddr::new(address.ip().to_canonical(), address.port())),
        None => {
            let local = stream.local_addr()?;
            Ok(SocketAddr::new(local.ip().to_canonical(), local.port()))
        }
    }
}

/// Accepts for ever, from a listener that does not block. Beyond the bound of sessions a connection waits
/// in the kernel's queue, where it looks like any other connection to a busy host.
pub async fn accept(listener: TcpListener, station: Arc<Station>) {
    let log = Logger::new("[REG] ");
    // The function is deprecated because it trusts any value to keep its descriptor open; a listener does.
    #[allow(deprecated)]
    let listener = match AsyncFd::with_interest(listener, Interest::READABLE) {
        Ok(listener) => listener,
        Err(error) => return log.error(format_args!("a listener accepts nothing: {error}")),
    };
    let throttle = Throttle::default();
    // It fails only where the runtime ends.
    while let Ok(mut ready) = listener.readable().await {
        // After the wait: a listener to which nobody comes takes no place from the others.
        let Ok(permit) = station.sessions.enter().await else { return };
        let error = match ready.try_io(|listener| take(listener.get_ref())) {
            // Another thread was first.
            Err(_would_block) => continue,
            Ok(Ok((stream, peer))) => {
                let station = Arc::clone(&station);
                tokio::spawn(async move {
                    connection::serve(stream, peer, station).await;
                    drop(permit);
                });
                continue;
            }
            Ok(Err(error)) => error,
        };
        let errors = &station.pipeline.stats.connections.accept_errors;
        errors.fetch_add(1, Ordering::Relaxed);
        match throttle.take(Instant::now()) {
            Some(0) => log.error(format_args!("[ERROR] failed to AcceptTCP: {error}")),
            Some(n) => {
                log.error(format_args!("[ERROR] failed to AcceptTCP: {error} ({n} more before)"));
            }
            None => {}
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// The next connection that waits.
fn take(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let stream = TcpStream::from_std(socket.into())?;
    let peer = peer.map_or_else(|| stream.peer_addr(), Ok)?;
    Ok((stream, peer))
}
