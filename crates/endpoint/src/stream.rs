//! The byte stream of an open session.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use transports::dtls::Ended;

use crate::link::Link;

/// A tunnel's byte stream. The session ends when it is dropped; what was written and not delivered
/// is lost then, so a writer shuts down first.
pub struct Stream {
    link: Arc<Link>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses of clients are nobody's business.
        f.write_str("Stream")
    }
}

impl Stream {
    pub(crate) const fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// Address of the peer; IPv4 is not written as IPv6.
    pub fn peer(&self) -> SocketAddr {
        self.link.path.peer
    }

    /// Address at which the peer's datagrams arrive, if known.
    pub fn local(&self) -> Option<IpAddr> {
        self.link.path.local
    }

    /// Waits until there are bytes to read, true, or none will come any more, false.
    pub async fn readable(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            let state = &mut *self.link.state.lock();
            if !state.session.readable().is_empty() {
                return Poll::Ready(true);
            }
            if state.session.is_read_to_end() {
                return Poll::Ready(false);
            }
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Why the session has ended; `None` while it has not.
    pub fn ended(&self) -> Option<Ended> {
        self.link.state.lock().session.ended()
    }

    /// Bytes that the session holds for its reader and for the network.
    pub fn held(&self) -> usize {
        self.link.state.lock().session.held()
    }

    /// Heartbeats that were heard.
    pub fn heartbeats(&self) -> u64 {
        self.link.state.lock().session.heartbeats()
    }
}

/// The error for a session that did not end in order.
fn error(why: Ended) -> io::Error {
    let kind = match why {
        Ended::Sctp(sctp::End::Lost | sctp::End::NoAnswer) => io::ErrorKind::TimedOut,
        Ended::Sctp(_) | Ended::Dtls(_) => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, why)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let link = &self.link;
        let state = &mut *link.state.lock();
        let before = buf.remaining();
        while buf.remaining() > 0 {
            let bytes = state.session.readable();
            if bytes.is_empty() {
                break;
            }
            let n = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..n]);
            state.session.consume(n);
        }
        if buf.remaining() < before {
            // The peer may wait for the window.
            link.transmit(state, Instant::now());
            return Poll::Ready(Ok(()));
        }
        if before == 0 || state.session.is_read_to_end() {
            return Poll::Ready(match state.session.ended() {
                Some(why) if !why.is_orderly() => Err(error(why)),
                _ => Ok(()),
            });
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let link = &self.link;
        let state = &mut *link.state.lock();
        if let Some(why) = state.session.ended() {
            return Poll::Ready(Err(error(why)));
        }
        let n = state.session.write(bytes);
        if n > 0 || bytes.is_empty() {
            link.transmit(state, Instant::now());
            return Poll::Ready(Ok(n));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Everything written is on its way already.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends this direction and waits until all of it has arrived.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = &self.link;
        let state = &mut *link.state.lock();
        state.session.finish();
        link.transmit(state, Instant::now());
        if state.session.is_delivered() {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let now = Instant::now();
        let state = &mut *self.link.state.lock();
        state.session.close(now);
        self.link.transmit(state, now);
        self.link.wake.notify_one();
    }
}
