//! A relay whose client is no plain socket.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::flow::{End, Side, unless_blocked, with_buffer};
use crate::{ErrorClass, Polled, Report, StallLimits, Traffic, watch};

/// Reads per poll, after which other tasks get their turn.
const STEPS: usize = 8;

/// Relays as [`relay`](crate::relay) does, between a covert and a client whose transport wraps what
/// it carries. Nothing is spliced; an idle session owns no buffer here. The covert's socket is
/// closed when the report is returned, what becomes of the client is the caller's decision.
pub async fn relay_wrapped<C: AsyncRead + AsyncWrite + Unpin>(
    client: &mut C,
    covert: TcpStream,
    limits: StallLimits,
    traffic: &Traffic,
) -> Report {
    let (mut up, mut down) = (Up::default(), Down::default());
    watch(limits, traffic, |cx| Polled {
        up: up.poll(client, &covert, cx),
        down: down.poll(&covert, client, cx),
        moved: (up.moved, down.moved),
    })
    .await
}

/// From the client to the covert.
#[derive(Debug, Default)]
struct Up {
    moved: u64,
    pending: Vec<u8>,
    written: usize,
    source_ended: bool,
    end: Option<End>,
}

impl Up {
    fn poll<C: AsyncRead + Unpin>(
        &mut self,
        client: &mut C,
        covert: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        if let Some(end) = self.end {
            return Poll::Ready(end);
        }
        for _ in 0..STEPS {
            if let Err((side, error)) = ready!(self.step(client, covert, cx)) {
                let end = End::Failed(side, ErrorClass::from(&error));
                return Poll::Ready(*self.end.insert(end));
            }
            if self.source_ended && self.pending.is_empty() {
                // A covert that is gone already needs no farewell.
                let _ = socket2::SockRef::from(covert).shutdown(Shutdown::Write);
                return Poll::Ready(*self.end.insert(End::Finished));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step<C: AsyncRead + Unpin>(
        &mut self,
        client: &mut C,
        covert: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        while !self.pending.is_empty() {
            ready!(covert.poll_write_ready(cx)).map_err(|e| (Side::Sink, e))?;
            let rest = &self.pending[self.written..];
            if let Some(n) = unless_blocked(covert.try_write(rest)).map_err(|e| (Side::Sink, e))? {
                self.moved += n as u64;
                self.written += n;
                if self.written == self.pending.len() {
                    (self.pending, self.written) = (Vec::new(), 0);
                }
            }
        }
        with_buffer(|buffer| {
            let mut read = ReadBuf::new(buffer);
            let result = ready!(Pin::new(client).poll_read(cx, &mut read));
            result.map_err(|e| (Side::Source, e))?;
            let bytes = read.filled();
            if bytes.is_empty() {
                self.source_ended = true;
                return Poll::Ready(Ok(()));
            }
            let taken = unless_blocked(covert.try_write(bytes)).map_err(|e| (Side::Sink, e))?;
            let taken = taken.unwrap_or(0);
            self.moved += taken as u64;
            self.pending.extend_from_slice(&bytes[taken..]);
            Poll::Ready(Ok(()))
        })
    }
}

/// From the covert to the client.
#[derive(Debug, Default)]
struct Down {
    moved: u64,
    /// Read, and not yet taken by the client's transport.
    pending: Vec<u8>,
    taken: usize,
    /// The transport may hold bytes that the client's socket has not taken.
    unflushed: bool,
    source_ended: bool,
    end: Option<End>,
}

impl Down {
    fn poll<C: AsyncWrite + Unpin>(
        &mut self,
        covert: &TcpStream,
        client: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        if let Some(end) = self.end {
            return Poll::Ready(end);
        }
        for _ in 0..STEPS {
            if let Err((side, error)) = ready!(self.step(covert, client, cx)) {
                let end = End::Failed(side, ErrorClass::from(&error));
                return Poll::Ready(*self.end.insert(end));
            }
            if self.source_ended && self.pending.is_empty() {
                // A client that is gone already needs no farewell.
                let _ = ready!(Pin::new(&mut *client).poll_shutdown(cx));
                return Poll::Ready(*self.end.insert(End::Finished));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step<C: AsyncWrite + Unpin>(
        &mut self,
        covert: &TcpStream,
        client: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        while !self.pending.is_empty() {
            let rest = &self.pending[self.taken..];
            let result = ready!(Pin::new(&mut *client).poll_write(cx, rest));
            self.take(result.map_err(|e| (Side::Sink, e))?);
        }
        if self.unflushed {
            let flushed = ready!(Pin::new(&mut *client).poll_flush(cx));
            flushed.map_err(|e| (Side::Sink, e))?;
            self.unflushed = false;
        }
        if self.source_ended {
            return Poll::Ready(Ok(()));
        }
        ready!(covert.poll_read_ready(cx)).map_err(|e| (Side::Source, e))?;
        with_buffer(|buffer| {
            let Some(n) = unless_blocked(covert.try_read(buffer)).map_err(|e| (Side::Source, e))?
            else {
                return Poll::Ready(Ok(()));
            };
            if n == 0 {
                self.source_ended = true;
                return Poll::Ready(Ok(()));
            }
            self.unflushed = true;
            match Pin::new(&mut *client).poll_write(cx, &buffer[..n]) {
                Poll::Ready(Ok(taken)) => {
                    self.moved += taken as u64;
                    self.pending.extend_from_slice(&buffer[taken..n]);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err((Side::Sink, error))),
                Poll::Pending => self.pending.extend_from_slice(&buffer[..n]),
            }
            Poll::Ready(Ok(()))
        })
    }

    fn take(&mut self, n: usize) {
        self.moved += n as u64;
        self.taken += n;
        if self.taken == self.pending.len() {
            (self.pending, self.taken) = (Vec::new(), 0);
        }
    }
}
