//! Obfs4 on sockets (`spec/transports.md` 7).

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use relay::Sealed;
use tokio::net::TcpStream;
use tokio::time::timeout;
use transports::obfs4::{Drain, Drained, Failure, ReplayFilter, Server, ServerIdentity};

/// Independent filters, so that handshakes rarely wait for each other. An identity always comes to
/// the same one.
const FILTERS: usize = 16;
/// Handshakes that one filter remembers.
const REMEMBERED: usize = transports::obfs4::IN_ALL / FILTERS;

/// Handshakes that were accepted within the last hours.
#[derive(Debug)]
pub struct Replays([Mutex<ReplayFilter>; FILTERS]);

impl Default for Replays {
    fn default() -> Self {
        let per_identity = transports::obfs4::PER_IDENTITY;
        Self(std::array::from_fn(|_| {
            let filter = ReplayFilter::with_limits(per_identity, REMEMBERED, &mut rand::rng());
            Mutex::new(filter)
        }))
    }
}

impl Replays {
    /// Verifies `handshake`, whose tail has the mark of `identity`. Returns the tunnel, and the
    /// answer that opens it at the client, to be sent in one write.
    ///
    /// # Errors
    /// When the handshake is refused: nothing may be answered then.
    pub fn accept(
        &self,
        identity: &ServerIdentity,
        handshake: &[u8],
    ) -> Result<(Tunnel, Vec<u8>), Failure> {
        let filter = &self.0[usize::from(identity.shared().public()[0]) % FILTERS];
        Server::accept(identity, handshake, now(), &mut filter.lock(), &mut rand::rng())
            .map(|(server, reply)| (Tunnel { server: Box::new(server), drain: None }, reply))
            .map_err(|refused| refused.failure)
    }
}

/// The station's end of an open tunnel.
#[derive(Debug)]
pub struct Tunnel {
    server: Box<Server>,
    /// Set when the stream was tampered with.
    drain: Option<Drain>,
}

/// A client's connection with an open tunnel.
pub type Stream = Sealed<Tunnel>;

impl relay::Codec for Tunnel {
    fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.server.receive(bytes, now(), &mut rand::rng(), out).map_err(|refused| {
            self.drain = Some(refused.drain);
            io::Error::new(io::ErrorKind::InvalidData, refused.failure)
        })
    }

    fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let sent = self.server.send(data, &mut rand::rng(), out);
        sent.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Keeps a connection open whose stream was tampered with: what it sends is thrown away until a
/// threshold that only the station knows, as with a handshake that failed. Returns at once for any
/// other connection.
pub async fn drain(stream: &Stream) {
    let Some(mut drain) = stream.codec().drain.clone() else { return };
    let socket = stream.socket();
    loop {
        let left = drain.deadline().saturating_sub(now());
        let count = match timeout(left, discard(socket)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(count)) => count,
            Err(_) => 0,
        };
        if drain.discard(count, now()) == Drained::Close {
            return;
        }
    }
}

/// Reads once and throws away.
async fn discard(socket: &TcpStream) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match socket.try_read(&mut [0; 1448]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Time since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
