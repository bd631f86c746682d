//! A [`Connection`] joined to a socket.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::connection::{Connection, ProtocolError, Settings};
use crate::curve::Curve;
use crate::endpoint::Stream;

/// Bytes asked for in one read.
const READ_SIZE: usize = 8 * 1024;
/// A peer that lets more than this wait for it is not read from, so its `PING` cost nothing.
const MAX_UNWRITTEN: usize = 512 * 1024;
/// Time for the last words to a peer that is refused.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
}

/// A connection and its socket.
pub(crate) struct Link {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    pub(crate) connection: Connection,
}

impl Link {
    pub(crate) fn new(stream: Stream, settings: Settings, curve: Option<Curve>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, connection: Connection::secured(settings, curve, Instant::now()) }
    }

    /// Bytes that wait to be written.
    pub(crate) fn unwritten(&mut self) -> usize {
        self.connection.output().len()
    }

    /// Reads, writes, or does what is due, whichever comes first. Safe to cancel.
    pub(crate) async fn turn(&mut self) -> Result<(), LinkError> {
        let deadline = self.connection.deadline();
        let (input, output) = self.connection.buffers();
        let expired = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = read(&mut self.reader, input), if output.len() < MAX_UNWRITTEN => {
                let end = match read {
                    Ok(0) => Some(LinkError::Closed),
                    Err(error) => Some(error.into()),
                    Ok(_) => None,
                };
                if let Some(end) = end {
                    return Err(self.connection.closed().map_or(end, LinkError::Protocol));
                }
                self.connection.received(Instant::now())?;
            }
            written = self.writer.write(output), if !output.is_empty() => {
                let written = written?;
                output.advance(written);
            }
            () = expired => self.connection.expire(Instant::now())?,
        }
        Ok(())
    }

    /// Writes what the peer is to be told before the connection is closed, such as the reason.
    pub(crate) async fn last_words(&mut self) {
        let words = self.connection.output().split();
        // A peer that does not listen does not need to know.
        let _ = tokio::time::timeout(LAST_WORDS, self.writer.write_all(&words)).await;
        self.shutdown().await;
    }

    /// Ends the sending direction in order.
    pub(crate) async fn shutdown(&mut self) {
        // The peer may be gone already, which is what is wanted.
        let _ = self.writer.shutdown().await;
    }
}

async fn read(reader: &mut ReadHalf<Stream>, input: &mut BytesMut) -> io::Result<usize> {
    input.reserve(READ_SIZE);
    reader.read_buf(input).await
}
