//! A stream made of a socket and a codec.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::flow::unless_blocked;

/// Bytes of one read of the socket.
const READ: usize = 23_168;
/// Payload that is sealed into one burst.
const BURST: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Buffers of the thread: a session owns only what the socket or the reader did not take.
#[derive(Default)]
struct Scratch {
    received: Vec<u8>,
    opened: Vec<u8>,
    sealed: Vec<u8>,
}

/// How a codec wants its bytes to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes of one write.
    pub segment: usize,
    /// Pause after it.
    pub pause: Duration,
}

/// What turns payload into the bytes of a connection and back.
pub trait Codec {
    /// Takes `bytes` of the peer and appends the payload they complete to `out`.
    ///
    /// # Errors
    /// When the stream is broken; payload before that place is in `out`.
    fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()>;

    /// Appends a burst with `data` to `out`.
    ///
    /// # Errors
    /// When nothing can be sent any more.
    fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()>;

    /// How the next bytes are sent; `None`: a burst in one write, without a pause.
    fn pace(&mut self) -> Option<Pace> {
        None
    }
}

/// A socket whose bytes go through a codec.
pub struct Sealed<C> {
    socket: TcpStream,
    codec: C,
    /// Opened, and not yet read.
    opened: Vec<u8>,
    read: usize,
    /// Sealed, and not yet taken by the socket.
    sealed: Vec<u8>,
    written: usize,
    pause: Option<Pin<Box<Sleep>>>,
    failed: Option<io::ErrorKind>,
}

impl<C: Codec> Sealed<C> {
    /// A stream over `socket`; `opened` is payload that came with the handshake.
    pub fn new(socket: TcpStream, codec: C, opened: Vec<u8>) -> Self {
        Self {
            socket,
            codec,
            opened,
            read: 0,
            sealed: Vec::new(),
            written: 0,
            pause: None,
            failed: None,
        }
    }

    /// The socket below.
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The codec.
    pub const fn codec(&self) -> &C {
        &self.codec
    }

    /// Hands out what was opened before.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let n = buf.remaining().min(self.opened.len() - self.read);
        buf.put_slice(&self.opened[self.read..self.read + n]);
        self.read += n;
        if self.read == self.opened.len() {
            (self.opened, self.read) = (Vec::new(), 0);
        }
    }

    /// Reads the socket once; true when payload or the end is in `buf`.
    fn receive(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.received.resize(READ, 0);
            let Some(n) = unless_blocked(self.socket.try_read(&mut scratch.received))? else {
                return Ok(false);
            };
            if n == 0 {
                return Ok(true);
            }
            scratch.opened.clear();
            if let Err(error) = self.codec.open(&scratch.received[..n], &mut scratch.opened) {
                self.failed = Some(error.kind());
                if scratch.opened.is_empty() {
                    return Err(error);
                }
            }
            let taken = buf.remaining().min(scratch.opened.len());
            buf.put_slice(&scratch.opened[..taken]);
            if taken < scratch.opened.len() {
                self.opened = scratch.opened[taken..].to_vec();
                self.read = 0;
            }
            Ok(taken > 0)
        })
    }

    /// Hands sealed bytes to the socket.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.sealed.len() {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            ready!(self.socket.poll_write_ready(cx))?;
            let rest = &self.sealed[self.written..];
            let pace = self.codec.pace();
            let next = pace.map_or(rest, |pace| &rest[..rest.len().min(pace.segment)]);
            if let Some(n) = unless_blocked(self.socket.try_write(next))? {
                self.written += n;
                let pause = pace.map(|pace| pace.pause).filter(|pause| !pause.is_zero());
                self.pause = pause.map(|pause| Box::pin(sleep_until(Instant::now() + pause)));
            }
        }
        (self.sealed, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Seals `data` and hands the burst to the socket in one write; what it refuses is kept.
    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        if self.codec.pace().is_some() {
            return self.codec.seal(data, &mut self.sealed);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.sealed.clear();
            self.codec.seal(data, &mut scratch.sealed)?;
            let taken = unless_blocked(self.socket.try_write(&scratch.sealed))?.unwrap_or(0);
            self.sealed.extend_from_slice(&scratch.sealed[taken..]);
            Ok(())
        })
    }
}

impl<C: Codec + Unpin> AsyncRead for Sealed<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.opened.is_empty() {
            this.deliver(buf);
            return Poll::Ready(Ok(()));
        }
        if let Some(kind) = this.failed {
            return Poll::Ready(Err(kind.into()));
        }
        loop {
            ready!(this.socket.poll_read_ready(cx))?;
            let before = buf.filled().len();
            if this.receive(buf)? || buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<C: Codec + Unpin> AsyncWrite for Sealed<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_sealed(cx))?;
        let data = &data[..data.len().min(BURST)];
        this.send(data)?;
        // What is left is sent as soon as it can be, whether or not the caller flushes.
        if let Poll::Ready(Err(error)) = this.poll_sealed(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sealed(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sealed(cx))?;
        Poll::Ready(socket2::SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write))
    }
}

impl<C> fmt::Debug for Sealed<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").finish_non_exhaustive()
    }
}
