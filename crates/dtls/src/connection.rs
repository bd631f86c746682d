//! The connection: datagrams and time in, datagrams, data and events out.

use crate::channel::{Alert, Channel};
use crate::config::Config;
use crate::handshake::{Handshake, Progress};
use crate::protection::{Exhausted, MAX_PAYLOAD, PREFIX_LEN};
use crate::record::{self, ALERT, APPLICATION_DATA, HANDSHAKE, Header};
use crate::refusal::{Discards, Refusal};
use rand_core::CryptoRng;
use std::collections::VecDeque;
use std::time::Instant;

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete and the peer is the expected one. At most once, before `Closed`.
    Connected,
    /// It is over; the connection takes and gives nothing any more. At most once.
    Closed(Closed),
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// [`Connection::close`] was called.
    #[error("it was closed here")]
    Local,
    /// The peer closed it in good order.
    #[error("the peer closed it")]
    Peer,
    /// The peer gave it up with a fatal alert.
    #[error("the peer ended it with alert {0}")]
    Alert(u8),
    /// The handshake took too long; the latest message that was refused tells why, if one was.
    #[error("the handshake was not complete in time{}", reason(.0))]
    Timeout(Option<Refusal>),
    /// The peer holds the keys but has seen another handshake: somebody changed messages.
    #[error("the peer has seen another handshake")]
    Finished,
}

fn reason(refusal: &Option<Refusal>) -> String {
    refusal.map_or_else(String::new, |refusal| format!("; a message was refused: {refusal}"))
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The handshake is not complete, or the connection is closed.
    #[error("the DTLS connection is not open")]
    NotOpen,
    /// The payload is longer than a record's 16,384 bytes.
    #[error("a payload of {0} bytes is longer than a record of 16384")]
    TooLong(usize),
    /// All 2^48 record numbers were used.
    #[error("the DTLS connection has no record numbers left")]
    Exhausted,
}

impl From<Exhausted> for SealError {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}

/// One end of a DTLS connection.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    outbox: VecDeque<Vec<u8>>,
    discards: Discards,
    connected: bool,
    closed: Option<Closed>,
}

#[derive(Debug)]
enum Phase {
    Handshake(Box<Handshake>),
    Open(Box<Channel>),
    Closed,
}

impl Connection {
    /// Begins at `now`. A client's first datagram is ready to be taken; a server waits for it. All
    /// randomness but that of signatures comes from one draw of `rng`.
    pub fn new<R: CryptoRng + ?Sized>(config: Config, now: Instant, rng: &mut R) -> Self {
        let mut outbox = VecDeque::new();
        let handshake = Box::new(Handshake::new(config, now, rng, &mut outbox));
        Self {
            phase: Phase::Handshake(handshake),
            outbox,
            discards: Discards::default(),
            connected: false,
            closed: None,
        }
    }

    /// Takes one datagram of the peer, which is decrypted in place. `data` gets the application data of
    /// each record, in the order of arrival; records are neither repeated nor put in order.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &mut [u8],
        mut data: impl FnMut(&[u8]),
    ) {
        let mut rest = datagram;
        loop {
            let Some((header, body)) = record::next(&mut rest) else {
                self.discards.note(Refusal::Malformed);
                return;
            };
            self.record(now, header, body, &mut data);
            if rest.is_empty() {
                return;
            }
        }
    }

    fn record(
        &mut self,
        now: Instant,
        header: Header,
        body: &mut [u8],
        data: &mut dyn FnMut(&[u8]),
    ) {
        match &mut self.phase {
            Phase::Open(_) => self.open_record(header, body, data),
            Phase::Handshake(handshake) => {
                match handshake.record(now, header, body, &mut self.discards, &mut self.outbox) {
                    Progress::Going => {}
                    Progress::Closed(closed) => self.end(closed),
                    Progress::Done => self.connect(data),
                }
            }
            Phase::Closed => {}
        }
    }

    /// Drops the state of the handshake; what came too early has its turn.
    fn connect(&mut self, data: &mut dyn FnMut(&[u8])) {
        let Phase::Handshake(handshake) = std::mem::replace(&mut self.phase, Phase::Closed) else {
            return;
        };
        let Some((channel, early)) = handshake.finish() else { return };
        self.phase = Phase::Open(channel);
        self.connected = true;
        for (header, mut body) in early {
            self.open_record(header, &mut body, data);
        }
    }

    fn open_record(&mut self, header: Header, body: &mut [u8], data: &mut dyn FnMut(&[u8])) {
        let Phase::Open(channel) = &mut self.phase else { return };
        if (header.epoch, header.content) == (0, ALERT) {
            return self.discards.note(Refusal::PlainAlert);
        }
        let payload = match channel.open(header, body) {
            Ok(payload) => payload,
            Err(refusal) => return self.discards.note(refusal),
        };
        match header.content {
            APPLICATION_DATA => {
                if !payload.is_empty() {
                    data(payload);
                }
            }
            ALERT => match Alert::parse(payload) {
                Ok(Alert::CloseNotify) => {
                    self.farewell();
                    self.end(Closed::Peer);
                }
                Ok(Alert::Fatal(description)) => self.end(Closed::Alert(description)),
                Ok(Alert::Other) => {}
                Err(refusal) => self.discards.note(refusal),
            },
            // The client repeats its Finished because it has not seen ours; anything else that a
            // handshake could carry here would be a renegotiation.
            HANDSHAKE if channel.repeats_finished(payload) => {
                channel.repeat_last_flight(&mut self.outbox);
            }
            _ => self.discards.note(Refusal::Unexpected),
        }
    }

    /// Queues the close_notify alert.
    fn farewell(&mut self) {
        if let Phase::Open(channel) = &mut self.phase
            && let Ok(alert) = channel.close_notify()
        {
            self.outbox.push_back(alert);
        }
    }

    fn end(&mut self, closed: Closed) {
        self.phase = Phase::Closed;
        self.closed = Some(closed);
    }

    /// Replaces the content of `out` by the next datagram to be sent; `false` when there is none.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        out.clear();
        let Some(datagram) = self.outbox.pop_front() else { return false };
        out.extend_from_slice(&datagram);
        if self.outbox.is_empty() {
            // An idle connection holds no memory for this.
            self.outbox = VecDeque::new();
        }
        true
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.connected) {
            return Some(Event::Connected);
        }
        self.closed.take().map(Event::Closed)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` once the handshake is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Handshake(handshake) => Some(handshake.timeout()),
            Phase::Open(_) | Phase::Closed => None,
        }
    }

    /// Lets time pass: the flight is repeated, or the handshake is given up. Harmless when called
    /// early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Phase::Handshake(handshake) = &mut self.phase
            && let Err(closed) = handshake.expire(now, &mut self.outbox)
        {
            self.outbox.clear();
            self.end(closed);
        }
    }

    /// Appends `payload` to `out` as one record, [`OVERHEAD`](crate::OVERHEAD) bytes longer.
    ///
    /// # Errors
    /// When the connection is not open, or the payload too long. `out` is then as before.
    pub fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal_with(out, |out| out.extend_from_slice(payload))
    }

    /// As [`seal`](Self::seal), for a payload that `write` appends to what it is given, without a copy.
    /// Nothing is sealed when it appends nothing.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_with(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SealError> {
        let Phase::Open(channel) = &mut self.phase else { return Err(SealError::NotOpen) };
        let start = out.len();
        out.extend_from_slice(&[0; PREFIX_LEN]);
        write(out);
        let len = out.len() - start - PREFIX_LEN;
        if len == 0 {
            out.truncate(start);
            return Ok(());
        }
        let sealed = if len > MAX_PAYLOAD {
            Err(SealError::TooLong(len))
        } else {
            channel.sealing.seal(APPLICATION_DATA, out, start).map_err(SealError::from)
        };
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    /// Whether application data can be sealed.
    pub const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether the connection is over.
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Ends the connection: queues the close_notify alert when it was open, and keeps silent otherwise.
    pub fn close(&mut self) {
        if self.is_closed() {
            return;
        }
        if !self.is_open() {
            self.outbox.clear();
        }
        self.farewell();
        self.end(Closed::Local);
    }

    /// What was dropped so far.
    pub const fn discarded(&self) -> Discards {
        self.discards
    }
}
