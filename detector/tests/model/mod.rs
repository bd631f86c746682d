//! The decisions of `spec/detector.md` 4 to 6 as plainly as they read there: text keys, offsets
//! written out, a queue of deadlines. Nothing here is fast, and nothing is shared with the detector
//! but the two test strings.
//!
//! Three rules come from elsewhere in the specification: a payload too short for a tag and a flow
//! that turns out to be TLS 1.3 are not checked (16.4), a stale deadline does not end a later flow
//! (6, "New"), and a session is extended only when less than 290 s remain (12, "tolerance").

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a packet leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// The IP packet goes to the host.
    Forward(Vec<u8>),
    /// The payload is checked for a tag.
    Check { client: IpAddr, decoy: IpAddr, payload: Vec<u8> },
    /// A connectivity test is reported.
    Log(&'static str, SocketAddr, SocketAddr),
}

/// Cumulative counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) v4: u64,
    pub(crate) v6: u64,
    pub(crate) tcp: u64,
    pub(crate) tls: u64,
    pub(crate) tls_bytes: u64,
    pub(crate) syns: u64,
    pub(crate) truncated: u64,
    pub(crate) tags: u64,
    pub(crate) short: u64,
    pub(crate) tls13: u64,
    pub(crate) forwarded: u64,
}

macro_rules! branches {
    ($($name:ident),* $(,)?) => {
        /// Every way that a packet, a command or the passage of time can go.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Branch { $($name),* }

        impl Branch {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

branches! {
    ShorterThanOffset, ShortEthernet, OtherEtherType, ShortVlan, VlanV4, VlanV6, VlanOther,
    ShortV4, ShortV6, PlainV4, PlainV6, V4Options, V4ShortHeaderLength, LengthEndsFirst,
    CaptureEndsFirst, EmptySlice, ShortTcp, ShortUdp, OtherProtocol, TcpOptions, TcpOptionsPastEnd,
    TcpSession, TcpSessionFin, TcpSessionFiltered, OtherPort, Syn, SynAgain, SynWithMore,
    EndsTracked, EndsUntracked, Untracked, UntrackedData, ApplicationData, ApplicationDataShort,
    FiveBytes, Tls13, TcpTest, OtherSegment, UdpSession, UdpSessionFiltered, Quic, UdpTest, Dns,
    OtherUdp, V6Flow, V6Session, FlowExpires, StaleDeadline, SessionInserted, SessionProlonged,
    SessionNotShortened, SessionExtended, SessionNotExtended, SessionExpires, Cleared,
}

/// The model of one worker and its sessions.
pub(crate) struct Model {
    offset: usize,
    filter: Vec<String>,
    sessions: HashMap<String, u64>,
    tracked: HashMap<String, u64>,
    deadlines: VecDeque<(u64, String)>,
    pub(crate) counts: Counts,
    /// How often each branch was taken, in the order of [`Branch::ALL`].
    pub(crate) taken: Vec<u64>,
}

/// An IP packet as far as the decisions look.
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    frame_len: u64,
    packet: &'a [u8],
}

fn session_key(udp: bool, client: IpAddr, phantom: IpAddr, port: u16) -> String {
    let letter = if udp { 'u' } else { 't' };
    match phantom {
        IpAddr::V4(_) => format!("{letter}-{client}-{phantom}-:{port}"),
        IpAddr::V6(_) => format!("{letter}-_-{phantom}-:{port}"),
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

impl Model {
    pub(crate) fn new(offset: usize, filter: &[IpAddr]) -> Self {
        Self {
            offset,
            filter: filter.iter().map(ToString::to_string).collect(),
            sessions: HashMap::new(),
            tracked: HashMap::new(),
            deadlines: VecDeque::new(),
            counts: Counts::default(),
            taken: vec![0; Branch::ALL.len()],
        }
    }

    pub(crate) fn tracked(&self) -> usize {
        self.tracked.len()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn take(&mut self, branch: Branch) {
        self.taken[branch as usize] += 1;
    }

    /// Section 4.
    pub(crate) fn frame(&mut self, captured: &[u8], now: u64) -> Option<Act> {
        self.counts.packets += 1;
        self.counts.bytes += captured.len().saturating_sub(self.offset) as u64;
        if captured.len() < self.offset {
            self.counts.truncated += 1;
            self.take(Branch::ShorterThanOffset);
            return None;
        }
        let f = &captured[self.offset..];
        if f.len() < 14 {
            self.counts.truncated += 1;
            self.take(Branch::ShortEthernet);
            return None;
        }
        let (six, at) = match word(f, 12) {
            0x0800 => (false, 14),
            0x86dd => (true, 14),
            0x8100 if f.len() < 18 => {
                self.counts.truncated += 1;
                self.take(Branch::ShortVlan);
                return None;
            }
            0x8100 => match word(f, 16) {
                0x0800 => {
                    self.take(Branch::VlanV4);
                    (false, 18)
                }
                0x86dd => {
                    self.take(Branch::VlanV6);
                    (true, 18)
                }
                _ => {
                    self.take(Branch::VlanOther);
                    return None;
                }
            },
            _ => {
                self.take(Branch::OtherEtherType);
                return None;
            }
        };
        let p = &f[at..];
        if p.len() < if six { 40 } else { 20 } {
            self.counts.truncated += 1;
            self.take(if six { Branch::ShortV6 } else { Branch::ShortV4 });
            return None;
        }
        let frame_len = captured.len() as u64;
        if six {
            self.counts.v6 += 1;
            self.take(Branch::PlainV6);
            let address = |at: usize| {
                let octets: [u8; 16] = p[at..at + 16].try_into().unwrap();
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            let ip = Ip { source: address(8), destination: address(24), frame_len, packet: p };
            let segment = self.slice(p, 40, 40 + word(p, 4));
            self.layer4(&ip, p[6], segment, now)
        } else {
            self.counts.v4 += 1;
            self.take(Branch::PlainV4);
            let address =
                |at: usize| IpAddr::V4(Ipv4Addr::new(p[at], p[at + 1], p[at + 2], p[at + 3]));
            let ip = Ip { source: address(12), destination: address(16), frame_len, packet: p };
            let header = 4 * usize::from(p[0] & 15);
            if header > 20 {
                self.take(Branch::V4Options);
            } else if header < 20 {
                self.take(Branch::V4ShortHeaderLength);
            }
            let start = if header > 20 { header } else { 20 };
            let total = word(p, 2);
            let length = total.saturating_sub(header);
            let segment = self.slice(p, start, start + length);
            self.layer4(&ip, p[9], segment, now)
        }
    }

    fn slice<'a>(&mut self, p: &'a [u8], start: usize, end: usize) -> &'a [u8] {
        if p.len() <= start || end <= start {
            self.take(Branch::EmptySlice);
            return &[];
        }
        if end <= p.len() {
            self.take(Branch::LengthEndsFirst);
            &p[start..end]
        } else {
            self.take(Branch::CaptureEndsFirst);
            &p[start..]
        }
    }

    fn layer4(&mut self, ip: &Ip<'_>, protocol: u8, segment: &[u8], now: u64) -> Option<Act> {
        match protocol {
            6 if segment.len() >= 20 => self.tcp(ip, segment, now),
            17 if segment.len() >= 8 => self.udp(ip, segment, now),
            6 => {
                self.take(Branch::ShortTcp);
                None
            }
            17 => {
                self.take(Branch::ShortUdp);
                None
            }
            _ => {
                self.take(Branch::OtherProtocol);
                None
            }
        }
    }

    /// Section 5, TCP.
    fn tcp(&mut self, ip: &Ip<'_>, segment: &[u8], now: u64) -> Option<Act> {
        self.counts.tcp += 1;
        let (source_port, port) = (word(segment, 0) as u16, word(segment, 2) as u16);
        let flags = segment[13];
        let (fin, syn, rst, ack) =
            (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
        let header = 4 * usize::from(segment[12] >> 4);
        if header > 20 {
            self.take(Branch::TcpOptions);
        }
        let start = if header > 20 { header } else { 20 };
        let payload = if start > segment.len() {
            self.take(Branch::TcpOptionsPastEnd);
            &[]
        } else {
            &segment[start..]
        };

        let key = session_key(false, ip.source, ip.destination, port);
        if self.sessions.contains_key(&key) {
            if self.filter.contains(&ip.source.to_string()) {
                self.take(Branch::TcpSessionFiltered);
            } else {
                self.take(if fin || rst { Branch::TcpSessionFin } else { Branch::TcpSession });
                return Some(self.forward(&key, ip, now));
            }
        }
        if port != 443 {
            self.take(Branch::OtherPort);
            return None;
        }
        self.counts.tls += 1;
        self.counts.tls_bytes += ip.frame_len;
        let source = SocketAddr::new(ip.source, source_port);
        let destination = SocketAddr::new(ip.destination, port);
        let flow = format!("{source} {destination}");
        if syn && !ack {
            self.counts.syns += 1;
            if fin || rst || !payload.is_empty() {
                self.take(Branch::SynWithMore);
            }
            self.start(flow, now);
            return None;
        }
        if rst || fin {
            let was = self.tracked.remove(&flow).is_some();
            self.take(if was { Branch::EndsTracked } else { Branch::EndsUntracked });
            return None;
        }
        let application_data = payload.len() > 5 && payload[0] == 0x17;
        if !self.tracked.contains_key(&flow) {
            self.take(if application_data { Branch::UntrackedData } else { Branch::Untracked });
            return None;
        }
        if ip.source.is_ipv6() {
            self.take(Branch::V6Flow);
        }
        if application_data {
            self.counts.tags += 1;
            self.tracked.remove(&flow);
            if payload.len() < 121 {
                self.counts.short += 1;
                self.take(Branch::ApplicationDataShort);
                return None;
            }
            self.take(Branch::ApplicationData);
            let (client, decoy) = (ip.source, ip.destination);
            return Some(Act::Check { client, decoy, payload: payload.to_vec() });
        }
        if payload.len() >= 7 && payload[..7] == [0x14, 3, 3, 0, 1, 1, 0x17] {
            self.counts.tls13 += 1;
            self.tracked.remove(&flow);
            self.take(Branch::Tls13);
            return None;
        }
        if payload == detector::test_strings::TCP {
            self.take(Branch::TcpTest);
            return Some(Act::Log("tcp_test", source, destination));
        }
        let near = payload.len() == 5 && payload[0] == 0x17;
        self.take(if near { Branch::FiveBytes } else { Branch::OtherSegment });
        None
    }

    /// Section 5, UDP.
    fn udp(&mut self, ip: &Ip<'_>, datagram: &[u8], now: u64) -> Option<Act> {
        let (source_port, port) = (word(datagram, 0) as u16, word(datagram, 2) as u16);
        if port == 443 {
            self.counts.tls += 1;
            self.counts.tls_bytes += ip.frame_len;
        }
        let key = session_key(true, ip.source, ip.destination, port);
        if self.sessions.contains_key(&key) {
            if self.filter.contains(&ip.source.to_string()) {
                self.take(Branch::UdpSessionFiltered);
            } else {
                self.take(Branch::UdpSession);
                return Some(self.forward(&key, ip, now));
            }
        }
        if port != 53 {
            self.take(if port == 443 { Branch::Quic } else { Branch::OtherUdp });
            return None;
        }
        let wanted = detector::test_strings::UDP;
        let mut at = 8;
        while at + wanted.len() <= datagram.len() {
            if datagram[at..at + wanted.len()] == *wanted {
                self.take(Branch::UdpTest);
                let source = SocketAddr::new(ip.source, source_port);
                return Some(Act::Log("udp_test", source, SocketAddr::new(ip.destination, port)));
            }
            at += 1;
        }
        self.take(Branch::Dns);
        None
    }

    fn forward(&mut self, key: &str, ip: &Ip<'_>, now: u64) -> Act {
        self.counts.forwarded += 1;
        if ip.source.is_ipv6() {
            self.take(Branch::V6Session);
        }
        let expiry = self.sessions.get_mut(key).unwrap();
        let extend = *expiry < now + 290_000;
        if extend {
            *expiry = now + 300_000;
        }
        self.take(if extend { Branch::SessionExtended } else { Branch::SessionNotExtended });
        Act::Forward(ip.packet.to_vec())
    }

    /// Section 6.
    fn start(&mut self, flow: String, now: u64) {
        let deadline = now + 30_000;
        self.deadlines.push_back((deadline, flow.clone()));
        let known = self.tracked.insert(flow, deadline).is_some();
        self.take(if known { Branch::SynAgain } else { Branch::Syn });
    }

    /// The cleanup that comes every 100 ms.
    pub(crate) fn clean(&mut self, now: u64) {
        while self.deadlines.front().is_some_and(|(deadline, _)| *deadline <= now) {
            let (deadline, flow) = self.deadlines.pop_front().unwrap();
            if self.tracked.get(&flow) == Some(&deadline) {
                self.tracked.remove(&flow);
                self.take(Branch::FlowExpires);
            } else {
                self.take(Branch::StaleDeadline);
            }
        }
        let before = self.sessions.len();
        self.sessions.retain(|_, expiry| *expiry > now);
        if self.sessions.len() < before {
            self.take(Branch::SessionExpires);
        }
    }

    /// Section 12: New and Update.
    pub(crate) fn upsert(&mut self, key: &session::SessionKey, remaining_ms: u64, now: u64) {
        let client = key.client.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let udp = key.proto == session::Proto::Udp;
        let text = session_key(udp, client.into(), key.phantom, key.dst_port);
        let ends = now + remaining_ms;
        let branch = match self.sessions.get(&text) {
            None => Branch::SessionInserted,
            Some(expiry) if *expiry < ends => Branch::SessionProlonged,
            Some(_) => Branch::SessionNotShortened,
        };
        if branch != Branch::SessionNotShortened {
            self.sessions.insert(text, ends);
        }
        self.take(branch);
    }

    /// Section 12: Clear.
    pub(crate) fn clear(&mut self) {
        self.sessions.clear();
        self.take(Branch::Cleared);
    }
}
