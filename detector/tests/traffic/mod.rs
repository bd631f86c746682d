//! Traffic from a seed: few hosts, so that packets meet in flows and sessions, and every oddity that
//! a header can have.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use session::{Proto, SessionKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A source in the filter list, of each family.
pub(crate) const FILTERED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200)),
];

/// What happens next.
#[derive(Debug)]
pub(crate) enum Event {
    Frame(Vec<u8>),
    Upsert(SessionKey, Duration),
    Clear,
    /// Milliseconds go by, a multiple of 100.
    Wait(u64),
}

pub(crate) struct Traffic {
    rng: ChaCha20Rng,
    /// Frames that were recorded, some of which are sent as they are.
    recorded: Vec<Vec<u8>>,
}

impl Traffic {
    pub(crate) fn new(seed: u64, recorded: Vec<Vec<u8>>) -> Self {
        Self { rng: ChaCha20Rng::seed_from_u64(seed), recorded }
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u32) -> u32 {
        self.rng.next_u32() % limit
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    pub(crate) fn next(&mut self) -> Event {
        match self.below(10_000) {
            0..40 => Event::Upsert(self.session_key(), self.remaining()),
            40..65 => Event::Wait(100),
            65..67 => Event::Wait(self.pick(&[2_000, 9_900, 29_900, 30_000, 30_100])),
            67 if self.one_in(4) => Event::Wait(self.pick(&[289_900, 299_900, 300_000, 310_000])),
            68 if self.one_in(2) => Event::Clear,
            70..200 if !self.recorded.is_empty() => {
                let at = self.below(self.recorded.len() as u32) as usize;
                Event::Frame(self.recorded[at].clone())
            }
            _ => Event::Frame(self.frame()),
        }
    }

    fn remaining(&mut self) -> Duration {
        Duration::from_millis(self.pick(&[100, 1_000, 30_000, 300_000, 600_000]))
    }

    fn phantom(&mut self, six: bool) -> Vec<u8> {
        let host = self.below(6) as u8;
        if six {
            vec![0x20, 1, 0xd, 0xb8, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
        } else {
            vec![192, 122, 190, host]
        }
    }

    fn client(&mut self, six: bool) -> Vec<u8> {
        let (filtered, host) = (self.one_in(20), self.below(8) as u8);
        match (six, filtered) {
            (true, true) => vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0],
            (true, false) => vec![0x20, 1, 0xd, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host],
            (false, true) => vec![192, 0, 2, 200],
            (false, false) => vec![203, 0, 113, host],
        }
    }

    fn session_port(&mut self) -> u16 {
        self.pick(&[443, 443, 80, 53])
    }

    fn session_key(&mut self) -> SessionKey {
        let six = self.one_in(3);
        let address = |octets: Vec<u8>| match <[u8; 4]>::try_from(octets.as_slice()) {
            Ok(octets) => IpAddr::from(octets),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()),
        };
        let proto = self.pick(&[Proto::Tcp, Proto::Udp]);
        let (phantom, client) = (address(self.phantom(six)), address(self.client(six)));
        let client = match client {
            IpAddr::V4(client) => Some(client),
            IpAddr::V6(_) => None,
        };
        SessionKey { proto, phantom, client, dst_port: self.session_port() }
    }

    fn frame(&mut self) -> Vec<u8> {
        let six = self.one_in(3);
        let phantom = self.one_in(4);
        let source = self.client(six);
        let destination = if phantom {
            self.phantom(six)
        } else {
            let mut decoy = self.client(six);
            decoy[0] = if six { 0x26 } else { 198 };
            decoy
        };
        let source_port = 4000 + self.below(3) as u16;
        let (protocol, segment) = match self.below(20) {
            0..14 => (6, self.tcp(source_port, phantom)),
            14..19 => (17, self.udp(source_port, phantom)),
            _ => (self.pick(&[1, 50, 58, 0]), self.bytes(40)),
        };
        let mut packet = if six {
            self.v6(&source, &destination, protocol, &segment)
        } else {
            self.v4(&source, &destination, protocol, &segment)
        };
        let padding = if self.one_in(4) { self.below(20) as usize } else { 0 };
        packet.extend(std::iter::repeat_n(0x17, padding));
        let ethertype: u16 = if six { 0x86dd } else { 0x0800 };
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        match self.below(40) {
            0..6 => frame.extend([0x81, 0, 0, 7]),
            6 => frame.extend([0x81, 0, 0, 7, 0x81, 0, 0, 8]),
            7 => frame.extend([0x08, 0x06]),
            _ => {}
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        if self.one_in(12) {
            // Half of the cuts hit the headers.
            let limit = if self.one_in(2) { frame.len().min(80) } else { frame.len() };
            frame.truncate(self.below(limit as u32 + 1) as usize);
        }
        frame
    }

    fn v4(&mut self, source: &[u8], destination: &[u8], protocol: u8, segment: &[u8]) -> Vec<u8> {
        let words = match self.below(30) {
            0 => self.below(5),
            1..3 => 5 + self.below(11),
            _ => 5,
        };
        let options = (words.max(5) as usize - 5) * 4;
        let mut packet = vec![0x40 | words as u8, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
        packet.extend(source);
        packet.extend(destination);
        packet.extend(vec![1; options]);
        packet.extend(segment);
        let total = self.announced(words as usize * 4 + segment.len());
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet
    }

    fn v6(&mut self, source: &[u8], destination: &[u8], next: u8, segment: &[u8]) -> Vec<u8> {
        let length = self.announced(segment.len());
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet.extend(source);
        packet.extend(destination);
        packet.extend(segment);
        packet
    }

    /// A length field: mostly the truth.
    fn announced(&mut self, truth: usize) -> u16 {
        match self.below(40) {
            0 => 0,
            1 => self.below(truth as u32 + 1) as u16,
            2 => (truth + self.below(30) as usize) as u16,
            3 => 19 + self.below(3) as u16,
            4 => 39 + self.below(3) as u16,
            _ => truth as u16,
        }
    }

    fn tcp(&mut self, source_port: u16, phantom: bool) -> Vec<u8> {
        let port = match self.below(10) {
            0 => 80,
            1 if phantom => self.session_port(),
            _ => 443,
        };
        let flags = match self.below(20) {
            0..5 => 0x02,
            5 => self.pick(&[0x03, 0x06, 0xc2, 0x0a]),
            6 => self.pick(&[0x11, 0x04, 0x14, 0x01]),
            7 => self.pick(&[0x12, 0x13, 0x00, 0x20]),
            _ => self.pick(&[0x10, 0x18]),
        };
        let payload = if flags & 2 != 0 && !self.one_in(10) { Vec::new() } else { self.segment() };
        let words = match self.below(20) {
            0 => self.below(5),
            1..3 => 5 + self.below(11),
            _ => 5,
        };
        // A header that announces more options than there are reaches into the payload.
        let options = if self.one_in(30) { 0 } else { words.max(5) as usize - 5 };
        let mut segment = Vec::new();
        segment.extend(source_port.to_be_bytes());
        segment.extend(port.to_be_bytes());
        // Every other segment starts where the others do.
        segment.extend(if self.one_in(2) { vec![0; 8] } else { self.bytes(8) });
        segment.extend([(words as u8) << 4, flags, 4, 0, 0, 0, 0, 0]);
        segment.extend(vec![1; options * 4]);
        segment.extend(payload);
        if self.one_in(40) {
            segment.truncate(self.below(24) as usize);
        }
        segment
    }

    /// Payload of a segment. What ends a flow is rare, so that flows live on to other ends.
    fn segment(&mut self) -> Vec<u8> {
        let (first, len) = match self.below(24) {
            0..4 => return Vec::new(),
            4 => return detector::test_strings::TCP.to_vec(),
            5 => {
                let mut near = detector::test_strings::TCP.to_vec();
                let at = self.below(near.len() as u32) as usize;
                near[at] ^= 1;
                return near;
            }
            6 => {
                let mut start = vec![0x14, 3, 3, 0, 1, 1, 0x17];
                start[6] = self.pick(&[0x17, 0x17, 0x16]);
                start.extend(self.bytes(20));
                return start;
            }
            7 => return vec![0x14, 3, 3, 0, 1, 1],
            8 => (0x17, self.pick(&[1, 4, 5])),
            9 => (0x17, self.pick(&[6, 7, 111, 112, 120])),
            10..12 => (0x17, self.pick(&[121, 122, 200])),
            12 => (0x17, 200 + self.below(1200)),
            13..18 => (0x16, 5 + self.below(300)),
            _ => (self.rng.next_u32() as u8, 1 + self.below(100)),
        };
        let mut payload = self.bytes(len as usize);
        payload[0] = first;
        if payload.len() >= 5 {
            // Records that end with their segment, and such that do not.
            let body = match self.below(3) {
                0 => payload.len() as u32 - 5,
                1 => payload.len() as u32 + self.below(40),
                _ => self.below(65_536),
            };
            payload[1..5].copy_from_slice(&[3, 3, (body >> 8) as u8, body as u8]);
        }
        payload
    }

    fn udp(&mut self, source_port: u16, phantom: bool) -> Vec<u8> {
        let port = if phantom { self.session_port() } else { self.pick(&[443, 53, 53, 123]) };
        let mut datagram = Vec::new();
        datagram.extend(source_port.to_be_bytes());
        datagram.extend(port.to_be_bytes());
        datagram.extend(self.bytes(4));
        if self.one_in(3) {
            let (before, after) = (self.below(40) as usize, self.below(20) as usize);
            datagram.extend(self.bytes(before));
            let mut text = detector::test_strings::UDP.to_vec();
            if self.one_in(3) {
                text.pop();
            }
            datagram.extend(text);
            datagram.extend(self.bytes(after));
        } else {
            let len = self.below(300) as usize;
            datagram.extend(self.bytes(len));
        }
        if self.one_in(30) {
            datagram.truncate(self.below(10) as usize);
        }
        datagram
    }
}
