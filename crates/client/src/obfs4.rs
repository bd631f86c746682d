//! The client's side of obfs4 on a socket (`spec/transports.md` 7).

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay::{Pace, Sealed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transports::obfs4::{Client, ClientError, ClientIdentity, MAX_SEGMENT, Progress};

/// An open tunnel on its socket.
pub type Stream = Sealed<Tunnel>;

/// The client's end of an open tunnel.
#[derive(Debug)]
pub struct Tunnel(Box<Client>);

impl relay::Codec for Tunnel {
    fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.0.receive(bytes, &mut rand::rng(), out).map(drop).map_err(broken)
    }

    fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.0.send(data, &mut rand::rng(), out).map_err(broken)
    }

    /// Released clients send a burst segment by segment (7.7).
    fn pace(&mut self) -> Option<Pace> {
        Some(Pace { segment: MAX_SEGMENT, pause: self.0.pause(&mut rand::rng()) })
    }
}

/// Makes the handshake with the station that holds `identity`.
pub(crate) async fn open(mut socket: TcpStream, identity: &ClientIdentity) -> io::Result<Stream> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (mut client, hello) = Client::start(identity.clone(), now, &mut rand::rng());
    socket.write_all(&hello).await?;
    let (mut buffer, mut opened) = (vec![0; 8192], Vec::new());
    loop {
        let n = socket.read(&mut buffer).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let progress = client.receive(&buffer[..n], &mut rand::rng(), &mut opened);
        if progress.map_err(broken)? == Progress::Open {
            return Ok(Sealed::new(socket, Tunnel(Box::new(client)), opened));
        }
    }
}

fn broken(error: ClientError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
