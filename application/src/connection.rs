//! One phantom connection until it is identified (`spec/application.md` 11.4 and 11.5).
//!
//! Whatever does not end in a tunnel looks the same from outside: the connection is accepted,
//! takes any amount of data, never answers, and is closed at a random deadline.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use relay::ErrorClass;
use telemetry::log::{Level, Logger, enabled};
use telemetry::privacy::ClientEndpoint;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use transports::obfs4::ClientIdentity;
use transports::{Found, Identification, Index, Registered, Transport, Verdict};

use crate::Station;
use crate::listener;
use crate::registration::{Identifier, Registration};
use crate::stats::connections::{Progress, State};
use crate::store::Store;
use crate::tunnel::{Client, Tunnel};

/// Bytes of one read.
const READ: usize = 4096;
/// Most bytes that are kept for identification; every transport has decided long before.
const MAX_RECEIVED: usize = 8191 + READ;
/// Range of the deadline in milliseconds, end excluded (`spec/application.md` 11.3).
pub const DEADLINE_MS: std::ops::Range<u64> = 5000..10_000;

thread_local! {
    static SCRATCH: RefCell<[u8; READ]> = const { RefCell::new([0; READ]) };
}

/// Serves one accepted connection to its end.
pub async fn serve(stream: TcpStream, peer: SocketAddr, station: Arc<Station>) {
    // Failing here means that the peer is gone already; nothing is left to answer.
    let Ok(phantom) = listener::original_destination(&stream) else { return };
    if listener::prepare(&stream).is_err() {
        return;
    }
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let origin = station.pipeline.policy.load().geoip.origin(peer.ip());
    let stats = Arc::clone(&station.pipeline.stats);
    let mut progress = stats.connections.begin(phantom.is_ipv6());
    let deadline = Duration::from_millis(rand::random_range(station.deadline_ms.clone()));
    let found = Waiting {
        stream,
        phantom,
        peer,
        station: &station,
        deadline,
        timer: Box::pin(sleep_until(Instant::now() + deadline)),
    }
    .identify(&mut progress)
    .await;
    let ended_in_error = progress.state() == State::Error;
    progress.finish(&origin);
    let Some((registration, client)) = found else {
        if ended_in_error {
            stats.connections.failed.count();
        }
        stats.connections.active.down();
        return;
    };
    station.pipeline.announcer.used(&registration);
    Tunnel { registration, peer, phantom }.run(client, &station).await;
    stats.connections.active.down();
}

/// A connection that is not identified yet.
struct Waiting<'a> {
    stream: TcpStream,
    phantom: SocketAddr,
    peer: SocketAddr,
    station: &'a Station,
    deadline: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Waiting<'_> {
    /// Reads until a transport claims the connection; the registration, and the stream of its
    /// client.
    async fn identify(
        mut self,
        progress: &mut Progress<'_>,
    ) -> Option<(Arc<Registration>, Client)> {
        let store = &self.station.pipeline.store;
        let count = store.count(self.phantom.ip());
        self.log(Level::Debug, format_args!("new connection ({count} potential registrations)"));
        if count == 0 {
            self.station.pipeline.stats.connections.missed.count();
            self.log(
                Level::Debug,
                format_args!(
                    "no possible registrations, reading for {:?} then dropping connection",
                    self.deadline
                ),
            );
            self.discard(progress).await;
            return None;
        }
        let mut identification = Identification::new();
        let mut received = Vec::new();
        loop {
            match self.read(Some(&mut received)).await {
                Read::Bytes(_) => progress.go(State::Checking),
                end => {
                    let undecided = progress.state() == State::Reading;
                    self.ended(progress, &end, undecided, received.len());
                    return None;
                }
            }
            self.log(Level::Trace, format_args!("read {} bytes so far", received.len()));
            let verdict = identification.offer(
                &received,
                &self.station.pipeline.policy.load().prefixes,
                &self.station.keys,
                &OnPhantom { store, phantom: self.phantom.ip() },
            );
            match verdict {
                Verdict::TryAgain if received.len() <= MAX_RECEIVED => progress.go(State::Reading),
                Verdict::Found(found) => match self.opened(&found, received).await {
                    Ok(client) => {
                        progress.go(State::Found);
                        found.registration.mark_used();
                        let client = client.on(self.stream);
                        return Some((found.registration, client));
                    }
                    Err(why) => return self.burnt(progress, found.transport, &why).await,
                },
                Verdict::Burnt(transport, why) => {
                    drop(received);
                    return self.burnt(progress, transport, &why).await;
                }
                Verdict::Exhausted | Verdict::TryAgain => {
                    self.log(
                        Level::Warn,
                        format_args!(
                            "ran out of possible transports, reading for {:?} then giving up",
                            self.deadline
                        ),
                    );
                    drop(received);
                    self.discard(progress).await;
                    return None;
                }
            }
        }
    }

    /// What the transport makes of the bytes it was found by: what is left of them, or the tunnel
    /// that an obfs4 handshake opens.
    async fn opened(
        &mut self,
        found: &Found<Arc<Registration>>,
        mut received: Vec<u8>,
    ) -> Result<Opened, String> {
        let identity = found.registration.obfs4();
        let Some(identity) = identity.filter(|_| found.transport == Transport::Obfs4) else {
            return Ok(Opened::Plain(received.split_off(found.consumed)));
        };
        let accepted = self.station.replays.accept(identity, &received);
        let (tunnel, reply) = accepted.map_err(|failure| failure.to_string())?;
        let mut rest = &reply[..];
        while !rest.is_empty() {
            let writable = tokio::select! {
                biased;
                () = &mut self.timer => return Err("the answer is not taken".to_owned()),
                writable = self.stream.writable() => writable,
            };
            match writable.and_then(|()| self.stream.try_write(rest)) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(ErrorClass::from(&e).to_string()),
            }
        }
        Ok(Opened::Obfs4(tunnel))
    }

    /// Discards what still comes on a connection that a transport gave up.
    async fn burnt<T>(
        &mut self,
        progress: &mut Progress<'_>,
        transport: Transport,
        why: &(dyn std::fmt::Display + Sync),
    ) -> Option<T> {
        self.log(
            Level::Warn,
            format_args!(
                "got unexpected error from transport {}, reading for {:?} then giving up: {why}",
                transport.station_name(),
                self.deadline
            ),
        );
        self.discard(progress).await;
        None
    }

    /// Reads and throws away until the connection ends or its deadline comes.
    async fn discard(&mut self, progress: &mut Progress<'_>) {
        progress.go(State::Discard);
        let mut discarded = 0;
        loop {
            match self.read(None).await {
                Read::Bytes(n) => discarded += n,
                end => {
                    self.ended(progress, &end, false, discarded);
                    return;
                }
            }
        }
    }

    /// Notes how the connection ended. At the deadline nothing is left unread, so that the close
    /// is a FIN and never a reset.
    fn ended(&self, progress: &mut Progress<'_>, end: &Read, undecided: bool, bytes: usize) {
        let (state, class) = match end {
            Read::Bytes(_) => return,
            Read::Deadline => {
                while matches!(self.read_now(None), Ok(n) if n > 0) {}
                (State::Timeout, ErrorClass::Timeout)
            }
            // Half a tag and then the end is an error, the end of silence is not.
            Read::End if undecided => (State::Error, ErrorClass::Closed),
            Read::End => (State::Closed, ErrorClass::Closed),
            Read::Failed(ErrorClass::Reset) => (State::Reset, ErrorClass::Reset),
            Read::Failed(class) => (State::Error, *class),
        };
        let discarding = progress.state() == State::Discard;
        progress.go(state);
        if discarding {
            if state != State::Closed {
                let text = format_args!("error occurred discarding data (read {bytes} B): {class}");
                self.log(Level::Error, text);
            }
        } else {
            let text = format_args!(
                "got error while reading from connection, giving up after {bytes} bytes: {class}"
            );
            self.log(Level::Error, text);
        }
    }

    /// Waits for bytes, the end or the deadline. Bytes are appended to `kept` or thrown away.
    async fn read(&mut self, mut kept: Option<&mut Vec<u8>>) -> Read {
        loop {
            let readable = tokio::select! {
                biased;
                () = &mut self.timer => return Read::Deadline,
                readable = self.stream.readable() => readable,
            };
            let read = readable.and_then(|()| self.read_now(kept.as_deref_mut()));
            match read {
                Ok(0) => return Read::End,
                Ok(n) => return Read::Bytes(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Read::Failed(ErrorClass::from(&e)),
            }
        }
    }

    fn read_now(&self, kept: Option<&mut Vec<u8>>) -> io::Result<usize> {
        SCRATCH.with_borrow_mut(|scratch| {
            let n = self.stream.try_read(scratch)?;
            if let Some(kept) = kept {
                kept.extend_from_slice(&scratch[..n]);
            }
            Ok(n)
        })
    }

    fn log(&self, level: Level, message: std::fmt::Arguments<'_>) {
        if enabled(level) {
            let (peer, phantom) = (ClientEndpoint(self.peer), self.phantom.ip());
            Logger::new(format!("[CONN] {peer} -> {phantom} ")).at(level, message);
        }
    }
}

/// What a transport made of the first bytes of its connection.
enum Opened {
    /// Bytes behind its tag.
    Plain(Vec<u8>),
    /// The open tunnel.
    Obfs4(crate::obfs4::Tunnel),
}

impl Opened {
    fn on(self, stream: TcpStream) -> Client {
        match self {
            Self::Plain(rest) => Client::Plain(stream, rest),
            Self::Obfs4(tunnel) => {
                Client::Obfs4(crate::obfs4::Stream::new(stream, tunnel, Vec::new()))
            }
        }
    }
}

/// The registrations of one phantom.
struct OnPhantom<'a> {
    store: &'a Store,
    phantom: IpAddr,
}

impl Index for OnPhantom<'_> {
    type Registration = Arc<Registration>;

    fn find(&self, tag: &[u8; 32]) -> Option<Registered<Arc<Registration>>> {
        let registration = self.store.find(self.phantom, &Identifier::from(tag))?;
        Some(Registered {
            transport: registration.transport,
            prefix_id: registration.prefix_id,
            registration,
        })
    }

    fn obfs4(&self, after: u64, each: &mut dyn FnMut(u64, &ClientIdentity, Arc<Registration>)) {
        for (number, registration) in self.store.obfs4(self.phantom, after) {
            if let Some(identity) = registration.obfs4() {
                let handle = Arc::clone(&registration);
                each(number, identity.shared(), handle);
            }
        }
    }
}

/// Outcome of one read.
enum Read {
    Bytes(usize),
    End,
    Failed(ErrorClass),
    Deadline,
}
