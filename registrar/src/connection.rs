//! Time limits of an HTTP connection: for a head, for a pause between requests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Time for the head of a request, from its first byte.
pub(crate) const HEAD: Duration = Duration::from_secs(10);
/// Time for the body of a request.
pub(crate) const BODY: Duration = Duration::from_secs(10);
/// Time without a request, also for reading the last reply.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle(Instant),
    Head(Instant),
    Busy,
}

/// Where a connection is between its requests.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Arc<Mutex<Phase>>);

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::Idle(Instant::now()))))
    }

    /// A request's head is complete.
    pub(crate) fn request(&self) {
        *self.0.lock() = Phase::Busy;
    }

    /// A request is being answered.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(*self.0.lock(), Phase::Busy)
    }

    /// The reply to it is made.
    pub(crate) fn replied(&self) {
        *self.0.lock() = Phase::Idle(Instant::now());
    }

    fn received(&self) {
        let mut phase = self.0.lock();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Returns when a limit has passed.
    pub(crate) async fn expired(&self) {
        loop {
            let phase = *self.0.lock();
            let deadline = match phase {
                Phase::Idle(since) => since + IDLE,
                Phase::Head(since) => since + HEAD,
                // The body has a limit of its own; look again later.
                Phase::Busy => Instant::now() + HEAD,
            };
            if deadline <= Instant::now() {
                return;
            }
            // A head may begin during a long pause and has the shorter limit.
            tokio::time::sleep_until(deadline.min(Instant::now() + HEAD)).await;
        }
    }
}

/// A socket that tells its [`Pace`] when something arrives.
#[derive(Debug)]
pub(crate) struct PacedStream {
    pub(crate) stream: TcpStream,
    pub(crate) pace: Pace,
}

impl AsyncRead for PacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pace.received();
        }
        poll
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn limits_for_pause_and_head_and_none_while_busy() {
        let pace = Pace::new();
        let start = Instant::now();
        pace.expired().await;
        assert!((IDLE..IDLE + HEAD).contains(&start.elapsed()));

        pace.replied();
        pace.received();
        let start = Instant::now();
        pace.expired().await;
        assert!((HEAD..HEAD * 2).contains(&start.elapsed()));

        pace.request();
        let waited = tokio::time::timeout(IDLE * 5, pace.expired()).await;
        assert!(waited.is_err(), "a request in progress is not cut here");
    }
}
