//! The byte stream of a connection, whatever its transport.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::obfs4;

/// A stream whose bytes are the covert's.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP (Min, Prefix).
    Plain(TcpStream),
    /// An open obfs4 tunnel.
    Obfs4(obfs4::Stream),
    /// An open DTLS session.
    Dtls(endpoint::Stream),
}

impl Stream {
    /// The socket, of a transport that adds nothing to it.
    pub fn into_plain(self) -> Option<TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Obfs4(_) | Self::Dtls(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Obfs4(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Dtls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Obfs4(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Dtls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Obfs4(stream) => Pin::new(stream).poll_flush(cx),
            Self::Dtls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Obfs4(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Dtls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
