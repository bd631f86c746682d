//! The receiving half: what is in order, what is beyond a gap, what to acknowledge.
//!
//! Bytes of the stream are delivered in the order of TSNs as they come, without waiting for the end
//! of their message: boundaries of messages carry no meaning (`spec/transports.md` 8.3). A message
//! whose stream sequence number comes early waits for its turn. An unordered message that is
//! complete beyond a gap is delivered at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::Config;
use crate::buffer::Buffer;
use crate::chunk::{BEGIN, Data, END, IMMEDIATE, Sack, UNORDERED};

/// What a chunk beyond a gap costs in memory besides its payload.
const OVERHEAD: usize = 96;
/// Duplicates that one SACK names at most.
const MAX_DUPLICATES: usize = 16;
/// Gap blocks that one SACK names at most.
const MAX_BLOCKS: usize = 128;
/// A TSN further ahead cannot be named in a gap block.
const MAX_AHEAD: u64 = u16::MAX as u64;
/// Messages that wait for an earlier stream sequence number at most.
const MAX_EARLY: usize = 64;

/// A chunk beyond a gap.
#[derive(Debug)]
struct Held {
    flags: u8,
    stream: u16,
    ssn: u16,
    payload: Box<[u8]>,
}

/// Where the fragments of the current message go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    /// To the reader.
    Delivered { ordered: bool },
    /// To the last of the early messages.
    Early,
    /// Nowhere.
    Dropped,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    New,
    Again,
    /// No room, or too far ahead.
    Refused,
}

#[derive(Debug)]
pub(crate) struct Inbound {
    /// Everything up to this TSN has arrived; the upper half counts wraps.
    cumulative: u64,
    /// What arrived beyond, as first and last TSN, in order and apart.
    runs: Vec<(u64, u64)>,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    duplicates: Vec<u32>,
    delivered: Buffer,
    /// Bytes at the end of `delivered` that may yet turn out to be the silent message.
    maybe_silent: usize,
    /// Bytes of the current message so far, while they equal the silent message's.
    matched: Option<usize>,
    stream: Option<u16>,
    next_ssn: u16,
    current: Option<Current>,
    early: VecDeque<(u16, bool, Vec<u8>)>,
    early_bytes: usize,
    /// The peer's stream has ended.
    pub(crate) ended: bool,
    pub(crate) keepalives: u64,
    pub(crate) messages: u64,
    pub(crate) stray_bytes: u64,
    /// Packets with DATA since the last SACK.
    unacknowledged: u32,
    immediate: bool,
    ack_timer: Option<Instant>,
    advertised: u32,
}

impl Inbound {
    /// `first` is the TSN that comes first.
    pub(crate) fn new(first: u32, config: &Config) -> Self {
        Self {
            // One wrap ahead, so that nothing below can underflow.
            cumulative: (1 << 32) + u64::from(first) - 1,
            runs: Vec::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            duplicates: Vec::new(),
            delivered: Buffer::new(),
            maybe_silent: 0,
            matched: None,
            stream: None,
            next_ssn: 0,
            current: None,
            early: VecDeque::new(),
            early_bytes: 0,
            ended: false,
            keepalives: 0,
            messages: 0,
            stray_bytes: 0,
            unacknowledged: 0,
            immediate: false,
            ack_timer: None,
            advertised: config.receive_window,
        }
    }

    pub(crate) const fn cumulative(&self) -> u32 {
        self.cumulative as u32
    }

    /// Stream of the first DATA chunk.
    pub(crate) const fn stream(&self) -> Option<u16> {
        self.stream
    }

    fn expand(&self, tsn: u32) -> u64 {
        let ahead = tsn.wrapping_sub(self.cumulative as u32) as i32;
        self.cumulative.wrapping_add_signed(i64::from(ahead))
    }

    fn used(&self) -> usize {
        self.delivered.len() + self.held_bytes + self.early_bytes
    }

    fn window(&self, config: &Config) -> u32 {
        config.receive_window.saturating_sub(u32::try_from(self.used()).unwrap_or(u32::MAX))
    }

    /// Bytes that the reader may have.
    pub(crate) fn readable(&self) -> &[u8] {
        let front = self.delivered.front();
        &front[..front.len().min(self.delivered.len() - self.maybe_silent)]
    }

    /// The reader has taken `n` bytes.
    pub(crate) fn consume(&mut self, n: usize, config: &Config) {
        self.delivered.consume(n.min(self.readable().len()));
        // A sender that waits for the window hears when it is worth its while.
        let (now, then) = (self.window(config), self.advertised);
        if then < config.receive_window / 2 && now >= then.saturating_add(config.receive_window / 4)
        {
            self.immediate = true;
        }
    }

    /// Takes a DATA chunk.
    pub(crate) fn data(&mut self, data: &Data<'_>, config: &Config) -> Taken {
        let tsn = self.expand(data.tsn);
        self.immediate |= data.flags & IMMEDIATE != 0;
        if tsn <= self.cumulative || self.has(tsn) {
            if self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(data.tsn);
            }
            self.immediate = true;
            return Taken::Again;
        }
        if tsn == self.cumulative + 1 {
            // What fills the gap is taken as long as the reader's part has room.
            let payload = data.payload.len();
            if self.delivered.len() + self.early_bytes + payload > config.receive_window as usize {
                self.immediate = true;
                return Taken::Refused;
            }
            self.cumulative = tsn;
            self.accept(data.flags, data.stream, data.ssn, data.payload, config);
            if !self.runs.is_empty() {
                self.immediate = true;
                self.close_gap(config);
            }
            return Taken::New;
        }
        self.immediate = true;
        let cost = data.payload.len() + OVERHEAD;
        if tsn - self.cumulative > MAX_AHEAD || self.used() + cost > config.receive_window as usize
        {
            return Taken::Refused;
        }
        self.note(tsn);
        if data.flags & (UNORDERED | BEGIN | END) == UNORDERED | BEGIN | END
            && self.may_overtake(data.stream)
        {
            self.append(data.payload, true, true, config);
            return Taken::New;
        }
        self.held_bytes += cost;
        let Data { flags, stream, ssn, payload, .. } = *data;
        self.held.insert(tsn, Held { flags, stream, ssn, payload: payload.into() });
        if flags & UNORDERED != 0 && self.may_overtake(stream) {
            self.overtake(tsn, config);
        }
        Taken::New
    }

    fn has(&self, tsn: u64) -> bool {
        let after = self.runs.partition_point(|run| run.1 < tsn);
        self.runs.get(after).is_some_and(|run| run.0 <= tsn)
    }

    /// Adds `tsn` to the runs.
    fn note(&mut self, tsn: u64) {
        let after = self.runs.partition_point(|run| run.1 < tsn);
        let joins_left = after > 0 && self.runs[after - 1].1 + 1 == tsn;
        let joins_right = self.runs.get(after).is_some_and(|run| run.0 == tsn + 1);
        match (joins_left, joins_right) {
            (true, true) => self.runs[after - 1].1 = self.runs.remove(after).1,
            (true, false) => self.runs[after - 1].1 = tsn,
            (false, true) => self.runs[after].0 = tsn,
            (false, false) => self.runs.insert(after, (tsn, tsn)),
        }
    }

    /// Goes on with what lies behind a gap that was filled.
    fn close_gap(&mut self, config: &Config) {
        while let Some(&(start, end)) = self.runs.first() {
            if start > self.cumulative + 1 {
                break;
            }
            self.runs.remove(0);
            self.cumulative = self.cumulative.max(end);
        }
        if self.runs.is_empty() {
            self.runs = Vec::new();
        }
        self.deliver_held(config);
    }

    fn deliver_held(&mut self, config: &Config) {
        let mut expected = None;
        while let Some(entry) = self.held.first_entry() {
            let tsn = *entry.key();
            if tsn > self.cumulative {
                break;
            }
            if expected.is_some_and(|expected| expected != tsn) {
                // What lies between was given up, or delivered ahead: both end a message.
                self.current = None;
            }
            expected = Some(tsn + 1);
            let held = entry.remove();
            self.held_bytes -= held.payload.len() + OVERHEAD;
            self.accept(held.flags, held.stream, held.ssn, &held.payload, config);
        }
    }

    /// Takes the chunk that follows the last one in the order of TSNs.
    fn accept(&mut self, flags: u8, stream: u16, ssn: u16, payload: &[u8], config: &Config) {
        let (begins, ends) = (flags & BEGIN != 0, flags & END != 0);
        if begins {
            let ours = *self.stream.get_or_insert(stream) == stream && !self.ended;
            let ordered = flags & UNORDERED == 0;
            self.current = Some(if !ours {
                Current::Dropped
            } else if !ordered || ssn == self.next_ssn {
                Current::Delivered { ordered }
            } else if self.early.len() < MAX_EARLY {
                self.early.push_back((ssn, false, Vec::new()));
                Current::Early
            } else {
                Current::Dropped
            });
        }
        // A fragment without its beginning, after TSNs that were given up.
        let Some(current) = self.current else { return };
        match current {
            Current::Delivered { .. } => self.append(payload, begins, ends, config),
            Current::Early => {
                if let Some((_, complete, bytes)) = self.early.back_mut() {
                    bytes.extend_from_slice(payload);
                    self.early_bytes += payload.len();
                    *complete = ends;
                }
            }
            Current::Dropped => self.stray_bytes += payload.len() as u64,
        }
        if ends {
            self.current = None;
            if current == (Current::Delivered { ordered: true }) {
                self.next_ssn = self.next_ssn.wrapping_add(1);
                self.deliver_early(config);
            }
        }
    }

    /// Delivers the messages whose turn has come.
    fn deliver_early(&mut self, config: &Config) {
        while let Some(index) = self.early.iter().position(|e| e.1 && e.0 == self.next_ssn) {
            let Some((_, _, message)) = self.early.remove(index) else { return };
            self.early_bytes -= message.len();
            self.append(&message, true, true, config);
            self.next_ssn = self.next_ssn.wrapping_add(1);
        }
        if self.early.is_empty() {
            self.early = VecDeque::new();
        }
    }

    /// Whether an unordered message may be delivered before what is missing.
    fn may_overtake(&self, stream: u16) -> bool {
        self.current.is_none() && self.stream == Some(stream) && !self.ended
    }

    /// Delivers the unordered message around `tsn` if it is complete.
    fn overtake(&mut self, tsn: u64, config: &Config) {
        let begins = self.held.range(..=tsn).rev().zip((0..=tsn).rev());
        let mut first = None;
        for ((&at, held), expected) in begins {
            if at != expected || held.flags & UNORDERED == 0 || (at < tsn && held.flags & END != 0)
            {
                return;
            }
            if held.flags & BEGIN != 0 {
                first = Some(at);
                break;
            }
        }
        let Some(first) = first else { return };
        let mut last = None;
        for ((&at, held), expected) in self.held.range(tsn..).zip(tsn..) {
            if at != expected
                || held.flags & UNORDERED == 0
                || (at > tsn && held.flags & BEGIN != 0)
            {
                return;
            }
            if held.flags & END != 0 {
                last = Some(at);
                break;
            }
        }
        let Some(last) = last else { return };
        for at in first..=last {
            if let Some(held) = self.held.remove(&at) {
                self.held_bytes -= held.payload.len() + OVERHEAD;
                self.append(&held.payload, at == first, at == last, config);
            }
        }
    }

    /// Appends a fragment to what the reader gets, unless it completes the silent message.
    fn append(&mut self, payload: &[u8], begins: bool, ends: bool, config: &Config) {
        let silent = config.keepalive;
        if begins {
            self.matched = (!silent.is_empty()).then_some(0);
        }
        self.matched = self.matched.and_then(|at| {
            let rest = &silent[at..];
            rest.starts_with(payload).then_some(at + payload.len())
        });
        if ends && self.matched == Some(silent.len()) {
            self.delivered.truncate(self.delivered.len() - self.maybe_silent);
            self.maybe_silent = 0;
            self.matched = None;
            self.keepalives += 1;
            return;
        }
        self.delivered.extend(payload);
        self.maybe_silent = if ends { 0 } else { self.matched.unwrap_or(0) };
        self.messages += u64::from(ends);
    }

    /// TSNs up to `tsn` will not come (RFC 3758).
    pub(crate) fn forward(&mut self, tsn: u32, streams: &[u8], config: &Config) {
        self.immediate = true;
        let tsn = self.expand(tsn);
        if tsn <= self.cumulative {
            return;
        }
        // What did arrive in between is delivered as far as it is complete in itself.
        self.cumulative = tsn;
        self.current = None;
        self.maybe_silent = 0;
        for pair in streams.chunks_exact(4) {
            let (stream, ssn) =
                (u16::from_be_bytes([pair[0], pair[1]]), u16::from_be_bytes([pair[2], pair[3]]));
            if self.stream == Some(stream) {
                self.next_ssn = ssn.wrapping_add(1);
            }
        }
        self.early.retain(|early| early.1);
        self.early_bytes = self.early.iter().map(|early| early.2.len()).sum();
        self.close_gap(config);
        self.deliver_early(config);
    }

    /// The peer's stream ends, if `last` has arrived; false when it has not.
    pub(crate) fn reset(&mut self, last: u32, config: &Config) -> bool {
        if self.expand(last) > self.cumulative {
            return false;
        }
        while let Some((_, _, message)) = self.early.pop_front() {
            self.append(&message, true, true, config);
        }
        self.early_bytes = 0;
        self.next_ssn = 0;
        self.ended = true;
        true
    }

    /// A packet with DATA is complete.
    pub(crate) fn packet(&mut self, config: &Config, now: Instant) {
        self.unacknowledged += 1;
        if self.unacknowledged >= 2 || !self.runs.is_empty() {
            self.immediate = true;
        }
        if self.ack_timer.is_none() {
            self.ack_timer = Some(now + config.ack_delay);
        }
    }

    pub(crate) const fn ack_timer(&self) -> Option<Instant> {
        if self.immediate { None } else { self.ack_timer }
    }

    pub(crate) const fn acknowledge_now(&mut self) {
        self.immediate = true;
    }

    /// Whether a SACK has to be sent now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.immediate || self.ack_timer.is_some_and(|at| at <= now)
    }

    /// Whether a packet that is sent anyway should take a SACK along.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.immediate || self.ack_timer.is_some()
    }

    /// Writes a SACK of at most `room` bytes through `write`.
    pub(crate) fn acknowledge(
        &mut self,
        room: usize,
        config: &Config,
        write: impl FnOnce(&Sack<'_>),
    ) {
        const FIXED: usize = 16;
        let words = room.saturating_sub(FIXED) / 4;
        let mut list = [0; 4 * (MAX_BLOCKS + MAX_DUPLICATES)];
        let blocks = self.runs.len().min(MAX_BLOCKS).min(words);
        let repeated = self.duplicates.len().min(words - blocks);
        let (gaps, duplicates) = list.split_at_mut(4 * blocks);
        for (place, run) in gaps.chunks_exact_mut(4).zip(&self.runs) {
            let offset = |tsn: u64| ((tsn - self.cumulative) as u16).to_be_bytes();
            place[..2].copy_from_slice(&offset(run.0));
            place[2..].copy_from_slice(&offset(run.1));
        }
        for (place, tsn) in duplicates.chunks_exact_mut(4).zip(&self.duplicates[..repeated]) {
            place.copy_from_slice(&tsn.to_be_bytes());
        }
        self.advertised = self.window(config);
        let sack = Sack {
            cumulative: self.cumulative(),
            window: self.advertised,
            gaps,
            duplicates: &duplicates[..4 * repeated],
        };
        write(&sack);
        self.duplicates = Vec::new();
        self.unacknowledged = 0;
        self.immediate = false;
        self.ack_timer = None;
    }

    /// Memory in use besides the value itself, in bytes; an upper estimate.
    pub(crate) fn memory(&self) -> usize {
        self.used() + self.runs.len() * 16 + self.early.len() * 40
    }
}
