//! Accepting phantom connections (`spec/application.md` 11.1 to 11.3).

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use telemetry::log::Logger;
use tokio::net::{TcpListener, TcpStream};

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
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(somaxconn())?;
    TcpListener::from_std(socket.into())
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

/// Accepts for ever. Beyond the bound of sessions a connection waits in the kernel's queue, where
/// it looks like any other connection to a busy host.
pub async fn accept(listener: TcpListener, station: Arc<Station>) {
    let log = Logger::new("[REG] ");
    loop {
        let Ok(permit) = station.sessions.enter().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let station = Arc::clone(&station);
                tokio::spawn(async move {
                    connection::serve(stream, peer, station).await;
                    drop(permit);
                });
            }
            Err(error) => {
                let errors = &station.pipeline.stats.connections.accept_errors;
                errors.fetch_add(1, Ordering::Relaxed);
                log.error(format_args!("[ERROR] failed to AcceptTCP: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
