//! The client's side of the DTLS transport (`spec/transports.md` 8.5).
//!
//! Before it registers, a client opens a socket per family and asks a STUN server how others see it:
//! those addresses go into the registration, and the station dials them. At the same time the client
//! dials the phantom from a socket of its own. The first session that opens is the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dtls::Config;
use endpoint::{Answer, Endpoint, Hello, Limits, Listener};
use keys::SharedSecret;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use transports::dtls::{Ended, OPENING_LIMIT, Party};

use crate::connect::{ConnectError, Connection};
use crate::register::Client;
use crate::stream::Stream;
use crate::stun::{self, ClientAddress};

/// STUN server of released clients for this transport.
const STUN_SERVER: &str = "stun.l.google.com:19302";
/// Sessions that one socket of a client has at most.
const LIMITS: Limits = Limits { sessions: 16, openings: 4 };

/// No socket can be opened.
#[derive(Debug, thiserror::Error)]
#[error("no UDP socket for DTLS: {0}")]
pub struct DoorsError(#[from] io::Error);

/// Where a client can be reached, by family.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sources {
    pub(crate) v4: Option<SocketAddr>,
    pub(crate) v6: Option<SocketAddr>,
}

/// The sockets at which the station may knock.
#[derive(Debug)]
pub(crate) struct Doors {
    v4: Option<Door>,
    v6: Option<Door>,
}

#[derive(Debug)]
struct Door {
    endpoint: Endpoint,
    /// How the station sees it.
    source: Option<SocketAddr>,
}

impl Doors {
    /// Opens a socket for each wanted family and learns how others see it.
    pub(crate) async fn open(client: &Client) -> Result<Self, DoorsError> {
        let families = client.options.families;
        let address = &client.options.address;
        let v4 = async {
            if families.v4 {
                Door::open(Ipv4Addr::UNSPECIFIED.into(), address).await
            } else {
                Ok(None)
            }
        };
        let v6 = async {
            if families.v6 {
                Door::open(Ipv6Addr::UNSPECIFIED.into(), address).await
            } else {
                Ok(None)
            }
        };
        let (v4, v6) = tokio::join!(v4, v6);
        match (v4, v6) {
            // A host may lack one family.
            (Err(error), Err(_) | Ok(None)) | (Ok(None), Err(error)) => Err(error.into()),
            (v4, v6) => Ok(Self { v4: v4.unwrap_or(None), v6: v6.unwrap_or(None) }),
        }
    }

    pub(crate) fn sources(&self) -> Sources {
        let source = |door: &Option<Door>| door.as_ref().and_then(|door| door.source);
        Sources { v4: source(&self.v4), v6: source(&self.v6) }
    }

    /// Serves the registration of `secret` from now on.
    pub(crate) fn behind(self, secret: &SharedSecret) -> Opening {
        let (send, opened) = mpsc::channel(LIMITS.openings);
        let tag = keys::dtls::client_hello_random(secret);
        let doors = [self.v4, self.v6].map(|door| door.map(|door| door.endpoint));
        for endpoint in doors.iter().flatten() {
            let served = Served { secret: secret.clone(), tag, opened: send.clone() };
            endpoint.listen(Arc::new(served));
        }
        let [v4, v6] = doors;
        Opening { secret: secret.clone(), v4, v6, opened: tokio::sync::Mutex::new(opened) }
    }
}

impl Door {
    async fn open(any: IpAddr, address: &ClientAddress) -> io::Result<Option<Self>> {
        let socket = UdpSocket::bind((any, 0)).await?;
        let port = socket.local_addr()?.port();
        let source = match address {
            ClientAddress::Known(ip) => Some(SocketAddr::new(*ip, port)),
            ClientAddress::Stun(server) => {
                let server = server.as_deref().unwrap_or(STUN_SERVER);
                // Without an answer the station cannot dial, and the client still can.
                let found = tokio::net::lookup_host(server).await.ok();
                match found.and_then(|mut all| all.find(|s| s.is_ipv4() == any.is_ipv4())) {
                    Some(server) => stun::mapped(&socket, server).await,
                    None => None,
                }
            }
        };
        let source = source.filter(|source| source.is_ipv4() == any.is_ipv4());
        let endpoint = Endpoint::from_socket(socket.into_std()?, LIMITS)?;
        Ok(Some(Self { endpoint, source }))
    }
}

/// Serves what the station dials.
struct Served {
    secret: SharedSecret,
    tag: [u8; 28],
    opened: mpsc::Sender<endpoint::Stream>,
}

impl Listener for Served {
    fn hello(&self, hello: &Hello<'_>) -> Option<Answer> {
        let opened = self.opened.clone();
        (*hello.random.tag() == self.tag).then(|| Answer {
            config: Config::server(&self.secret, unix_time()),
            party: Party::Client,
            opened: Box::new(move |result| {
                // One too many, or one whose handshake failed, is nobody's loss.
                if let Ok(stream) = result {
                    drop(opened.try_send(stream));
                }
            }),
        })
    }
}

/// What sessions begin with.
#[derive(Debug)]
pub(crate) struct Opening {
    secret: SharedSecret,
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    opened: tokio::sync::Mutex<mpsc::Receiver<endpoint::Stream>>,
}

impl Opening {
    /// Dials the phantoms and waits for the station's dials; the first session wins.
    pub(crate) async fn connect(
        &self,
        v4: Option<SocketAddr>,
        v6: Option<SocketAddr>,
        attempts: usize,
    ) -> Result<Connection, ConnectError> {
        let phantoms: Vec<_> = [(v4, &self.v4), (v6, &self.v6)]
            .into_iter()
            .filter_map(|(phantom, door)| Some((phantom?, door.as_ref())))
            .collect();
        let Some(&(last, _)) = phantoms.last() else { return Err(ConnectError::NoPhantom) };
        for (phantom, door) in &phantoms {
            // It opens the client's NAT, and firewalls that look at the first packet.
            if let Some(door) = door {
                door.send(*phantom, None, &[]);
            }
        }
        let dials = async {
            let mut why = Ended::NoStream;
            for _ in 0..attempts.max(1) {
                match self.dial_all(v4, v6).await {
                    Ok(won) => return Ok(won),
                    Err(error) => why = error,
                }
            }
            Err(why)
        };
        let knocks = async {
            let mut opened = self.opened.lock().await;
            loop {
                match opened.recv().await {
                    // One of an earlier connection may have been left here, and have ended.
                    Some(stream) if stream.ended().is_none() => return stream,
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            }
        };
        tokio::pin!(dials, knocks);
        let error = tokio::select! {
            stream = &mut knocks => return Ok(connection(stream)),
            dialled = &mut dials => match dialled {
                Ok(stream) => return Ok(connection(stream)),
                Err(why) => why,
            },
        };
        let cause = io::Error::new(io::ErrorKind::TimedOut, error);
        Err(ConnectError::Dial { phantom: last, cause })
    }

    /// Dials both phantoms from sockets of their own.
    async fn dial_all(
        &self,
        v4: Option<SocketAddr>,
        v6: Option<SocketAddr>,
    ) -> Result<endpoint::Stream, Ended> {
        match (v4, v6) {
            (None, None) => Err(Ended::NoStream),
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

    async fn dial(&self, phantom: SocketAddr) -> Result<endpoint::Stream, Ended> {
        let any: IpAddr = match phantom {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let endpoint = Endpoint::bind(SocketAddr::new(any, 0), LIMITS).map_err(|_| Ended::Local)?;
        endpoint.send(phantom, None, &[]);
        let config = Config::client(&self.secret, hello_time());
        let dialled = timeout(OPENING_LIMIT, endpoint.dial(phantom, None, Party::Client, config));
        dialled.await.unwrap_or(Err(Ended::NoStream))
    }
}

fn connection(stream: endpoint::Stream) -> Connection {
    let phantom = stream.peer();
    Connection { stream: Stream::Dtls(stream), phantom }
}

/// Seconds since 1970.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// The time in a hello. Stations take a random that they have seen for a replay, so no two hellos of
/// this process have the same.
fn hello_time() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = unix_time();
    let next = |last: u64| Some(now.max(last + 1));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .map_or(now, |last| now.max(last + 1))
}
