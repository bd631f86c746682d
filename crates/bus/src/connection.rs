//! One ZMTP connection as a value: fed bytes and time, it says what to send and what happened.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::command::{Command, Property, properties};
use crate::curve::{Curve, CurveError, FLAG_COMMAND, FLAG_MORE};
use crate::frame::{Frame, FrameError, Kind};
use crate::greeting::{GREETING_LEN, Greeting, GreetingError, Mechanism};

/// Which socket of the pattern this side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends messages, receives subscriptions.
    Publisher,
    /// Receives messages, sends subscriptions.
    Subscriber,
}

impl Role {
    const fn socket_type(self) -> &'static str {
        match self {
            Self::Publisher => "PUB",
            Self::Subscriber => "SUB",
        }
    }

    fn accepts_peer(self, socket_type: &[u8]) -> bool {
        match self {
            Self::Publisher => matches!(socket_type, b"SUB" | b"XSUB"),
            Self::Subscriber => matches!(socket_type, b"PUB" | b"XPUB"),
        }
    }

    const fn wanted_peer(self) -> &'static str {
        match self {
            Self::Publisher => "SUB",
            Self::Subscriber => "PUB",
        }
    }
}

/// How a side finds out that the other one is gone without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time between two `PING`.
    pub interval: Duration,
    /// Time after a `PING` in which something, anything, must arrive.
    pub timeout: Duration,
}

/// Parameters of a connection.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This side's socket.
    pub role: Role,
    /// Minor protocol version to announce: 1, or 0 to behave as libzmq before 4.3.3.
    pub minor: u8,
    /// Largest frame accepted from the peer, in bytes of body.
    pub max_frame: usize,
    /// Time in which the handshake must be over.
    pub handshake_timeout: Duration,
    /// Heartbeats this side initiates; `PING` of the peer is answered either way.
    pub heartbeat: Option<Heartbeat>,
}

/// What happened on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The handshake is over.
    Ready,
    /// A message frame arrived (subscriber).
    Message(Bytes),
    /// The peer subscribes to a topic prefix (publisher).
    Subscribe(Bytes),
    /// The peer withdraws a subscription (publisher).
    Cancel(Bytes),
}

/// Why a connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The greeting is not acceptable.
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// A frame is not acceptable.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The CURVE mechanism fails.
    #[error(transparent)]
    Curve(#[from] CurveError),
    /// The peer closed the connection instead of answering a command of CURVE.
    #[error("CURVE: peer closed the connection after {command}; most likely {likely}")]
    ClosedDuring {
        /// Command that was not answered.
        command: &'static str,
        /// What usually is the matter.
        likely: &'static str,
    },
    /// A command could not be read, or came when it must not.
    #[error("malformed or unexpected command {0}")]
    Command(String),
    /// The peer is a socket of the wrong type.
    #[error("peer is a {found} socket, a {expected} socket is needed")]
    SocketType {
        /// Type the peer announced, printable characters only.
        found: String,
        /// Type that was needed.
        expected: &'static str,
    },
    /// The peer sent an `ERROR` command.
    #[error("peer refused the handshake: {0}")]
    Refused(String),
    /// The handshake took too long.
    #[error("no complete {stage} from the peer within {} ms", .limit.as_millis())]
    HandshakeTimeout {
        /// What was being waited for.
        stage: &'static str,
        /// The limit that passed.
        limit: Duration,
    },
    /// Nothing arrived in time after a `PING`, or within the time the peer's own `PING` promised.
    #[error("no sign of life from the peer for {} ms", .0.as_millis())]
    Silent(Duration),
}

impl ProtocolError {
    /// True when the peer was reached but the two sides could not agree to talk.
    pub const fn is_handshake(&self) -> bool {
        matches!(
            self,
            Self::Greeting(_)
                | Self::SocketType { .. }
                | Self::Refused(_)
                | Self::HandshakeTimeout { .. }
                | Self::ClosedDuring { .. }
        ) || matches!(self, Self::Curve(error) if !matches!(error, CurveError::Message))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Handshake,
    Traffic,
}

/// A ZMTP connection without its socket.
#[derive(Debug)]
pub struct Connection {
    settings: Settings,
    /// State of CURVE; `None` for NULL.
    curve: Option<Curve>,
    stage: Stage,
    peer_minor: u8,
    inbound: BytesMut,
    outbound: BytesMut,
    events: VecDeque<Event>,
    /// The frame being read continues a message of several frames.
    continued: bool,
    handshake_ends: Instant,
    next_ping: Option<Instant>,
    pong_due: Option<Instant>,
    /// The `TTL` the peer's last `PING` asked for, and when it runs out.
    peer_ttl: Option<(Duration, Instant)>,
}

impl Connection {
    /// A connection under the NULL mechanism whose transport was established at `now`. The
    /// greeting waits in [`Connection::output`].
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self::secured(settings, None, now)
    }

    /// As [`Connection::new`], under CURVE when `curve` is given.
    pub fn secured(settings: Settings, curve: Option<Curve>, now: Instant) -> Self {
        let greeting = Greeting { minor: settings.minor, mechanism: mechanism(curve.as_ref()) };
        Self {
            curve,
            stage: Stage::Greeting,
            peer_minor: 0,
            inbound: BytesMut::new(),
            outbound: BytesMut::from(&greeting.encode()[..]),
            events: VecDeque::new(),
            continued: false,
            handshake_ends: now + settings.handshake_timeout,
            next_ping: None,
            pong_due: None,
            peer_ttl: None,
            settings,
        }
    }

    /// Buffer to read the peer's bytes into; call [`Connection::received`] afterwards.
    pub const fn input(&mut self) -> &mut BytesMut {
        &mut self.inbound
    }

    /// Bytes to write to the peer; the caller removes what it has written.
    pub const fn output(&mut self) -> &mut BytesMut {
        &mut self.outbound
    }

    /// Both buffers at once, for a caller that reads and writes at the same time.
    pub const fn buffers(&mut self) -> (&mut BytesMut, &mut BytesMut) {
        (&mut self.inbound, &mut self.outbound)
    }

    /// Next thing that happened.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// True once the handshake is over.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Traffic
    }

    /// Processes what has been appended to [`Connection::input`].
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection must be closed.
    pub fn received(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.pong_due = None;
        if let Some((ttl, end)) = &mut self.peer_ttl {
            *end = now + *ttl;
        }
        if self.stage == Stage::Greeting && !self.greeting()? {
            return Ok(());
        }
        while let Some(frame) = Frame::decode(&mut self.inbound, self.settings.max_frame)? {
            if self.curve.is_some() {
                self.secured_frame(&frame, now)?;
                continue;
            }
            match frame.kind {
                Kind::Command => self.command(&frame.body, now)?,
                Kind::Message { more } => self.message(frame.body, more)?,
            }
        }
        Ok(())
    }

    /// Queues one message of one frame. Before the handshake is over nothing can be sent.
    pub fn send(&mut self, message: &[u8]) {
        self.put(Kind::Message { more: false }, message);
    }

    /// Key that the peer has proved; `None` under NULL and before the handshake is over.
    pub fn peer_key(&self) -> Option<&[u8; 32]> {
        self.curve.as_ref().and_then(Curve::peer)
    }

    /// What it means that the peer closed the connection now, where it means something.
    pub fn closed(&self) -> Option<ProtocolError> {
        let curve = self.curve.as_ref()?;
        if self.stage != Stage::Handshake {
            return None;
        }
        curve.unanswered().map(|(command, likely)| ProtocolError::ClosedDuring { command, likely })
    }

    /// Queues a subscription, in the form the peer's version understands.
    pub fn subscribe(&mut self, topic: &[u8]) {
        if self.settings.minor.min(self.peer_minor) >= 1 {
            self.send_command(&Command::Subscribe(Bytes::copy_from_slice(topic)));
        } else {
            let mut message = vec![1];
            message.extend_from_slice(topic);
            self.send(&message);
        }
    }

    /// When [`Connection::expire`] has to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        if self.stage != Stage::Traffic {
            return Some(self.handshake_ends);
        }
        let ttl = self.peer_ttl.map(|(_, end)| end);
        [self.next_ping, self.pong_due, ttl].into_iter().flatten().min()
    }

    /// Does what is due at `now`: sends a `PING`, or finds the peer gone.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection must be closed.
    pub fn expire(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.stage != Stage::Traffic {
            if now < self.handshake_ends {
                return Ok(());
            }
            let stage = match &self.curve {
                _ if self.stage == Stage::Greeting => "greeting",
                Some(curve) => curve.due(),
                None => "READY command",
            };
            let limit = self.settings.handshake_timeout;
            return Err(ProtocolError::HandshakeTimeout { stage, limit });
        }
        if let Some((ttl, end)) = self.peer_ttl
            && now >= end
        {
            return Err(ProtocolError::Silent(ttl));
        }
        let Some(heartbeat) = self.settings.heartbeat else { return Ok(()) };
        if self.pong_due.is_some_and(|due| now >= due) {
            return Err(ProtocolError::Silent(heartbeat.timeout));
        }
        if self.next_ping.is_some_and(|at| now >= at) {
            self.next_ping = Some(now + heartbeat.interval);
            self.pong_due.get_or_insert(now + heartbeat.timeout);
            self.send_command(&Command::Ping { ttl: 0, context: Bytes::new() });
        }
        Ok(())
    }

    /// Puts off what waits for the peer's bytes, because this side did not read them until `now`.
    pub fn was_not_reading(&mut self, now: Instant) {
        if let (Some(due), Some(heartbeat)) = (&mut self.pong_due, self.settings.heartbeat) {
            *due = now + heartbeat.timeout;
        }
        if let Some((ttl, end)) = &mut self.peer_ttl {
            *end = now + *ttl;
        }
    }

    /// Reads the greeting; true when it is complete.
    fn greeting(&mut self) -> Result<bool, ProtocolError> {
        Greeting::check_start(&self.inbound)?;
        if self.inbound.len() < GREETING_LEN {
            return Ok(false);
        }
        let bytes = self.inbound.split_to(GREETING_LEN);
        let bytes = bytes.first_chunk().ok_or(GreetingError::Signature)?;
        let greeting = Greeting::decode(bytes, mechanism(self.curve.as_ref()))?;
        self.peer_minor = greeting.minor;
        self.stage = Stage::Handshake;
        match &mut self.curve {
            None => self.send_command(&Command::ready(self.settings.role.socket_type())),
            Some(curve) => {
                if let Some(hello) = curve.hello()? {
                    Frame::encode(Kind::Command, &hello, &mut self.outbound);
                }
            }
        }
        Ok(true)
    }

    /// One frame under CURVE: a command of its handshake, or a box.
    fn secured_frame(&mut self, frame: &Frame, now: Instant) -> Result<(), ProtocolError> {
        let Some(curve) = &mut self.curve else { return Ok(()) };
        if self.stage == Stage::Traffic {
            let (flags, payload) = curve.open(&frame.body)?;
            let payload = Bytes::from(payload);
            return if flags & FLAG_COMMAND == 0 {
                self.message(payload, flags & FLAG_MORE != 0)
            } else {
                self.command(&payload, now)
            };
        }
        if frame.kind != Kind::Command {
            return Err(ProtocolError::Command("(a message before READY)".to_owned()));
        }
        let metadata = Command::metadata(self.settings.role.socket_type());
        let step = curve.command(&frame.body, &metadata).inspect_err(|error| {
            if let Some(farewell) = Curve::farewell(error) {
                Frame::encode(Kind::Command, farewell, &mut self.outbound);
            }
        })?;
        if let Some(reply) = step.reply {
            Frame::encode(Kind::Command, &reply, &mut self.outbound);
        }
        if let Some(metadata) = step.metadata {
            let properties = properties(Bytes::from(metadata))
                .ok_or_else(|| ProtocolError::Command("(metadata of CURVE)".to_owned()))?;
            self.ready(&properties, now)?;
        }
        Ok(())
    }

    /// The end of the handshake, with what the peer says about itself.
    fn ready(&mut self, properties: &[Property], now: Instant) -> Result<(), ProtocolError> {
        let property = properties.iter().find(|p| p.name.eq_ignore_ascii_case(b"Socket-Type"));
        let found = property.map(|p| &p.value[..]).unwrap_or_default();
        let role = self.settings.role;
        if !role.accepts_peer(found) {
            let found = printable(found);
            return Err(ProtocolError::SocketType { found, expected: role.wanted_peer() });
        }
        self.stage = Stage::Traffic;
        self.next_ping = self.settings.heartbeat.map(|h| now + h.interval);
        self.events.push_back(Event::Ready);
        Ok(())
    }

    fn command(&mut self, body: &Bytes, now: Instant) -> Result<(), ProtocolError> {
        let malformed = || ProtocolError::Command(printable(body));
        let command = Command::decode(body).ok_or_else(malformed)?;
        match (self.stage, command) {
            (Stage::Handshake, Command::Ready(properties)) => self.ready(&properties, now)?,
            (Stage::Handshake, Command::Error(reason)) => {
                return Err(ProtocolError::Refused(printable(&reason)));
            }
            (Stage::Handshake | Stage::Greeting, _) | (Stage::Traffic, Command::Ready(_)) => {
                return Err(malformed());
            }
            (Stage::Traffic, Command::Ping { ttl, context }) => {
                let ttl = Duration::from_millis(u64::from(ttl) * 100);
                self.peer_ttl = (!ttl.is_zero()).then(|| (ttl, now + ttl));
                self.send_command(&Command::Pong(context));
            }
            (Stage::Traffic, Command::Subscribe(topic)) => self.subscription(true, topic),
            (Stage::Traffic, Command::Cancel(topic)) => self.subscription(false, topic),
            (Stage::Traffic, Command::Error(_) | Command::Pong(_) | Command::Unknown(_)) => {}
        }
        Ok(())
    }

    fn message(&mut self, body: Bytes, more: bool) -> Result<(), ProtocolError> {
        if self.stage != Stage::Traffic {
            return Err(ProtocolError::Command("(a message before READY)".to_owned()));
        }
        match self.settings.role {
            // Every frame is a message of its own: a registration is never split.
            Role::Subscriber => self.events.push_back(Event::Message(body)),
            // A subscription in the form of libzmq before 4.3.3; other messages mean nothing.
            Role::Publisher if !more && !self.continued => match body.first() {
                Some(1) => self.subscription(true, body.slice(1..)),
                Some(0) => self.subscription(false, body.slice(1..)),
                _ => {}
            },
            Role::Publisher => {}
        }
        self.continued = more;
        Ok(())
    }

    fn subscription(&mut self, wanted: bool, topic: Bytes) {
        if self.settings.role == Role::Publisher {
            self.events.push_back(if wanted {
                Event::Subscribe(topic)
            } else {
                Event::Cancel(topic)
            });
        }
    }

    fn send_command(&mut self, command: &Command) {
        self.put(Kind::Command, &command.encode());
    }

    /// Queues a frame, sealed under CURVE.
    fn put(&mut self, kind: Kind, body: &[u8]) {
        let Some(curve) = &mut self.curve else {
            Frame::encode(kind, body, &mut self.outbound);
            return;
        };
        let flags = if kind == Kind::Command { FLAG_COMMAND } else { 0 };
        if let Some(sealed) = curve.seal(flags, body) {
            // What is inside says what it is; the frame itself is always a plain one.
            Frame::encode(Kind::Message { more: false }, &sealed, &mut self.outbound);
        }
    }
}

const fn mechanism(curve: Option<&Curve>) -> Mechanism {
    if curve.is_some() { Mechanism::Curve } else { Mechanism::Null }
}

/// At most 32 bytes of `bytes`, escaped for a log line.
fn printable(bytes: &[u8]) -> String {
    bytes.get(..32).unwrap_or(bytes).escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(role: Role, minor: u8, heartbeat: Option<Heartbeat>) -> Settings {
        Settings {
            role,
            minor,
            max_frame: 4096,
            handshake_timeout: Duration::from_secs(10),
            heartbeat,
        }
    }

    /// Carries bytes both ways until nobody has anything to say.
    fn settle(a: &mut Connection, b: &mut Connection, now: Instant) {
        while !a.output().is_empty() || !b.output().is_empty() {
            let bytes = a.output().split();
            b.input().extend_from_slice(&bytes);
            b.received(now).unwrap();
            let bytes = b.output().split();
            a.input().extend_from_slice(&bytes);
            a.received(now).unwrap();
        }
    }

    fn joined(
        pub_minor: u8,
        sub_minor: u8,
        hb: Option<Heartbeat>,
    ) -> (Connection, Connection, Instant) {
        let now = Instant::now();
        let mut publisher = Connection::new(settings(Role::Publisher, pub_minor, None), now);
        let mut subscriber = Connection::new(settings(Role::Subscriber, sub_minor, hb), now);
        settle(&mut publisher, &mut subscriber, now);
        assert_eq!(publisher.event(), Some(Event::Ready));
        assert_eq!(subscriber.event(), Some(Event::Ready));
        (publisher, subscriber, now)
    }

    #[test]
    fn subscribes_and_delivers_between_all_minor_versions() {
        for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (mut publisher, mut subscriber, now) = joined(a, b, None);
            subscriber.subscribe(b"topic");
            let wire = subscriber.output().clone();
            assert_eq!(wire[0] == 4, a == 1 && b == 1, "command form only between 3.1 peers");
            settle(&mut publisher, &mut subscriber, now);
            assert_eq!(publisher.event(), Some(Event::Subscribe(Bytes::from_static(b"topic"))));
            publisher.send(b"topic and more");
            settle(&mut publisher, &mut subscriber, now);
            assert_eq!(
                subscriber.event(),
                Some(Event::Message(Bytes::from_static(b"topic and more")))
            );
        }
    }

    #[test]
    fn finds_a_silent_peer_and_lives_with_an_answering_one() {
        let heartbeat =
            Heartbeat { interval: Duration::from_secs(30), timeout: Duration::from_secs(1) };
        let (mut publisher, mut subscriber, start) = joined(1, 1, Some(heartbeat));
        let mut now = start;
        for _ in 0..10 {
            now = subscriber.deadline().unwrap();
            subscriber.expire(now).unwrap();
            settle(&mut publisher, &mut subscriber, now);
        }
        assert_eq!(now, start + heartbeat.interval * 10);
        now = subscriber.deadline().unwrap();
        subscriber.expire(now).unwrap();
        now = subscriber.deadline().unwrap();
        assert_eq!(now, start + heartbeat.interval * 11 + heartbeat.timeout);
        assert_eq!(subscriber.expire(now), Err(ProtocolError::Silent(heartbeat.timeout)));
    }

    #[test]
    fn honours_the_ttl_of_the_peers_ping() {
        let (mut publisher, _, now) = joined(1, 1, None);
        publisher.input().extend_from_slice(b"\x04\x09\x04PING\x00\x0aab");
        publisher.received(now).unwrap();
        assert_eq!(&publisher.output()[..], b"\x04\x07\x04PONGab");
        let end = publisher.deadline().unwrap();
        assert_eq!(end, now + Duration::from_secs(1));
        assert!(publisher.expire(end).is_err());
    }

    #[test]
    fn cuts_a_handshake_that_takes_too_long() {
        let now = Instant::now();
        let mut c = Connection::new(settings(Role::Publisher, 1, None), now);
        let end = c.deadline().unwrap();
        c.input().extend_from_slice(&[0xff]);
        c.received(now).unwrap();
        assert_eq!(c.deadline(), Some(end), "bytes that trickle in do not extend the limit");
        let error = c.expire(end).unwrap_err();
        assert!(error.is_handshake());
        assert_eq!(error.to_string(), "no complete greeting from the peer within 10000 ms");
    }

    #[test]
    fn refuses_a_socket_of_the_wrong_type_and_says_so() {
        let now = Instant::now();
        let mut a = Connection::new(settings(Role::Publisher, 1, None), now);
        let mut b = Connection::new(settings(Role::Publisher, 1, None), now);
        let bytes = b.output().split();
        a.input().extend_from_slice(&bytes);
        a.received(now).unwrap();
        let bytes = a.output().split();
        b.input().extend_from_slice(&bytes);
        let error = b.received(now).unwrap_err();
        assert_eq!(error.to_string(), "peer is a PUB socket, a SUB socket is needed");
    }

    proptest! {
        #[test]
        fn any_bytes_after_the_greeting_are_survived(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            ready in any::<bool>(),
        ) {
            let now = Instant::now();
            for role in [Role::Publisher, Role::Subscriber] {
                let mut c = Connection::new(settings(role, 1, None), now);
                c.input().extend_from_slice(
                    &Greeting { minor: 1, mechanism: Mechanism::Null }.encode());
                if ready {
                    let peer = role.wanted_peer();
                    let command = Command::ready(peer).encode();
                    Frame::encode(Kind::Command, &command, c.input());
                }
                c.input().extend_from_slice(&bytes);
                let _ = c.received(now);
                while c.event().is_some() {}
            }
        }
    }
}
