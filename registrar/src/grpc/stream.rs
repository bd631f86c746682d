//! Connections of gRPC clients: plain or TLS, and cut when they are silent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Time for the first byte, and for the TLS handshake.
pub(super) const FIRST: Duration = Duration::from_secs(10);
/// Time without a byte; clients answer the keep-alive of [`super::KEEP_ALIVE`], so only dead or
/// mute ones reach it.
const SILENCE: Duration = Duration::from_secs(60);

/// Address of the other end, as requests carry it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The bytes of a connection.
#[derive(Debug)]
pub(super) enum Bytes {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection.
#[derive(Debug)]
pub(super) struct GrpcStream {
    bytes: Bytes,
    peer: Peer,
    deadline: Pin<Box<Sleep>>,
    /// Its place among all connections.
    _place: OwnedSemaphorePermit,
}

impl GrpcStream {
    pub(super) fn new(bytes: Bytes, peer: SocketAddr, place: OwnedSemaphorePermit) -> Self {
        let deadline = Box::pin(tokio::time::sleep(FIRST));
        Self { bytes, peer: Peer(peer), deadline, _place: place }
    }
}

impl Connected for GrpcStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for GrpcStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Bytes::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        };
        if poll.is_ready() {
            self.deadline.as_mut().reset(Instant::now() + SILENCE);
        } else if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll
    }
}

impl AsyncWrite for GrpcStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Bytes::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Bytes::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Bytes::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
