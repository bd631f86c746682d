//! The association: set-up, control chunks, and the order in which packets are made.

use std::time::Instant;

use rand_core::CryptoRng;

use crate::Config;
use crate::chunk::{
    Chunk, Data, EXTENSIONS, Init, Reconfiguration, Sack, parameter, push_parameter, result,
};
use crate::inbound::{Inbound, Taken};
use crate::outbound::Outbound;
use crate::packet::{Packet, Writer};

/// Longest cookie that is echoed; it must fit into a packet beside nothing else.
const MAX_COOKIE: usize = 1024;
/// Longest HEARTBEAT that is answered.
const MAX_HEARTBEAT: usize = 512;
/// Retransmissions of a SHUTDOWN or a reset.
const MAX_FAREWELLS: u32 = 8;

/// Which side opens the association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends INIT.
    Client,
    /// Answers it.
    Server,
}

/// Why an association has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The peer did not answer the opening.
    #[error("no answer to the opening")]
    NoAnswer,
    /// The peer answers nothing any more.
    #[error("the peer does not answer any more")]
    Lost,
    /// The peer broke it off.
    #[error("broken off by the peer")]
    Aborted,
    /// Broken off here.
    #[error("broken off")]
    Broken,
    /// Both sides agreed to end it.
    #[error("shut down")]
    ShutDown,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that were dropped: malformed, wrong checksum, tag or ports.
    pub dropped: u64,
    /// DATA chunks that came again.
    pub duplicates: u64,
    /// DATA chunks for which there was no room.
    pub refused: u64,
    /// Payload bytes of other streams, and of a stream that had ended.
    pub stray_bytes: u64,
    /// Silent messages received.
    pub keepalives: u64,
    /// Other messages received.
    pub messages: u64,
    /// DATA chunks sent again.
    pub retransmitted: u64,
    /// Retransmission time-outs.
    pub timeouts: u64,
    /// Ends of flights that were asked for before a time-out.
    pub probes: u64,
    /// Payload bytes that were sent, repetitions not counted.
    pub sent: u64,
    /// Payload bytes that have arrived at the peer.
    pub acknowledged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The server waits for INIT.
    Closed,
    CookieWait,
    CookieEchoed,
    Established,
    ShutdownPending,
    ShutdownSent,
    ShutdownReceived,
    ShutdownAckSent,
    Ended(End),
}

/// Our stream's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    No,
    /// After what is unsent.
    Wanted,
    /// A reset with this number waits for its answer.
    Asked(u32),
    Done,
}

/// Chunks that wait to be sent, most once.
#[derive(Debug, Default)]
struct Pending {
    init: bool,
    init_ack: bool,
    cookie_echo: bool,
    cookie_ack: bool,
    heartbeat_ack: Option<Box<[u8]>>,
    reset: bool,
    reset_answer: Option<(u32, u32)>,
    shutdown: bool,
    shutdown_ack: bool,
    shutdown_complete: bool,
    abort: bool,
}

/// An association with one stream in each direction.
#[derive(Debug)]
pub struct Association {
    config: Config,
    role: Role,
    state: State,
    own_tag: u32,
    own_tsn: u32,
    cookie: [u8; 32],
    peer_tag: u32,
    peer_cookie: Box<[u8]>,
    inbound: Option<Box<Inbound>>,
    outbound: Outbound,
    finish: Finish,
    /// Number of the next reset that we ask for.
    own_request: u32,
    /// Number of the next reset that the peer asks for.
    peer_request: u32,
    /// The answer to the last one.
    last_answer: Option<(u32, u32)>,
    /// A reset that waits for its last TSN.
    awaited: Option<(u32, u32)>,
    pending: Pending,
    /// INIT, COOKIE ECHO or SHUTDOWN.
    control_timer: Option<Instant>,
    control_tries: u32,
    reset_timer: Option<Instant>,
    reset_tries: u32,
    counters: Counters,
}

impl Association {
    /// An association of `role`; the client's opening is ready to be sent.
    pub fn new(role: Role, config: Config, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut cookie = [0; 32];
        rng.fill_bytes(&mut cookie);
        let own_tag = loop {
            match rng.next_u32() {
                0 => {}
                tag => break tag,
            }
        };
        let own_tsn = rng.next_u32();
        let client = role == Role::Client;
        Self {
            outbound: Outbound::new(&config, own_tsn),
            config,
            role,
            state: if client { State::CookieWait } else { State::Closed },
            own_tag,
            own_tsn,
            cookie,
            peer_tag: 0,
            peer_cookie: Box::default(),
            inbound: None,
            finish: Finish::No,
            own_request: own_tsn,
            peer_request: 0,
            last_answer: None,
            awaited: None,
            pending: Pending { init: client, ..Pending::default() },
            control_timer: None,
            control_tries: 0,
            reset_timer: None,
            reset_tries: 0,
            counters: Counters::default(),
        }
    }

    /// Takes a packet. What is malformed, or not of this association, is dropped and counted.
    pub fn handle_packet(&mut self, now: Instant, bytes: &[u8]) {
        let Ok(packet) = Packet::parse(bytes) else {
            self.counters.dropped += 1;
            return;
        };
        let ports = (packet.source, packet.destination);
        if ports != (self.config.port, self.config.port) || self.has_ended() {
            self.counters.dropped += 1;
            return;
        }
        let mut has_data = false;
        for (index, chunk) in packet.chunks().enumerate() {
            let chunk = match chunk {
                Ok(chunk) if self.is_ours(&chunk, packet.tag, index) => chunk,
                _ => {
                    self.counters.dropped += 1;
                    break;
                }
            };
            has_data |= matches!(chunk, Chunk::Data(_));
            if !self.handle_chunk(now, &chunk) {
                break;
            }
        }
        if has_data && let Some(inbound) = &mut self.inbound {
            inbound.packet(&self.config, now);
        }
        self.advance(now);
    }

    /// Verification tags (RFC 9260 section 8.5).
    fn is_ours(&self, chunk: &Chunk<'_>, tag: u32, index: usize) -> bool {
        match chunk {
            Chunk::Init(_) => tag == 0 && index == 0,
            Chunk::Abort { reflected: true, .. } | Chunk::ShutdownComplete { reflected: true } => {
                tag == self.peer_tag && self.peer_tag != 0
            }
            _ => tag == self.own_tag,
        }
    }

    /// Takes a chunk; false when the rest of the packet is to be ignored.
    fn handle_chunk(&mut self, now: Instant, chunk: &Chunk<'_>) -> bool {
        match *chunk {
            Chunk::Data(data) => self.data(&data),
            Chunk::Sack(sack) => self.sack(now, &sack),
            Chunk::Init(init) => {
                self.init(&init);
                return false;
            }
            Chunk::InitAck(init) => {
                self.init_ack(now, &init);
                return false;
            }
            Chunk::CookieEcho(cookie) => return self.cookie_echo(cookie),
            Chunk::CookieAck => self.cookie_ack(),
            Chunk::Heartbeat(value) => {
                if self.is_open() && value.len() <= MAX_HEARTBEAT {
                    self.pending.heartbeat_ack = Some(value.into());
                }
            }
            Chunk::HeartbeatAck(_) | Chunk::Error(_) => {}
            Chunk::Abort { .. } => {
                self.end(End::Aborted);
                return false;
            }
            Chunk::Shutdown(cumulative) => self.shutdown_received(now, cumulative),
            Chunk::ShutdownAck => {
                if matches!(self.state, State::ShutdownSent | State::ShutdownAckSent) {
                    self.end(End::ShutDown);
                    self.pending.shutdown_complete = true;
                }
                return false;
            }
            Chunk::ShutdownComplete { .. } => {
                if self.state == State::ShutdownAckSent {
                    self.end(End::ShutDown);
                }
                return false;
            }
            Chunk::ReConfig(parameters) => self.reconfigure(parameters),
            Chunk::ForwardTsn { cumulative, streams } => {
                if self.is_open()
                    && let Some(inbound) = &mut self.inbound
                {
                    inbound.forward(cumulative, streams, &self.config);
                }
            }
            // The two high bits say whether to go on (RFC 9260 section 3.2).
            Chunk::Unknown { kind, .. } => return kind & 0x80 != 0,
        }
        !self.has_ended()
    }

    const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Whether the peer has shown that it hears us, so that its chunks are taken.
    const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed | State::CookieWait | State::Ended(_))
    }

    fn data(&mut self, data: &Data<'_>) {
        if !self.is_open() {
            return;
        }
        let Some(inbound) = &mut self.inbound else { return };
        match inbound.data(data, &self.config) {
            Taken::New => {}
            Taken::Again => self.counters.duplicates += 1,
            Taken::Refused => self.counters.refused += 1,
        }
        if self.state == State::ShutdownSent {
            self.pending.shutdown = true;
        }
        if let Some((request, last)) = self.awaited
            && inbound.reset(last, &self.config)
        {
            self.awaited = None;
            self.answer(request, result::PERFORMED);
        }
    }

    fn sack(&mut self, now: Instant, sack: &Sack<'_>) {
        if self.is_open() && !self.outbound.acknowledged(sack, &self.config, now) {
            self.counters.dropped += 1;
        }
    }

    fn init(&mut self, init: &Init<'_>) {
        if self.role != Role::Server || self.is_open() || init.tag == 0 || init.inbound == 0 {
            return;
        }
        // A repeated INIT is answered as the first was.
        self.begin(init);
        self.pending.init_ack = true;
    }

    fn begin(&mut self, init: &Init<'_>) {
        self.peer_tag = init.tag;
        self.outbound.set_peer_window(init.window);
        self.inbound = Some(Box::new(Inbound::new(init.tsn, &self.config)));
        self.peer_request = init.tsn;
    }

    fn init_ack(&mut self, now: Instant, init: &Init<'_>) {
        let cookie = init.parameter(parameter::STATE_COOKIE).unwrap_or_default();
        if self.state != State::CookieWait
            || init.tag == 0
            || init.inbound == 0
            || cookie.is_empty()
            || cookie.len() > MAX_COOKIE
        {
            return;
        }
        self.begin(init);
        self.peer_cookie = cookie.into();
        self.state = State::CookieEchoed;
        self.pending.init = false;
        self.pending.cookie_echo = true;
        self.control_tries = 0;
        self.control_timer = Some(now + self.control_patience());
    }

    fn cookie_echo(&mut self, cookie: &[u8]) -> bool {
        // One association, one cookie: its random bytes are all there is to check. Whoever guesses
        // them has read them.
        if self.role != Role::Server || self.inbound.is_none() || cookie != self.cookie {
            return false;
        }
        if self.state == State::Closed {
            self.state = State::Established;
        }
        self.pending.cookie_ack = true;
        true
    }

    fn cookie_ack(&mut self) {
        if self.state == State::CookieEchoed {
            self.state = State::Established;
            self.peer_cookie = Box::default();
            self.pending.cookie_echo = false;
            self.control_timer = None;
            self.control_tries = 0;
        }
    }

    fn shutdown_received(&mut self, now: Instant, cumulative: u32) {
        if !self.is_open() {
            return;
        }
        self.outbound.cumulative(cumulative, now);
        match self.state {
            State::ShutdownSent => self.state = State::ShutdownAckSent,
            State::ShutdownAckSent | State::CookieEchoed => return,
            _ => self.state = State::ShutdownReceived,
        }
        if self.state == State::ShutdownAckSent {
            self.pending.shutdown_ack = true;
            self.control_tries = 0;
            self.control_timer = Some(now + self.control_patience());
        }
    }

    fn reconfigure(&mut self, parameters: &[u8]) {
        if !self.is_open() {
            return;
        }
        // A chunk has two at most (RFC 6525 section 3.1).
        for each in Reconfiguration::all(parameters).take(2) {
            match each {
                Reconfiguration::OutgoingReset { request, last, streams, .. } => {
                    self.reset_asked(request, last, streams);
                }
                Reconfiguration::Response { request, result } => {
                    if self.finish == Finish::Asked(request) && result != result::IN_PROGRESS {
                        // Refused or done: there is nothing more to be done about it.
                        self.finish = Finish::Done;
                        self.reset_timer = None;
                        self.pending.reset = false;
                    }
                }
                Reconfiguration::Other { request } => {
                    if request == self.peer_request {
                        self.peer_request = request.wrapping_add(1);
                        self.answer(request, result::DENIED);
                    } else {
                        self.repeat_answer(request);
                    }
                }
            }
        }
    }

    fn reset_asked(&mut self, request: u32, last: u32, streams: &[u8]) {
        if request != self.peer_request {
            self.repeat_answer(request);
            return;
        }
        let Some(inbound) = &mut self.inbound else { return };
        let own = inbound.stream().unwrap_or(0).to_be_bytes();
        if !streams.is_empty() && !streams.chunks_exact(2).any(|stream| stream == own) {
            self.peer_request = request.wrapping_add(1);
            self.answer(request, result::NOTHING);
        } else if inbound.reset(last, &self.config) {
            self.peer_request = request.wrapping_add(1);
            self.answer(request, result::PERFORMED);
        } else {
            self.peer_request = request.wrapping_add(1);
            self.awaited = Some((request, last));
            self.answer(request, result::IN_PROGRESS);
        }
    }

    fn repeat_answer(&mut self, request: u32) {
        self.pending.reset_answer = match self.last_answer {
            Some((known, result)) if known == request => Some((known, result)),
            _ => Some((request, result::BAD_SEQUENCE)),
        };
    }

    fn answer(&mut self, request: u32, result: u32) {
        self.last_answer = Some((request, result));
        self.pending.reset_answer = self.last_answer;
    }

    fn end(&mut self, why: End) {
        self.state = State::Ended(why);
        self.outbound.clear();
        self.control_timer = None;
        self.reset_timer = None;
        self.pending = Pending::default();
    }

    fn control_patience(&self) -> std::time::Duration {
        let doubled = 1 << self.control_tries.min(16);
        self.config.rto_initial.saturating_mul(doubled).min(self.config.rto_max)
    }

    /// Goes on where something was waited for.
    fn advance(&mut self, now: Instant) {
        if self.finish == Finish::Wanted && self.outbound.unsent() == 0 && self.is_established() {
            self.finish = Finish::Asked(self.own_request);
            self.own_request = self.own_request.wrapping_add(1);
            self.pending.reset = true;
            self.reset_tries = 0;
            self.reset_timer = Some(now + self.outbound.rto.current(&self.config));
        }
        if self.outbound.is_empty() {
            let next = match self.state {
                State::ShutdownPending => State::ShutdownSent,
                State::ShutdownReceived => State::ShutdownAckSent,
                _ => return,
            };
            self.state = next;
            self.pending.shutdown = next == State::ShutdownSent;
            self.pending.shutdown_ack = next == State::ShutdownAckSent;
            self.control_tries = 0;
            self.control_timer = Some(now + self.control_patience());
        }
    }

    /// Appends the next packet to `out`; its length, or `None` when there is nothing to be sent now.
    /// Asked until it answers `None`, after every other call.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<usize> {
        if self.pending.init && self.control_timer.is_none() {
            self.control_timer = Some(now + self.control_patience());
        }
        self.advance(now);
        let tag = if self.pending.init { 0 } else { self.peer_tag };
        let port = self.config.port;
        let mut writer = Writer::new(out, (port, port), tag, self.config.mtu);
        if self.fill_setup(&mut writer) {
            return writer.finish();
        }
        self.fill_control(&mut writer);
        let sends_data = matches!(
            self.state,
            State::Established | State::ShutdownPending | State::ShutdownReceived
        );
        let ppid = self.ppid();
        if self.is_open()
            && let Some(inbound) = &mut self.inbound
        {
            let wants = sends_data && self.outbound.wants_to_send();
            if inbound.is_due(now) || (wants && inbound.is_wanted()) {
                inbound.acknowledge(writer.room(), &self.config, |sack| {
                    writer.chunk(&Chunk::Sack(*sack));
                });
            }
            if sends_data {
                let stream = inbound.stream().unwrap_or(0);
                self.outbound.fill(&mut writer, stream, ppid, &self.config, now);
            }
        }
        writer.finish()
    }

    /// Existing clients say "string" until data has come, and nothing afterwards.
    fn ppid(&self) -> u32 {
        const STRING: u32 = 51;
        let silent = self.inbound.as_ref().is_none_or(|inbound| inbound.messages == 0);
        if self.role == Role::Client && silent { STRING } else { 0 }
    }

    /// Chunks that fill a packet of their own.
    fn fill_setup(&mut self, writer: &mut Writer<'_>) -> bool {
        let pending = &mut self.pending;
        if std::mem::take(&mut pending.abort) {
            writer.chunk(&Chunk::Abort { reflected: false, causes: &[] });
            return true;
        }
        if std::mem::take(&mut pending.shutdown_complete) {
            writer.chunk(&Chunk::ShutdownComplete { reflected: false });
            return true;
        }
        if !pending.init && !pending.init_ack {
            return false;
        }
        let answers = std::mem::take(&mut pending.init_ack);
        pending.init = false;
        let mut parameters = Vec::with_capacity(64);
        if answers {
            push_parameter(parameter::STATE_COOKIE, &self.cookie, false, &mut parameters);
        }
        push_parameter(parameter::SUPPORTED_EXTENSIONS, &EXTENSIONS, true, &mut parameters);
        let init = Init {
            tag: self.own_tag,
            window: self.config.receive_window,
            outbound: u16::MAX,
            inbound: u16::MAX,
            tsn: self.own_tsn,
            parameters: &parameters,
        };
        writer.chunk(&if answers { Chunk::InitAck(init) } else { Chunk::Init(init) });
        true
    }

    fn fill_control(&mut self, writer: &mut Writer<'_>) {
        let pending = &mut self.pending;
        if std::mem::take(&mut pending.cookie_echo) {
            writer.chunk(&Chunk::CookieEcho(&self.peer_cookie));
        }
        if std::mem::take(&mut pending.cookie_ack) {
            writer.chunk(&Chunk::CookieAck);
        }
        if let Some(value) = pending.heartbeat_ack.take() {
            writer.chunk(&Chunk::HeartbeatAck(&value));
        }
        if let Some((request, result)) = pending.reset_answer.take() {
            let mut parameters = Vec::with_capacity(12);
            Reconfiguration::Response { request, result }.push(&mut parameters);
            writer.chunk(&Chunk::ReConfig(&parameters));
        }
        if std::mem::take(&mut pending.reset)
            && let Finish::Asked(request) = self.finish
        {
            let stream = self.inbound.as_ref().and_then(|i| i.stream()).unwrap_or(0);
            let mut parameters = Vec::with_capacity(18);
            Reconfiguration::OutgoingReset {
                request,
                // As existing peers write it; nobody reads it.
                response: 0,
                last: self.outbound.last_tsn(),
                streams: &stream.to_be_bytes(),
            }
            .push(&mut parameters);
            writer.chunk(&Chunk::ReConfig(&parameters));
        }
        if std::mem::take(&mut pending.shutdown)
            && let Some(inbound) = &self.inbound
        {
            writer.chunk(&Chunk::Shutdown(inbound.cumulative()));
        }
        if std::mem::take(&mut pending.shutdown_ack) {
            writer.chunk(&Chunk::ShutdownAck);
        }
    }

    /// When [`Association::handle_timeout`] wants to be called; ask again after every other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.has_ended() {
            return None;
        }
        let acknowledgement = self.inbound.as_ref().and_then(|inbound| inbound.ack_timer());
        let timers = [acknowledgement, self.outbound.timer(), self.control_timer, self.reset_timer];
        timers.into_iter().flatten().min()
    }

    /// Acts on the timers that have expired by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let expired = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        if let Some(inbound) = &mut self.inbound
            && expired(inbound.ack_timer())
        {
            inbound.acknowledge_now();
        }
        if expired(self.outbound.timer()) {
            if self.outbound.expirations >= self.config.retransmissions {
                self.pending.abort = true;
                self.end_with_abort(End::Lost);
                return;
            }
            self.outbound.expired(&self.config, now);
        }
        if expired(self.control_timer) {
            self.repeat_control(now);
        }
        if expired(self.reset_timer) {
            self.reset_tries += 1;
            if self.reset_tries > MAX_FAREWELLS {
                self.finish = Finish::Done;
                self.reset_timer = None;
            } else {
                self.pending.reset = true;
                let patience = self.outbound.rto.current(&self.config);
                self.reset_timer = Some(now + patience);
            }
        }
        self.advance(now);
    }

    fn repeat_control(&mut self, now: Instant) {
        self.control_tries += 1;
        let (limit, end) = match self.state {
            State::CookieWait | State::CookieEchoed => {
                (self.config.init_retransmissions, End::NoAnswer)
            }
            _ => (MAX_FAREWELLS, End::Lost),
        };
        if self.control_tries > limit {
            self.end(end);
            return;
        }
        match self.state {
            State::CookieWait => self.pending.init = true,
            State::CookieEchoed => self.pending.cookie_echo = true,
            State::ShutdownSent => self.pending.shutdown = true,
            State::ShutdownAckSent => self.pending.shutdown_ack = true,
            _ => {
                self.control_timer = None;
                return;
            }
        }
        self.control_timer = Some(now + self.control_patience());
    }

    fn end_with_abort(&mut self, why: End) {
        let known = self.peer_tag != 0;
        self.end(why);
        self.pending.abort = known;
    }

    /// Takes a prefix of `bytes` for sending; its length, 0 when there is no room or the stream has
    /// ended. What is taken at once forms messages of at most 65,536 bytes.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if !self.takes_data() {
            return 0;
        }
        let mut taken = 0;
        while taken < bytes.len() {
            match self.outbound.write(&bytes[taken..], &self.config) {
                0 => break,
                n => taken += n,
            }
        }
        taken
    }

    /// Takes `message` as one message of its own, or answers false and takes nothing. Such a
    /// message may go a little beyond the bound of the buffer.
    pub fn write_message(&mut self, message: &[u8]) -> bool {
        self.takes_data() && self.outbound.write_message(message, &self.config)
    }

    const fn takes_data(&self) -> bool {
        let open = !matches!(
            self.state,
            State::ShutdownPending
                | State::ShutdownSent
                | State::ShutdownReceived
                | State::ShutdownAckSent
                | State::Ended(_)
        );
        open && matches!(self.finish, Finish::No)
    }

    /// Bytes that [`Association::write`] would take.
    pub fn writable(&self) -> usize {
        if self.takes_data() { self.outbound.room(&self.config) } else { 0 }
    }

    /// Bytes that were written and have not arrived.
    pub fn unacknowledged(&self) -> usize {
        self.outbound.held()
    }

    /// The next bytes of the peer's stream; more may follow once they are consumed.
    pub fn readable(&self) -> &[u8] {
        self.inbound.as_ref().map_or(&[], |inbound| inbound.readable())
    }

    /// Forgets the first `n` of the readable bytes. A window update may be due afterwards.
    pub fn consume(&mut self, n: usize) {
        if let Some(inbound) = &mut self.inbound {
            inbound.consume(n, &self.config);
        }
    }

    /// Reads into `out`; the number of bytes, 0 when there are none.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut read = 0;
        while read < out.len() {
            let bytes = self.readable();
            let n = bytes.len().min(out.len() - read);
            if n == 0 {
                break;
            }
            out[read..read + n].copy_from_slice(&bytes[..n]);
            self.consume(n);
            read += n;
        }
        read
    }

    /// Whether the peer's stream has ended and everything was read.
    pub fn is_read_to_end(&self) -> bool {
        let over = self.has_ended() || self.inbound.as_ref().is_some_and(|inbound| inbound.ended);
        over && self.readable().is_empty()
    }

    /// Whether the peer's stream has ended in order.
    pub fn peer_finished(&self) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| inbound.ended)
    }

    /// Ends our stream behind what was written: the peer reads its end, and may go on sending.
    pub fn finish(&mut self) {
        if self.finish == Finish::No && !self.has_ended() {
            self.finish = Finish::Wanted;
        }
    }

    /// Whether our stream has ended and everything has arrived.
    pub fn is_finished(&self) -> bool {
        self.has_ended() || (self.finish == Finish::Done && self.outbound.is_empty())
    }

    /// Ends the association once everything that was written has arrived.
    pub const fn shutdown(&mut self) {
        if matches!(self.state, State::Established) {
            self.state = State::ShutdownPending;
        }
    }

    /// Ends the association at once and tells the peer.
    pub fn abort(&mut self) {
        if !self.has_ended() {
            self.end_with_abort(End::Broken);
        }
    }

    /// Whether it is set up.
    pub const fn is_established(&self) -> bool {
        !matches!(
            self.state,
            State::Closed | State::CookieWait | State::CookieEchoed | State::Ended(_)
        )
    }

    /// Whether any DATA chunk has arrived.
    pub fn has_heard_data(&self) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| inbound.stream().is_some())
    }

    /// Why it has ended; `None` while it has not.
    pub const fn ended(&self) -> Option<End> {
        match self.state {
            State::Ended(why) => Some(why),
            _ => None,
        }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        if let Some(inbound) = &self.inbound {
            counters.stray_bytes = inbound.stray_bytes;
            counters.keepalives = inbound.keepalives;
            counters.messages = inbound.messages;
        }
        counters.retransmitted = self.outbound.retransmitted;
        counters.timeouts = self.outbound.timeouts;
        counters.probes = self.outbound.probes;
        counters.sent = self.outbound.departed;
        counters.acknowledged = self.outbound.arrived;
        counters
    }

    /// Bytes that are held for reader and network; the receiving half never exceeds two receive
    /// windows, the sending half its buffer.
    pub fn held(&self) -> usize {
        self.outbound.held() + self.inbound.as_ref().map_or(0, |inbound| inbound.memory())
    }

    /// Longest packet that it makes.
    pub const fn mtu(&self) -> usize {
        self.config.mtu
    }
}
