//! Connecting to a phantom.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::obfs4;
use crate::register::{Opening, Session};
use crate::stream::Stream;

/// Limit of an obfs4 handshake (`spec/transports.md` 7.7).
const OBFS4_HANDSHAKE: Duration = Duration::from_secs(60);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The session has no phantom for the wanted families.
    #[error("the registration brought no phantom for the wanted families")]
    NoPhantom,
    /// No phantom answered.
    #[error("{phantom} does not answer: {cause}")]
    Dial {
        /// The last one that was tried.
        phantom: SocketAddr,
        /// Why it failed.
        cause: io::Error,
    },
    /// The station's public key is of low order.
    #[error("the station key of the ClientConf is of low order; ask for a newer file")]
    StationKey,
    /// The connection broke while it was opened.
    #[error("{phantom}: {cause}")]
    Opening {
        /// The phantom.
        phantom: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// A connection whose next bytes are the covert's.
#[derive(Debug)]
pub struct Connection {
    /// The stream, behind the transport's opening.
    pub stream: Stream,
    /// The phantom that answered.
    pub phantom: SocketAddr,
}

impl Session {
    /// Opens a connection through one of the phantoms.
    ///
    /// # Errors
    /// When no phantom answers in time.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        match &self.opening {
            Opening::Dtls(dtls) => dtls.connect(self.v4, self.v6, self.dial_attempts).await,
            _ => self.connect_tcp().await,
        }
    }

    /// Dials the phantoms of both families at once and keeps the first that opens; the other is
    /// closed without a byte. Writes the transport's opening.
    async fn connect_tcp(&self) -> Result<Connection, ConnectError> {
        let mut result = Err(ConnectError::NoPhantom);
        for _ in 0..self.dial_attempts.max(1) {
            result = self.race().await;
            if !matches!(result, Err(ConnectError::Dial { .. })) {
                break;
            }
        }
        let (mut socket, phantom) = result?;
        let stream = match &self.opening {
            Opening::Min(secret) => {
                write(&mut socket, phantom, &transports::min::opening(secret)).await?;
                Stream::Plain(socket)
            }
            Opening::Prefix { secret, station_key, bytes, flush } => {
                let writes = transports::prefix::opening(
                    bytes,
                    *flush,
                    secret,
                    station_key,
                    &mut rand::rng(),
                )
                .map_err(|_| ConnectError::StationKey)?;
                for bytes in writes {
                    write(&mut socket, phantom, &bytes).await?;
                }
                Stream::Plain(socket)
            }
            Opening::Obfs4(identity) => {
                let opened = timeout(OBFS4_HANDSHAKE, obfs4::open(socket, identity)).await;
                let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                Stream::Obfs4(opened.map_err(|cause| ConnectError::Opening { phantom, cause })?)
            }
            // Is no matter of TCP.
            Opening::Dtls(_) => return Err(ConnectError::NoPhantom),
        };
        Ok(Connection { stream, phantom })
    }

    async fn race(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        match (self.v4, self.v6) {
            (None, None) => Err(ConnectError::NoPhantom),
            (Some(one), None) | (None, Some(one)) => self.dial(one).await,
            (Some(v4), Some(v6)) => {
                let (first, second) = (self.dial(v4), self.dial(v6));
                tokio::pin!(first, second);
                tokio::select! {
                    won = &mut first => match won { Ok(won) => Ok(won), Err(_) => second.await },
                    won = &mut second => match won { Ok(won) => Ok(won), Err(_) => first.await },
                }
            }
        }
    }

    async fn dial(&self, phantom: SocketAddr) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let dialled = timeout(self.dial_timeout, TcpStream::connect(phantom)).await;
        let stream = dialled
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|cause| ConnectError::Dial { phantom, cause })?;
        // A socket that cannot be set is about to fail anyway.
        let _ = stream.set_nodelay(true);
        Ok((stream, phantom))
    }
}

async fn write(
    socket: &mut TcpStream,
    phantom: SocketAddr,
    bytes: &[u8],
) -> Result<(), ConnectError> {
    socket.write_all(bytes).await.map_err(|cause| ConnectError::Opening { phantom, cause })
}
