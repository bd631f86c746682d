//! What becomes of a packet (`spec/detector.md` 5): the part of a worker that knows no I/O.
//!
//! A [`Worker`] is fed frames and the time. What it wants done goes out through its [`Exits`].
//! Nothing on the way of a packet allocates, formats or waits.

use crate::clock::Millis;
use crate::counters::Counters;
use crate::fast_path::{FastFlows, Tables};
use crate::filter::Filter;
use crate::flows::{self, Flow, Flows};
use crate::pending::Outcome;
use crate::sessions::{Match, PackedKey, Sessions};
use crate::straddling::{self, Straddling};
use crate::test_strings;
use crate::triage::{GROUP, Group};
use arc_swap::ArcSwap;
use capture::tun::Sent;
use packet::{Frame, Ignored, Ip, Ipv4, Ipv6, Tcp, Transport, Udp, completion};
use session::Proto;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const HTTPS: u16 = 443;
const DNS: u16 = 53;

/// Which connectivity test an operator's probe asked for (`spec/detector.md` 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestString {
    /// The TCP text on a followed flow.
    Tcp,
    /// The DNS name in a datagram to port 53.
    Udp,
}

/// A client's TLS flow, as a registration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// Address of the client.
    pub client: IpAddr,
    /// Address of the decoy.
    pub decoy: IpAddr,
}

/// What a worker wants done.
pub trait Exits {
    /// Hands an IP packet of a session to the host, before [`finish`](Self::finish) returns.
    fn forward(&mut self, packet: &[u8]);

    /// Ends a burst: what became of the packets that were forwarded since the last time.
    fn finish(&mut self) -> Sent;

    /// Queues a record that may carry a tag; false when its queue is full.
    fn candidate(&mut self, flow: Endpoints, payload: &[u8]) -> bool;

    /// Keeps the first packet of a session that is about to be announced.
    fn hold(&mut self, key: PackedKey, packet: &[u8], now: Millis) -> Outcome;

    /// Reports a connectivity test.
    fn test_string(&mut self, which: TestString, source: SocketAddr, destination: SocketAddr);
}

/// What a worker shares with others.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Sessions of all workers.
    pub sessions: Arc<Sessions>,
    /// Sources whose packets are not forwarded.
    pub filter: Arc<ArcSwap<Filter>>,
    /// Counters of this worker, which others read.
    pub counters: Arc<Counters>,
}

/// What one worker may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Flows over IPv4 that it follows, and four times those over IPv6.
    pub flows: usize,
    /// Records whose rest it waits for; 0 to check nothing but single segments.
    pub straddling: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { flows: flows::DEFAULT_CAPACITY, straddling: straddling::DEFAULT_RECORDS }
    }
}

/// The packet path of one queue.
#[derive(Debug)]
pub struct Worker<E> {
    pub(crate) shared: Shared,
    tunnel_offset: usize,
    pub(crate) flows: Flows,
    pub(crate) straddling: Straddling,
    /// Flows of sessions that need not come here.
    fast: FastFlows,
    pub(crate) exits: E,
    /// The layer-4 checksum of the present packet was never computed.
    is_incomplete: bool,
    /// A copy of it with the checksum.
    completed: Vec<u8>,
}

/// An IP packet, as far as the decisions need it.
pub(crate) trait Packet {
    fn key(&self, proto: Proto, port: u16) -> PackedKey;
    fn flow(&self, port: u16) -> Flow;
    fn source(&self) -> IpAddr;
    fn destination(&self) -> IpAddr;
    fn captured(&self) -> &[u8];
}

impl Packet for Ipv4<'_> {
    #[inline(always)]
    fn key(&self, proto: Proto, port: u16) -> PackedKey {
        PackedKey::v4(proto, Self::source(self), Self::destination(self), port)
    }

    #[inline(always)]
    fn flow(&self, port: u16) -> Flow {
        Flow::V4 { source: Self::source(self), destination: Self::destination(self), port }
    }

    fn source(&self) -> IpAddr {
        Self::source(self).into()
    }

    fn destination(&self) -> IpAddr {
        Self::destination(self).into()
    }

    fn captured(&self) -> &[u8] {
        Self::captured(self)
    }
}

impl Packet for Ipv6<'_> {
    #[inline(always)]
    fn key(&self, proto: Proto, port: u16) -> PackedKey {
        PackedKey::v6(proto, Self::destination(self), port)
    }

    #[inline(always)]
    fn flow(&self, port: u16) -> Flow {
        Flow::V6 { source: Self::source(self), destination: Self::destination(self), port }
    }

    fn source(&self) -> IpAddr {
        Self::source(self).into()
    }

    fn destination(&self) -> IpAddr {
        Self::destination(self).into()
    }

    fn captured(&self) -> &[u8] {
        Self::captured(self)
    }
}

impl<E: Exits> Worker<E> {
    /// A worker that skips `tunnel_offset` bytes of every frame.
    pub fn new(shared: Shared, tunnel_offset: usize, bounds: Bounds, exits: E) -> Self {
        let (flows, straddling) = (Flows::new(bounds.flows), Straddling::new(bounds.straddling));
        let (is_incomplete, completed) = (false, Vec::new());
        let fast = FastFlows::new(Tables::default());
        Self { shared, tunnel_offset, flows, straddling, fast, exits, is_incomplete, completed }
    }

    /// Lets flows of sessions pass in the kernel, when `tables` has a table, from the next [`clean`](Self::clean) on.
    #[must_use]
    pub fn with_fast_path(self, tables: Tables) -> Self {
        Self { fast: FastFlows::new(tables), ..self }
    }

    /// Decides about the frames of a burst, which were captured at `now`.
    #[inline]
    pub fn packets(&mut self, frames: &[&[u8]], now: Millis) {
        if let [frame] = frames {
            return self.packet(frame, now);
        }
        for group in frames.chunks(GROUP) {
            self.group(group, now);
        }
    }

    /// The same where those whose bit is set in `incomplete`, the first one's the lowest, came from this host without
    /// layer-4 checksum: the way into a tun device completes it (`spec/ingest.md` 10.3).
    #[cold]
    pub fn incomplete_packets(&mut self, frames: &[&[u8]], incomplete: u32, now: Millis) {
        for (number, frame) in (0..).zip(frames) {
            self.is_incomplete = incomplete.checked_shr(number).is_some_and(|bits| bits & 1 != 0);
            self.packet(frame, now);
        }
        self.is_incomplete = false;
    }

    fn group(&mut self, frames: &[&[u8]], now: Millis) {
        let (sessions, offset) = (&self.shared.sessions, self.tunnel_offset);
        let mut group = Group::look(frames, offset, sessions, &self.flows);
        for (number, frame) in frames.iter().enumerate().take(GROUP) {
            if !group.is_dull(number, frame.len(), &self.flows) {
                self.packet(frame, now);
            }
        }
        group.count(&self.shared.counters, offset);
    }

    /// Decides about one frame that was captured at `now`.
    #[inline]
    pub fn packet(&mut self, captured: &[u8], now: Millis) {
        let counters = &*self.shared.counters;
        counters.packets.add(1);
        counters.bytes.add(captured.len().saturating_sub(self.tunnel_offset) as u64);
        let frame = match Frame::parse(captured, self.tunnel_offset) {
            Ok(frame) => frame,
            Err(Ignored::NotIp) => return,
            Err(_) => return counters.truncated.add(1),
        };
        let transport = frame.transport();
        match &frame.ip {
            Ip::V4(ip) => {
                counters.v4.add(1);
                self.transport(ip, &transport, captured, now);
            }
            Ip::V6(ip) => {
                counters.v6.add(1);
                self.transport(ip, &transport, captured, now);
            }
        }
    }

    #[inline(always)]
    fn transport<P: Packet>(
        &mut self,
        ip: &P,
        transport: &Transport<'_>,
        frame: &[u8],
        now: Millis,
    ) {
        match transport {
            Transport::Tcp(tcp) => self.tcp(ip, tcp, frame, now),
            Transport::Udp(udp) => self.udp(ip, udp, frame, now),
            Transport::Other => {}
        }
    }

    #[inline(always)]
    fn tcp<P: Packet>(&mut self, ip: &P, tcp: &Tcp<'_>, frame: &[u8], now: Millis) {
        self.shared.counters.tcp.add(1);
        let port = tcp.destination_port();
        let key = ip.key(Proto::Tcp, port);
        let opens = tcp.flags().opens();
        if self.shared.sessions.may_match(key) && self.session(ip, key, opens, frame, now) {
            return;
        }
        if port != HTTPS {
            return;
        }
        let counters = &*self.shared.counters;
        counters.tls.add(1);
        counters.tls_bytes.add(frame.len() as u64);
        let flow = ip.flow(tcp.source_port());
        if opens {
            counters.syns.add(1);
            if self.shared.filter.load().follows(ip.destination()) {
                self.flows.start(&flow, now);
            } else {
                counters.syns_elsewhere.add(1);
            }
        } else if tcp.flags().ends() {
            self.flows.stop(&flow, now);
        } else if let Some(stage) = self.flows.advance(&flow, now) {
            self.followed(ip, tcp, &flow, stage, now);
        }
    }

    #[inline(always)]
    fn udp<P: Packet>(&mut self, ip: &P, udp: &Udp<'_>, frame: &[u8], now: Millis) {
        let port = udp.destination_port();
        if port == HTTPS {
            self.shared.counters.tls.add(1);
            self.shared.counters.tls_bytes.add(frame.len() as u64);
        }
        let key = ip.key(Proto::Udp, port);
        if self.shared.sessions.may_match(key) && self.session(ip, key, true, frame, now) {
            return;
        }
        if port == DNS && test_strings::is_udp(udp.payload()) {
            let source = (ip.source(), udp.source_port()).into();
            let destination = (ip.destination(), port).into();
            self.exits.test_string(TestString::Udp, source, destination);
        }
    }

    /// Looks closer at a packet whose phantom is (almost certainly) known. True when it is dealt
    /// with. Packets from the filter list go on as if there were no session, and are never held.
    #[inline(never)]
    fn session<P: Packet>(
        &mut self,
        ip: &P,
        key: PackedKey,
        first: bool,
        frame: &[u8],
        now: Millis,
    ) -> bool {
        if self.shared.filter.load().contains(ip.source()) {
            return false;
        }
        let mut packet = ip.captured();
        if self.is_incomplete {
            self.completed.clear();
            self.completed.extend_from_slice(packet);
            completion::complete(&mut self.completed);
            packet = &self.completed;
        }
        let outcome = match self.shared.sessions.lookup(key, now) {
            Match::None => Outcome::Ignored,
            Match::Live => Outcome::Forward,
            Match::Pending if first => self.exits.hold(key, packet, now),
            Match::Pending => Outcome::Ignored,
        };
        let counters = &*self.shared.counters;
        match outcome {
            Outcome::Ignored => return false,
            Outcome::Held => counters.held.add(1),
            Outcome::Forward => {
                self.exits.forward(packet);
                if self.tunnel_offset == 0 {
                    self.fast.forwarded(frame, key);
                }
            }
        }
        true
    }

    /// Ends a burst of packets; until then those of sessions may wait to go on together.
    #[inline]
    pub fn finish(&mut self) {
        let sent = self.exits.finish();
        let counters = &*self.shared.counters;
        counters.forwarded.add(sent.packets);
        counters.forwarded_bytes.add(sent.bytes);
        counters.forwarded_together.add(sent.together);
        counters.forward_errors.add(sent.lost);
    }

    /// Forgets a part of the flows that have expired; to be called every 100 ms.
    pub fn clean(&mut self, now: Millis) {
        self.flows.sweep(now);
        let (sessions, filter) = (&self.shared.sessions, self.shared.filter.load());
        self.fast.clean(sessions, &filter, &self.shared.counters, now);
        self.shared.counters.tracked.set(self.flows.tracked() as u64);
        self.shared.counters.evicted.set(self.flows.evicted());
        self.shared.counters.straddling_lost.set(self.straddling.lost());
    }

    /// Bytes that the tables take when they are full; they never take more.
    pub fn memory(&self) -> usize {
        self.flows.memory() + self.straddling.memory()
    }

    /// The flows that are followed.
    pub const fn flows(&mut self) -> &mut Flows {
        &mut self.flows
    }

    /// Where the worker's wishes go.
    pub const fn exits(&mut self) -> &mut E {
        &mut self.exits
    }

    /// Counters, sessions and filter list.
    pub const fn shared(&self) -> &Shared {
        &self.shared
    }
}
