//! One direction of a relay.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::pipe::{self, Pipe};
use crate::{ErrorClass, Mode};

/// Bytes of a direction that are copied before it is spliced.
const COPY_FIRST: u64 = 64 * 1024;
/// Size of the copy buffer, one per thread.
const BUFFER: usize = 32 * 1024;
/// Reads per poll, after which other tasks get their turn.
const STEPS: usize = 32;

thread_local! {
    static COPY_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Lends the thread's copy buffer.
pub(crate) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    COPY_BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// Which end of a direction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Sink,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Source => Self::Sink,
            Self::Sink => Self::Source,
        }
    }
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The source ended, everything was written and the end was passed on.
    Finished,
    /// One of the sockets failed.
    Failed(Side, ErrorClass),
}

/// One direction: what was read but not written, and how far it is.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Bytes written to the sink.
    pub(crate) moved: u64,
    mode: Mode,
    /// Read and not yet written; empty and without capacity most of the time.
    pending: Vec<u8>,
    written: usize,
    /// Borrowed while bytes are in it.
    pipe: Option<(Pipe, usize)>,
    source_ended: bool,
    end: Option<End>,
}

impl Flow {
    pub(crate) const fn new(first: Vec<u8>, mode: Mode) -> Self {
        Self {
            moved: 0,
            mode,
            pending: first,
            written: 0,
            pipe: None,
            source_ended: false,
            end: None,
        }
    }

    /// Moves what can be moved; ready when this direction has ended.
    pub(crate) fn poll(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        if let Some(end) = self.end {
            return Poll::Ready(end);
        }
        for _ in 0..STEPS {
            if let Err((side, error)) = ready!(self.step(source, sink, cx)) {
                return self.finish(End::Failed(side, ErrorClass::from(&error)));
            }
            if self.source_ended && !self.has_pending() {
                // A sink that is gone already needs no farewell.
                let _ = socket2::SockRef::from(sink).shutdown(Shutdown::Write);
                return self.finish(End::Finished);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish(&mut self, end: End) -> Poll<End> {
        self.end = Some(end);
        Poll::Ready(end)
    }

    const fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.pipe.is_some()
    }

    /// Empties what is pending, then reads once.
    fn step(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        while !self.pending.is_empty() {
            ready!(sink.poll_write_ready(cx)).map_err(|e| (Side::Sink, e))?;
            self.write_pending(sink)?;
        }
        while self.pipe.is_some() {
            ready!(sink.poll_write_ready(cx)).map_err(|e| (Side::Sink, e))?;
            self.splice_out(sink)?;
        }
        if !self.source_ended {
            ready!(source.poll_read_ready(cx)).map_err(|e| (Side::Source, e))?;
            if self.moved < COPY_FIRST || self.mode == Mode::Copy {
                self.copy(source, sink)?;
            } else {
                self.splice_in(source)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the thread's buffer and writes at once; only what the sink refuses is kept.
    fn copy(&mut self, source: &TcpStream, sink: &TcpStream) -> Result<(), (Side, io::Error)> {
        with_buffer(|buffer| {
            let Some(n) = unless_blocked(source.try_read(buffer)).map_err(|e| (Side::Source, e))?
            else {
                return Ok(());
            };
            if n == 0 {
                self.source_ended = true;
                return Ok(());
            }
            let taken =
                unless_blocked(sink.try_write(&buffer[..n])).map_err(|e| (Side::Sink, e))?;
            let taken = taken.unwrap_or(0);
            self.moved += taken as u64;
            if taken < n {
                self.pending = buffer[taken..n].to_vec();
                self.written = 0;
            }
            Ok(())
        })
    }

    fn write_pending(&mut self, sink: &TcpStream) -> Result<(), (Side, io::Error)> {
        let rest = &self.pending[self.written..];
        if let Some(n) = unless_blocked(sink.try_write(rest)).map_err(|e| (Side::Sink, e))? {
            self.moved += n as u64;
            self.written += n;
            if self.written == self.pending.len() {
                self.pending = Vec::new();
                self.written = 0;
            }
        }
        Ok(())
    }

    /// Fills an empty pipe. Blocking can only be the source's: the pipe is empty.
    fn splice_in(&mut self, source: &TcpStream) -> Result<(), (Side, io::Error)> {
        let pipe = match Pipe::take() {
            Ok(pipe) => pipe,
            // Out of descriptors: this direction goes on by copying.
            Err(_) => {
                self.mode = Mode::Copy;
                return Ok(());
            }
        };
        let moved = source.try_io(Interest::READABLE, || {
            Ok(splice(source, None, &pipe.write, None, pipe::SIZE, SpliceFlags::NONBLOCK)?)
        });
        match unless_blocked(moved) {
            Ok(Some(0)) => {
                self.source_ended = true;
                pipe.give_back();
                Ok(())
            }
            Ok(Some(n)) => {
                self.pipe = Some((pipe, n));
                Ok(())
            }
            Ok(None) => {
                pipe.give_back();
                Ok(())
            }
            Err(error) => Err((Side::Source, error)),
        }
    }

    /// Empties the pipe. Blocking can only be the sink's: the pipe is not empty.
    fn splice_out(&mut self, sink: &TcpStream) -> Result<(), (Side, io::Error)> {
        let Some((pipe, left)) = &mut self.pipe else { return Ok(()) };
        let moved = sink.try_io(Interest::WRITABLE, || {
            Ok(splice(&pipe.read, None, sink, None, *left, SpliceFlags::NONBLOCK)?)
        });
        if let Some(n) = unless_blocked(moved).map_err(|e| (Side::Sink, e))? {
            self.moved += n as u64;
            *left -= n;
            if *left == 0
                && let Some((pipe, _)) = self.pipe.take()
            {
                pipe.give_back();
            }
        }
        Ok(())
    }
}

/// `None` when the operation would block.
pub(crate) fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}
