//! The sending half: what waits, what is under way, what was lost.
//!
//! Bytes are copied once when they are written and once into each packet. A chunk counts as lost
//! when three packets that were sent after it have arrived, whether it was under way for the first
//! time or again (so the loss of a retransmission is found as well), or when the retransmission
//! timer expires. The timer runs whenever anything is under way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Config;
use crate::buffer::Buffer;
use crate::chunk::{BEGIN, DATA_HEADER, DataHeader, END, IMMEDIATE, Sack, UNORDERED};
use crate::congestion::Congestion;
use crate::packet::Writer;
use crate::rto::Rto;

/// Longest message that peers take (`spec/transports.md` 8.3).
pub(crate) const MAX_MESSAGE: usize = 65536;
/// Packets that may overtake a chunk before it counts as lost.
const REORDERING: u32 = 3;
/// Chunks under way at most.
const MAX_CHUNKS: usize = 4096;
/// Room for chunks and messages that an idle association keeps.
const KEPT_CHUNKS: usize = 64;
const KEPT_MESSAGES: usize = 16;
/// Room beyond the bound for a message that must not be cut.
const SLACK: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flying,
    Arrived,
    Lost,
}

/// A chunk that was sent and is not acknowledged cumulatively.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// Where its payload begins, in bytes since the beginning of the stream, wrapping.
    start: u32,
    /// Number of the packet that carried it last, wrapping.
    packet: u32,
    length: u16,
    ssn: u16,
    flags: u8,
    state: State,
    again: bool,
}

/// A message that was not sent completely.
#[derive(Debug, Clone, Copy)]
struct Message {
    left: u32,
    begun: bool,
    /// Nothing may be added to it.
    sealed: bool,
}

#[derive(Debug)]
pub(crate) struct Outbound {
    buffer: Buffer,
    /// Position of the buffer's first byte.
    position: u32,
    sent: VecDeque<Sent>,
    /// TSN of the first in `sent`, or the next one.
    first: u32,
    sent_bytes: usize,
    messages: VecDeque<Message>,
    ssn: u16,
    flight: usize,
    lost: usize,
    /// Chunks before this index are not lost.
    lost_from: usize,
    peer_window: usize,
    congestion: Congestion,
    pub(crate) rto: Rto,
    next_packet: u32,
    /// Losses of packets before this one were answered already.
    answered: Option<u32>,
    /// Nothing that was sent after the last answer has arrived.
    recovering: bool,
    /// The chunk that was sent again to find out about the end of a flight.
    probe: Option<u32>,
    /// A chunk whose round trip is measured.
    timed: Option<(u32, Instant)>,
    timer: Option<Instant>,
    last_sent: Option<Instant>,
    /// Time-outs since anything arrived.
    pub(crate) expirations: u32,
    /// The window was full since the last acknowledgement.
    full: bool,
    pub(crate) retransmitted: u64,
    pub(crate) timeouts: u64,
    pub(crate) probes: u64,
    pub(crate) departed: u64,
    pub(crate) arrived: u64,
}

impl Outbound {
    pub(crate) fn new(config: &Config, tsn: u32) -> Self {
        Self {
            buffer: Buffer::new(),
            position: 0,
            sent: VecDeque::new(),
            first: tsn,
            sent_bytes: 0,
            messages: VecDeque::new(),
            ssn: 0,
            flight: 0,
            lost: 0,
            lost_from: 0,
            peer_window: 0,
            congestion: Congestion::new(config.mtu, config.most_in_flight()),
            rto: Rto::new(),
            next_packet: 0,
            answered: None,
            recovering: false,
            probe: None,
            timed: None,
            timer: None,
            last_sent: None,
            expirations: 0,
            full: false,
            retransmitted: 0,
            timeouts: 0,
            probes: 0,
            departed: 0,
            arrived: 0,
        }
    }

    pub(crate) const fn set_peer_window(&mut self, window: u32) {
        self.peer_window = window as usize;
    }

    /// The TSN of the last chunk that was sent.
    pub(crate) fn last_tsn(&self) -> u32 {
        self.next_tsn().wrapping_sub(1)
    }

    fn next_tsn(&self) -> u32 {
        self.first.wrapping_add(self.sent.len() as u32)
    }

    /// Bytes that were not sent.
    pub(crate) fn unsent(&self) -> usize {
        self.buffer.len() - self.sent_bytes
    }

    /// Bytes that are kept.
    pub(crate) fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Whether everything written has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes that would be taken now.
    pub(crate) fn room(&self, config: &Config) -> usize {
        let room = config.send_buffer.saturating_sub(self.buffer.len());
        room.min(config.unsent.saturating_sub(self.unsent()))
    }

    /// Takes a prefix of `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8], config: &Config) -> usize {
        let taken = bytes.len().min(self.room(config)).min(MAX_MESSAGE);
        if taken == 0 {
            return 0;
        }
        self.buffer.extend(&bytes[..taken]);
        // Small writes share a chunk, or the queue of messages would be longer than its bytes.
        match self.messages.back_mut() {
            Some(m) if !m.begun && !m.sealed && m.left as usize + taken <= config.max_payload() => {
                m.left += taken as u32;
            }
            _ => {
                let message = Message { left: taken as u32, begun: false, sealed: false };
                self.messages.push_back(message);
            }
        }
        taken
    }

    /// Takes `message` as a message of its own, or not at all.
    pub(crate) fn write_message(&mut self, message: &[u8], config: &Config) -> bool {
        let over = self.unsent().saturating_sub(config.unsent) + message.len() > SLACK;
        if message.is_empty() || (message.len() > self.room(config) && over) {
            return false;
        }
        self.buffer.extend(message);
        let left = message.len() as u32;
        self.messages.push_back(Message { left, begun: false, sealed: true });
        true
    }

    /// Adds what may be sent now to a packet.
    pub(crate) fn fill(
        &mut self,
        writer: &mut Writer<'_>,
        stream: u16,
        ppid: u32,
        config: &Config,
        now: Instant,
    ) {
        let packet = self.next_packet;
        let before = writer.room();
        self.fill_lost(writer, stream, ppid, packet);
        if self.lost == 0 {
            self.fill_new(writer, stream, ppid, config, now);
        }
        if writer.room() != before {
            self.next_packet = packet.wrapping_add(1);
            self.last_sent = Some(now);
            self.arm(config, now);
        }
    }

    fn fill_lost(&mut self, writer: &mut Writer<'_>, stream: u16, ppid: u32, packet: u32) {
        while self.lost > 0 {
            let from = self.lost_from;
            let found = self.sent.iter().skip(from).position(|s| s.state == State::Lost);
            let Some(index) = found.map(|i| i + from) else {
                self.lost = 0;
                return;
            };
            self.lost_from = index;
            let tsn = self.first.wrapping_add(index as u32);
            let Some(chunk) = self.sent.get_mut(index) else { return };
            let length = usize::from(chunk.length);
            if writer.room() < DATA_HEADER + length.next_multiple_of(4)
                || (self.flight > 0 && self.flight >= self.congestion.window())
            {
                self.full = true;
                return;
            }
            chunk.state = State::Flying;
            chunk.again = true;
            chunk.packet = packet;
            let (start, ssn) = (chunk.start, chunk.ssn);
            let flags = chunk.flags | IMMEDIATE;
            self.lost -= 1;
            self.flight += length;
            self.retransmitted += 1;
            if index == 0 {
                // RFC 9260 section 6.3.2 R3 and 7.2.4.
                self.timer = None;
            }
            let offset = start.wrapping_sub(self.position) as usize;
            let payload = self.buffer.range(offset, length);
            writer.data(&DataHeader { flags, tsn, stream, ssn, ppid }, payload);
        }
    }

    fn fill_new(
        &mut self,
        writer: &mut Writer<'_>,
        stream: u16,
        ppid: u32,
        config: &Config,
        now: Instant,
    ) {
        let idle = self.rto.current(config);
        if self.sent.is_empty() && self.last_sent.is_some_and(|at| now - at > idle) {
            self.congestion.idle();
        }
        while let Some(message) = self.messages.front_mut() {
            let length = (message.left as usize).min(config.max_payload());
            if writer.room() < DATA_HEADER + length.next_multiple_of(4) {
                return;
            }
            // A chunk under way alone is the probe of a closed window (RFC 9260 section 6.1).
            let open = self.peer_window.saturating_sub(self.flight) >= length;
            if self.flight >= self.congestion.window() || self.sent.len() >= MAX_CHUNKS {
                self.full = true;
                return;
            }
            if !open && !self.sent.is_empty() {
                return;
            }
            let mut flags = if message.begun { 0 } else { BEGIN };
            message.begun = true;
            message.left -= length as u32;
            let ssn = self.ssn;
            if message.left == 0 {
                flags |= END;
                self.messages.pop_front();
                if !config.unordered {
                    self.ssn = ssn.wrapping_add(1);
                }
            }
            if config.unordered {
                flags |= UNORDERED;
            }
            let tsn = self.next_tsn();
            let payload = self.buffer.range(self.sent_bytes, length);
            writer.data(
                &DataHeader {
                    flags: if open { flags } else { flags | IMMEDIATE },
                    tsn,
                    stream,
                    ssn,
                    ppid,
                },
                payload,
            );
            self.sent.push_back(Sent {
                start: self.position.wrapping_add(self.sent_bytes as u32),
                packet: self.next_packet,
                length: length as u16,
                ssn,
                flags,
                state: State::Flying,
                again: false,
            });
            self.sent_bytes += length;
            self.departed += length as u64;
            self.flight += length;
            if self.timed.is_none() {
                self.timed = Some((tsn, now));
            }
        }
    }

    /// Whether a packet could take data along.
    pub(crate) fn wants_to_send(&self) -> bool {
        (self.lost > 0 || self.unsent() > 0) && self.flight < self.congestion.window()
    }

    /// Whether `tsn` was sent, or is the one before everything.
    fn was_sent(&self, tsn: u32) -> bool {
        tsn.wrapping_sub(self.first.wrapping_sub(1)) <= self.sent.len() as u32
    }

    /// Takes a SACK. False when it acknowledges what was never sent.
    pub(crate) fn acknowledged(&mut self, sack: &Sack<'_>, config: &Config, now: Instant) -> bool {
        if !self.was_sent(sack.cumulative) {
            // From before, overtaken by a later one; or from somebody who never saw our packets.
            return self.first.wrapping_sub(sack.cumulative) < 1 << 31;
        }
        let was_full = std::mem::take(&mut self.full);
        let arrived = self.cumulative(sack.cumulative, now);
        let advanced = arrived.is_some();
        let (beyond, newest) = self.gaps(sack, now);
        let bytes = arrived.unwrap_or(0) + beyond;
        self.arrived += bytes as u64;
        self.set_peer_window(sack.window);
        if let Some(newest) = newest {
            self.find_losses(newest);
        }
        if bytes > 0 {
            self.expirations = 0;
            self.probe = None;
            if was_full && !self.recovering {
                self.congestion.acknowledged(bytes);
            }
        } else if self.flight > 0 && self.peer_window == 0 {
            // The peer lives, its reader does not read (RFC 9260 section 6.1 A).
            self.expirations = 0;
            self.rto.progress();
        }
        if advanced {
            self.rto.progress();
            self.timer = None;
        }
        self.arm(config, now);
        true
    }

    /// Takes a cumulative TSN; the bytes that arrived with it, `None` when it is not new.
    pub(crate) fn cumulative(&mut self, tsn: u32, now: Instant) -> Option<usize> {
        if !self.was_sent(tsn) || tsn == self.first.wrapping_sub(1) {
            return None;
        }
        let (mut freed, mut arrived) = (0, 0);
        let mut last_packet = None;
        while self.first != tsn.wrapping_add(1) {
            let Some(chunk) = self.sent.pop_front() else { break };
            let length = usize::from(chunk.length);
            match chunk.state {
                State::Flying => self.flight -= length,
                State::Lost => self.lost -= 1,
                State::Arrived => {}
            }
            if chunk.state != State::Arrived {
                arrived += length;
                self.measure(self.first, chunk.again, now);
            }
            last_packet = Some(chunk.packet);
            freed += length;
            self.first = self.first.wrapping_add(1);
            self.lost_from = self.lost_from.saturating_sub(1);
        }
        self.buffer.consume(freed);
        self.position = self.position.wrapping_add(freed as u32);
        self.sent_bytes -= freed;
        if self.sent.is_empty() && self.sent.capacity() > KEPT_CHUNKS {
            self.sent = VecDeque::new();
        }
        if let (Some(answered), Some(packet)) = (self.answered, last_packet)
            && !before(packet, answered)
        {
            self.recovering = false;
        }
        if self.messages.is_empty() && self.messages.capacity() > KEPT_MESSAGES {
            self.messages = VecDeque::new();
        }
        Some(arrived)
    }

    /// Marks what gap blocks name: bytes that arrived, and the newest packet that did, among those
    /// whose chunks were sent once.
    fn gaps(&mut self, sack: &Sack<'_>, now: Instant) -> (usize, Option<u32>) {
        let (mut bytes, mut newest) = (0, None::<u32>);
        let mut next = 1;
        for (start, end) in sack.blocks() {
            let (start, end) = (usize::from(start), usize::from(end));
            // Blocks are in order and apart; work is bounded by what is under way.
            if start < next || end < start {
                break;
            }
            next = end + 1;
            for index in start - 1..end.min(self.sent.len()) {
                let chunk = &mut self.sent[index];
                if chunk.state == State::Arrived {
                    continue;
                }
                let length = usize::from(chunk.length);
                if chunk.state == State::Flying {
                    self.flight -= length;
                } else {
                    self.lost -= 1;
                }
                chunk.state = State::Arrived;
                bytes += length;
                let (packet, again) = (chunk.packet, chunk.again);
                // The arrival of a chunk that was sent twice says nothing about later packets, save
                // for a probe, which went out so late that all before it have had their time.
                let tsn = self.first.wrapping_add(index as u32);
                let (telling, packet) = match self.probe {
                    Some(probe) if probe == tsn => (true, packet.wrapping_add(REORDERING)),
                    _ => (!again, packet),
                };
                if telling && newest.is_none_or(|n| before(n, packet)) {
                    newest = Some(packet);
                }
                self.measure(tsn, again, now);
            }
        }
        (bytes, newest)
    }

    fn measure(&mut self, tsn: u32, again: bool, now: Instant) {
        if let Some((timed, at)) = self.timed
            && timed == tsn
        {
            self.timed = None;
            // What was sent twice says nothing (Karn).
            if !again {
                self.rto.measured(now - at);
            }
        }
    }

    /// Marks what packets up to `newest` have overtaken.
    fn find_losses(&mut self, newest: u32) {
        let edge = newest.wrapping_sub(REORDERING);
        let mut again = false;
        for (index, chunk) in self.sent.iter_mut().enumerate() {
            if chunk.state != State::Flying || before(edge, chunk.packet) {
                continue;
            }
            chunk.state = State::Lost;
            self.flight -= usize::from(chunk.length);
            self.lost += 1;
            self.lost_from = self.lost_from.min(index);
            again |= self.answered.is_none_or(|until| !before(chunk.packet, until));
        }
        if again {
            self.congestion.lost();
            self.answered = Some(self.next_packet);
            self.recovering = true;
        }
    }

    pub(crate) const fn timer(&self) -> Option<Instant> {
        self.timer
    }

    /// Restores the rule that a timer runs while anything is under way.
    fn arm(&mut self, config: &Config, now: Instant) {
        if self.sent.is_empty() {
            self.timer = None;
        } else if self.timer.is_none() {
            let patience = self.patience(config).unwrap_or_else(|| self.rto.current(config));
            self.timer = Some(now + patience);
        }
    }

    /// When the end of a flight is asked for, if that is before the time-out (as in RFC 8985 section
    /// 7: two round trips, and the delay of the peer's acknowledgement).
    fn patience(&self, config: &Config) -> Option<Duration> {
        let round_trip = self.rto.smoothed()?;
        let patience = round_trip * 2 + config.ack_delay + Duration::from_millis(20);
        let first = self.probe.is_none() && self.expirations == 0 && self.peer_window > 0;
        (first && patience < self.rto.current(config)).then_some(patience)
    }

    /// Nothing arrived in time: the newest chunk is sent again, or everything under way counts as
    /// lost.
    pub(crate) fn expired(&mut self, config: &Config, now: Instant) {
        self.timer = None;
        if self.patience(config).is_some() && self.probe_end() {
            self.probes += 1;
            self.arm(config, now);
            return;
        }
        self.timeouts += 1;
        self.expirations += 1;
        self.rto.expired();
        if self.peer_window > 0 {
            self.congestion.expired();
        }
        self.recovering = false;
        self.answered = Some(self.next_packet);
        self.probe = None;
        self.timed = None;
        // A receiver may throw away what it had beyond a gap (RFC 9260 section 6.2). One that did
        // shows no progress even when the first chunk arrives.
        let distrust = self.expirations > 1;
        self.flight = 0;
        self.lost = 0;
        self.lost_from = 0;
        for chunk in &mut self.sent {
            if chunk.state != State::Arrived || distrust {
                chunk.state = State::Lost;
                self.lost += 1;
            }
        }
        self.arm(config, now);
    }

    /// Marks the newest chunk under way to be sent again; false when there is none.
    fn probe_end(&mut self) -> bool {
        let Some(index) = self.sent.iter().rposition(|s| s.state == State::Flying) else {
            return false;
        };
        self.sent[index].state = State::Lost;
        self.flight -= usize::from(self.sent[index].length);
        self.lost += 1;
        self.lost_from = self.lost_from.min(index);
        self.probe = Some(self.first.wrapping_add(index as u32));
        true
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.sent = VecDeque::new();
        self.messages = VecDeque::new();
        self.sent_bytes = 0;
        self.flight = 0;
        self.lost = 0;
        self.timer = None;
    }
}

/// Serial order of packet numbers.
const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
