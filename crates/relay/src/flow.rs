//! One direction of a relay.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::pace::Pace;
use crate::pipe::{self, Pipe};
use crate::watermark::Mark;
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
    /// Where the source's low-water mark stands.
    mark: Mark,
    /// Of a direction that is spliced.
    pace: Option<Box<Pace>>,
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
            mark: Mark::Byte,
            pace: None,
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
            let ready = sink.poll_write_ready(cx);
            if ready.is_pending() && !self.source_ended {
                // Nothing can be done with what the source sends meanwhile, and it stays where it
                // would have stayed anyway. A mark that cannot be raised only costs wake-ups.
                let _ = self.mark.set(source, Mark::Window);
            }
            ready!(ready).map_err(|e| (Side::Sink, e))?;
            self.splice_out(sink)?;
        }
        if self.source_ended {
            return Poll::Ready(Ok(()));
        }
        if self.moved < COPY_FIRST || self.mode == Mode::Copy {
            ready!(source.poll_read_ready(cx)).map_err(|e| (Side::Source, e))?;
            self.copy(source, sink)?;
        } else {
            let reported = ready!(self.poll_source(source, cx)).map_err(|e| (Side::Source, e))?;
            self.splice_in(source, reported).map_err(|e| (Side::Source, e))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the source has to be looked at: because the runtime reports it, or because its mark
    /// has kept it from being reported.
    fn poll_source(&mut self, source: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.mark == Mark::Window {
            return Poll::Ready(Ok(false));
        }
        match (source.poll_read_ready(cx)?, &mut self.pace) {
            (Poll::Pending, Some(pace)) if self.mark == Mark::Batch => {
                ready!(pace.poll_pause(cx));
                Poll::Ready(Ok(false))
            }
            (ready, _) => ready.map(|()| Ok(true)),
        }
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
    fn splice_in(&mut self, source: &TcpStream, reported: bool) -> io::Result<()> {
        let pipe = match Pipe::take() {
            Ok(pipe) => pipe,
            // Out of descriptors: this direction goes on by copying.
            Err(_) => {
                self.mode = Mode::Copy;
                return self.mark.set(source, Mark::Byte);
            }
        };
        let fill =
            || Ok(splice(source, None, &pipe.write, None, pipe::SIZE, SpliceFlags::NONBLOCK)?);
        // What a source that gathers is left with is not worth another look, even if it has grown by
        // now: the rest of a batch is on its way.
        let gathers = self.mark == Mark::Batch;
        let filled = if reported {
            let mut filled = None;
            let looked = source.try_io(Interest::READABLE, || {
                let n = fill()?;
                filled = Some(n);
                // What was reported is used up.
                if gathers { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
            });
            unless_blocked(looked)?.or(filled)
        } else {
            unless_blocked(fill())?
        };
        match filled {
            Some(0) => self.source_ended = true,
            Some(n) => {
                self.pipe = Some((pipe, n));
                return if gathers { self.await_source(source) } else { Ok(()) };
            }
            None => self.await_source(source)?,
        }
        pipe.give_back();
        Ok(())
    }

    /// Lets a source that has nothing more wake the relay again, with a batch if it is fast.
    fn await_source(&mut self, source: &TcpStream) -> io::Result<()> {
        let pace = self.pace.get_or_insert_with(|| Box::new(Pace::new(self.moved)));
        if pace.drained(self.moved) && self.mark.set(source, Mark::Batch).is_ok() {
            return Ok(());
        }
        self.mark.set(source, Mark::Byte)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Far longer than anything here takes.
    const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// Whether the kernel calls `socket` readable.
    fn is_readable(socket: &TcpStream) -> bool {
        let mut asked = [PollFd::new(socket, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec::default())).unwrap() > 0
    }

    #[tokio::test]
    async fn a_source_wakes_nobody_while_its_sink_takes_no_more_and_loses_no_time_after() {
        let (mut covert, source) = pair().await;
        let (mut client, sink) = pair().await;
        let mut flow = Flow::new(Vec::new(), Mode::Auto);
        flow.moved = COPY_FIRST;
        let mut sent = 0;
        while flow.mark != Mark::Window {
            while let Ok(n) = sink.try_write(&[7; 10_000]) {
                sent += n;
            }
            covert.write_all(&[7; 100]).await.unwrap();
            sent += 100;
            let polled = poll_fn(|cx| Poll::Ready(flow.poll(&source, &sink, cx))).await;
            assert!(polled.is_pending());
            // Lets the runtime look at the sockets.
            tokio::task::yield_now().await;
        }
        // As after a batch: the runtime waits for the kernel's word, which the mark keeps back.
        let used_up =
            source.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        assert!(used_up.is_err());
        covert.write_all(&[7; 1000]).await.unwrap();
        sent += 1000;
        let buffer_size = || socket2::SockRef::from(&source).recv_buffer_size().unwrap();
        let before = buffer_size();
        let mut first = [std::mem::MaybeUninit::uninit()];
        while socket2::SockRef::from(&source).peek(&mut first).is_err() {
            tokio::task::yield_now().await;
        }
        assert!(!is_readable(&source), "the mark is not raised");
        assert_eq!(buffer_size(), before);

        let relayed =
            tokio::spawn(async move { poll_fn(|cx| flow.poll(&source, &sink, cx)).await });
        let mut received = vec![0; sent];
        let all = tokio::time::timeout(LIMIT, client.read_exact(&mut received)).await;
        all.expect("what came below the mark is left where it is").unwrap();
        assert!(received == vec![7; sent]);
        // A sender that pauses is heard byte by byte.
        for byte in 0..20 {
            covert.write_all(&[byte]).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), byte);
        }
        drop(covert);
        assert_eq!(client.read(&mut received).await.unwrap(), 0);
        assert_eq!(relayed.await.unwrap(), End::Finished);
    }

    /// A direction whose source gathers.
    fn gathering(source: &TcpStream) -> Flow {
        let mut flow = Flow::new(Vec::new(), Mode::Auto);
        let mut pace = Pace::new(0);
        flow.moved = 1 << 20;
        assert!(pace.drained(flow.moved));
        flow.pace = Some(Box::new(pace));
        flow.mark.set(source, Mark::Batch).unwrap();
        flow
    }

    #[tokio::test]
    async fn a_source_that_gathers_does_not_hold_back_what_a_pausing_sender_sent() {
        let (mut covert, source) = pair().await;
        let (mut client, sink) = pair().await;
        let mut flow = gathering(&source);
        covert.write_all(b"x").await.unwrap();
        assert!(!is_readable(&source), "the mark is not raised");
        let relayed =
            tokio::spawn(async move { poll_fn(|cx| flow.poll(&source, &sink, cx)).await });
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        for byte in 0..20 {
            covert.write_all(&[byte]).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), byte);
        }
        drop(covert);
        assert_eq!(relayed.await.unwrap(), End::Finished);
    }

    #[tokio::test]
    async fn a_batch_makes_a_source_that_gathers_readable() {
        let (covert, source) = pair().await;
        let _flow = gathering(&source);
        let half = socket2::SockRef::from(&source).recv_buffer_size().unwrap() / 2;
        let mut sent = 0;
        while !is_readable(&source) {
            covert.writable().await.unwrap();
            sent += covert.try_write(&[9; 1000]).unwrap_or(0);
            assert!(sent <= half, "{sent} bytes are no batch");
        }
    }

    #[tokio::test]
    async fn the_end_of_a_source_is_seen_whatever_its_mark_is() {
        let (covert, source) = pair().await;
        let mut mark = Mark::Byte;
        mark.set(&source, Mark::Window).unwrap();
        assert!(source.try_read(&mut [0; 1]).is_err());
        drop(covert);
        source.readable().await.unwrap();
        assert!(is_readable(&source));
    }

    #[tokio::test]
    async fn lowering_the_mark_reports_what_waits_already() {
        let (mut covert, source) = pair().await;
        let mut mark = Mark::Byte;
        mark.set(&source, Mark::Window).unwrap();
        // From now on the runtime waits for the kernel's word.
        assert!(source.try_read(&mut [0; 1]).is_err());
        covert.write_all(b"x").await.unwrap();
        assert!(!is_readable(&source));
        mark.set(&source, Mark::Byte).unwrap();
        source.readable().await.unwrap();
        assert_eq!(source.try_read(&mut [0; 1]).unwrap(), 1);
    }
}
