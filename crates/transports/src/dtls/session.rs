//! One tunnel: datagrams and time in, datagrams and stream bytes out.

use std::time::{Duration, Instant};

use ::dtls::{Closed, Connection, Event};
use rand_core::CryptoRng;
use sctp::{Association, End, Role};

use super::{HEARTBEAT, HEARTBEAT_INTERVAL, HEARTBEAT_WINDOW, OPENING_LIMIT};

/// SCTP packets that are sent with a farewell at most.
const FAREWELLS: usize = 4;
/// Times that a farewell is repeated for a peer that goes on sending: it may have been lost.
const REPEATS: u32 = 4;
/// Time in which that is done.
const LINGER: Duration = Duration::from_secs(3);

/// Whose end of the tunnel this is. Says nothing about the roles in DTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The station: takes the stream that the client opens, and hears its heartbeats.
    Station {
        /// Messages to the client are not ordered among each other.
        unordered: bool,
    },
    /// The client: opens the stream, and sends heartbeats.
    Client,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The handshake failed, or DTLS was broken off.
    #[error("DTLS: {0}")]
    Dtls(Closed),
    /// The peer ended it.
    #[error("closed by the peer")]
    Peer,
    /// SCTP has ended.
    #[error("SCTP: {0}")]
    Sctp(End),
    /// No stream was opened in time.
    #[error("no stream was opened within {} s", OPENING_LIMIT.as_secs())]
    NoStream,
    /// The client stopped sending heartbeats.
    #[error("no heartbeat for {} s", HEARTBEAT_WINDOW.as_secs())]
    Silent,
    /// Ended here.
    #[error("closed")]
    Local,
}

impl Ended {
    /// Whether a reader sees an end of its stream rather than an error (`spec/transports.md` 8.4).
    pub const fn is_orderly(self) -> bool {
        matches!(
            self,
            Self::Peer
                | Self::Silent
                | Self::Local
                | Self::Sctp(End::ShutDown)
                | Self::Dtls(Closed::Peer)
        )
    }
}

/// A session of one party.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    association: Association,
    party: Party,
    /// The stream is open.
    open: bool,
    /// Until the stream must be open; afterwards the end of the heartbeat window, or the time of the
    /// next heartbeat.
    timer: Option<Instant>,
    /// Heartbeats that were heard before the window began.
    heard: u64,
    ended: Option<Ended>,
    farewell: Farewell,
}

/// The last datagrams of a side that ends the session.
#[derive(Debug, Default)]
struct Farewell {
    datagrams: Vec<Vec<u8>>,
    /// Those before were sent.
    next: usize,
    repeated: u32,
    until: Option<Instant>,
}

impl Session {
    /// Begins at `now`. The role in DTLS is that of `config`; a DTLS client's first datagram is
    /// ready to be sent.
    pub fn new<R: CryptoRng + ?Sized>(
        party: Party,
        config: ::dtls::Config,
        now: Instant,
        rng: &mut R,
    ) -> Self {
        let (role, settings) = match party {
            Party::Station { unordered } => {
                let keepalive = HEARTBEAT;
                (Role::Server, sctp::Config { unordered, keepalive, ..sctp::Config::default() })
            }
            Party::Client => (Role::Client, sctp::Config::default()),
        };
        Self {
            association: Association::new(role, settings, rng),
            connection: Connection::new(config, now, rng),
            party,
            open: false,
            timer: Some(now + OPENING_LIMIT),
            heard: 0,
            ended: None,
            farewell: Farewell::default(),
        }
    }

    /// Takes a datagram of the peer; it is decrypted in place. What does not belong is dropped in
    /// silence.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]) {
        if self.ended.is_some() {
            let farewell = &mut self.farewell;
            if farewell.until.is_some() && farewell.repeated < REPEATS {
                farewell.repeated += 1;
                farewell.next = 0;
            }
            return;
        }
        let association = &mut self.association;
        self.connection
            .handle_datagram(now, datagram, |packet| association.handle_packet(now, packet));
        self.advance(now);
    }

    /// Acts on the timers that have expired by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        if self.ended.is_some() {
            if due(self.farewell.until) {
                self.farewell = Farewell::default();
            }
            return;
        }
        if due(self.connection.poll_timeout()) {
            self.connection.handle_timeout(now);
        }
        if self.connection.is_open() && due(self.association.poll_timeout()) {
            self.association.handle_timeout(now);
        }
        if due(self.timer) {
            self.expire(now);
        }
        self.advance(now);
    }

    /// The session's own timer.
    fn expire(&mut self, now: Instant) {
        if !self.open {
            self.end(Ended::NoStream, now);
            return;
        }
        match self.party {
            Party::Client => {
                self.beat(now);
            }
            Party::Station { .. } => {
                let heard = self.association.counters().keepalives;
                // A client that has ended its stream cannot send heartbeats in it, and one whose
                // bytes we do not take has them waiting behind those.
                let excused =
                    self.association.peer_finished() || !self.association.readable().is_empty();
                if heard == self.heard && !excused {
                    self.end(Ended::Silent, now);
                    return;
                }
                self.heard = heard;
                self.timer = Some(now + HEARTBEAT_WINDOW);
            }
        }
    }

    fn beat(&mut self, now: Instant) {
        // With a full buffer the next one is early enough.
        self.association.write_message(HEARTBEAT);
        self.timer = Some(now + HEARTBEAT_INTERVAL);
    }

    /// Notices what has changed below.
    fn advance(&mut self, now: Instant) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Connected => {}
                Event::Closed(Closed::Peer) => self.end(Ended::Peer, now),
                Event::Closed(why) => self.end(Ended::Dtls(why), now),
            }
        }
        if let Some(end) = self.association.ended() {
            self.end(Ended::Sctp(end), now);
        }
        if self.open || self.ended.is_some() {
            return;
        }
        match self.party {
            Party::Client if self.association.is_established() => {
                self.open = true;
                self.beat(now);
            }
            Party::Station { .. } if self.association.has_heard_data() => {
                self.open = true;
                self.timer = Some(now + HEARTBEAT_WINDOW);
            }
            _ => {}
        }
    }

    fn end(&mut self, why: Ended, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(why);
        self.timer = None;
        let was_open = self.connection.is_open();
        self.connection.close();
        while self.connection.poll_event().is_some() {}
        let mut datagram = Vec::new();
        while self.connection.poll_transmit(&mut datagram) {
            self.farewell.datagrams.push(std::mem::take(&mut datagram));
        }
        self.farewell.until = was_open.then_some(now + LINGER);
    }

    /// Ends the session at once: the stream's end, then DTLS's. Written bytes that have not been
    /// sent are lost; [`Session::is_delivered`] says when there are none.
    pub fn close(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        if self.connection.is_open() {
            self.association.finish();
            for _ in 0..FAREWELLS {
                let mut datagram = Vec::new();
                if self.association_transmit(now, &mut datagram).is_none() {
                    break;
                }
                self.farewell.datagrams.push(datagram);
            }
        }
        self.end(Ended::Local, now);
    }

    /// Appends the next datagram to `out`; its length, or `None` when there is nothing to be sent
    /// now. Asked until it answers `None`, after every other call.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<usize> {
        if self.ended.is_some() {
            let datagram = self.farewell.datagrams.get(self.farewell.next)?;
            self.farewell.next += 1;
            out.extend_from_slice(datagram);
            return Some(datagram.len());
        }
        let mut datagram = Vec::new();
        if self.connection.poll_transmit(&mut datagram) {
            out.extend_from_slice(&datagram);
            return Some(datagram.len());
        }
        if !self.connection.is_open() {
            return None;
        }
        let sent = self.association_transmit(now, out);
        self.advance(now);
        sent
    }

    fn association_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        let association = &mut self.association;
        let sealed = self.connection.seal_with(out, |out| {
            association.poll_transmit(now, out);
        });
        // The only failure left is that of 2^48 records.
        if sealed.is_err() {
            self.end(Ended::Dtls(Closed::Local), now);
        }
        (out.len() > start).then(|| out.len() - start)
    }

    /// When [`Session::handle_timeout`] wants to be called; ask again after every other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended.is_some() {
            return self.farewell.until;
        }
        let association =
            self.connection.is_open().then(|| self.association.poll_timeout()).flatten();
        [self.connection.poll_timeout(), association, self.timer].into_iter().flatten().min()
    }

    /// Whether the stream is open: for a client its association is set up, for a station the first
    /// message has come.
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the DTLS handshake is complete.
    pub const fn is_connected(&self) -> bool {
        self.connection.is_open()
    }

    /// Whether what is written may overtake what was written before.
    pub const fn is_unordered(&self) -> bool {
        matches!(self.party, Party::Station { unordered: true })
    }

    /// Why it is over; `None` while it is not.
    pub const fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Whether it is over and has nothing to say any more. A side that ends a session lingers for a
    /// moment, to repeat its farewell to a peer that has not heard it.
    pub const fn is_gone(&self) -> bool {
        self.ended.is_some()
            && self.farewell.until.is_none()
            && self.farewell.next >= self.farewell.datagrams.len()
    }

    /// Takes a prefix of `bytes`; its length, 0 when there is no room or the stream has ended.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.ended.is_some() { 0 } else { self.association.write(bytes) }
    }

    /// Bytes that [`Session::write`] would take.
    pub fn writable(&self) -> usize {
        if self.ended.is_some() { 0 } else { self.association.writable() }
    }

    /// The next bytes of the peer's stream; more may follow once they are consumed.
    pub fn readable(&self) -> &[u8] {
        self.association.readable()
    }

    /// Forgets the first `n` of the readable bytes. A window update may be due afterwards.
    pub fn consume(&mut self, n: usize) {
        self.association.consume(n);
    }

    /// Whether no more bytes will come and all were consumed.
    pub fn is_read_to_end(&self) -> bool {
        self.readable().is_empty() && (self.ended.is_some() || self.association.is_read_to_end())
    }

    /// Ends our direction behind what was written; the other one goes on.
    pub fn finish(&mut self) {
        self.association.finish();
    }

    /// Whether everything that was written has arrived, and the end of the stream too if it was
    /// finished.
    pub fn is_delivered(&self) -> bool {
        self.ended.is_some() || self.association.is_finished()
    }

    /// Heartbeats that were heard.
    pub fn heartbeats(&self) -> u64 {
        self.association.counters().keepalives
    }

    /// What SCTP counted.
    pub fn counters(&self) -> sctp::Counters {
        self.association.counters()
    }

    /// Bytes that are held for reader and network.
    pub fn held(&self) -> usize {
        self.association.held()
    }
}
