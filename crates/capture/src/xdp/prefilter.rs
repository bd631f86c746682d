//! A stage in front of the sockets that drops what no detector needs (`spec/ingest.md` 9.3): frames that are
//! certainly neither TCP nor UDP over IPv4 or IPv6.
//!
//! What cannot be judged is kept: fragments after the first, headers that are cut off or inconsistent, more
//! VLAN tags or IPv6 extension headers than the balancer's walk skips (`spec/ingest.md` 9.1). Addresses in
//! the packet are fixed at each place, and what has no fixed address is read through the kernel: a program
//! may compute addresses only with CAP_PERFMON, which the balancer does not have.

use std::os::fd::AsRawFd;

use super::assembly::{Assembly, Label, STACK, code, seen};
use super::bpf::SocketMap;
use super::ethernet::{self, END, PACKET, VALUE};
use super::tally::{Tallied, Tally};
use super::text::{self, DROP};

/// Registers that keep their values over calls.
pub(super) const CONTEXT: u8 = 6;
const OFFSET: u8 = 7;
const NEXT: u8 = 8;
/// Registers that are free between calls.
const RESULT: u8 = 0;
const OTHER: u8 = 5;

const MAX_EXTENSIONS: usize = 8;

const TCP: i32 = 6;
const UDP: i32 = 17;
const FRAGMENT: i32 = 44;
/// Hop-by-hop options, routing, destination options: their second byte is their length in units of 8 bytes
/// after the first 8.
const EXTENSIONS: [i32; 3] = [0, 43, 60];

const LOAD_BYTES: i32 = 189;

/// The stage.
#[derive(Debug)]
pub(super) struct Prefilter<'a> {
    /// Counts what is dropped.
    pub(super) tally: &'a Tally,
    /// The kernel reads packets for programs, from 5.18 on; before, IPv6 with extension headers is kept.
    pub(super) reads: bool,
}

impl Prefilter<'_> {
    /// Writes the stage. What is kept goes on at `keep`, and so does what the host would get, because its
    /// queue has no socket in `map`.
    pub(super) fn write(&self, program: &mut Assembly, map: &SocketMap, keep: Label) {
        let (drop, walk) = (program.label(), program.label());
        let v4 = |program: &mut Assembly, at| of_ipv4(program, at, keep, drop);
        let v6 = |program: &mut Assembly, at| of_ipv6(program, at, keep, walk);
        ethernet::write(program, keep, drop, v4, v6);
        program.place(walk);
        self.walk(program, keep, drop);
        program.place(drop);
        self.drop(program, map, keep);
    }

    /// Follows extension headers, from the one at [`OFFSET`] whose kind is in [`NEXT`].
    fn walk(&self, program: &mut Assembly, keep: Label, drop: Label) {
        let rounds = if self.reads { MAX_EXTENSIONS } else { 0 };
        for _ in 0..rounds {
            let (fragment, extension) = (program.label(), program.label());
            let following = program.label();
            of_protocol(program, NEXT, keep);
            program.jump_if(code::JUMP_IF_EQUAL, NEXT, FRAGMENT, fragment);
            for kind in EXTENSIONS {
                program.jump_if(code::JUMP_IF_EQUAL, NEXT, kind, extension);
            }
            program.jump(drop);
            program.place(fragment);
            read(program, keep);
            // A later fragment does not say what it is part of.
            program.load(code::LOAD_HALF, VALUE, STACK, -6);
            program.value(code::AND, VALUE, seen(0xfff8));
            program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, 0, keep);
            program.load(code::LOAD_BYTE, NEXT, STACK, -8);
            program.value(code::ADD, OFFSET, 8);
            program.jump(following);
            program.place(extension);
            read(program, keep);
            program.load(code::LOAD_BYTE, NEXT, STACK, -8);
            program.load(code::LOAD_BYTE, VALUE, STACK, -7);
            program.value(code::ADD, VALUE, 1);
            program.value(code::SHIFT_LEFT, VALUE, 3);
            program.register(code::ADD_REGISTER, OFFSET, VALUE);
            program.place(following);
        }
        for kind in EXTENSIONS.into_iter().chain([FRAGMENT]) {
            program.jump_if(code::JUMP_IF_EQUAL, NEXT, kind, keep);
        }
        of_protocol(program, NEXT, keep);
    }

    /// Drops and counts the packet, unless its queue has no socket.
    fn drop(&self, program: &mut Assembly, map: &SocketMap, keep: Label) {
        text::first_socket(program, map, VALUE);
        program.look_up(map.0.as_raw_fd(), VALUE);
        program.jump_if(code::JUMP_IF_EQUAL, RESULT, 0, keep);
        self.tally.count(program, Tallied::Prefiltered);
        program.value(code::MOVE, RESULT, DROP);
        program.exit();
    }
}

/// Goes to `keep` when the protocol in `register` is one that detectors read.
fn of_protocol(program: &mut Assembly, register: u8, keep: Label) {
    for protocol in [TCP, UDP] {
        program.jump_if(code::JUMP_IF_EQUAL, register, protocol, keep);
    }
}

/// Brings 4 bytes of the packet, from [`OFFSET`] on, to 8 bytes below the top of the stack.
fn read(program: &mut Assembly, keep: Label) {
    program.register(code::COPY, 1, CONTEXT);
    program.register(code::COPY, 2, OFFSET);
    program.register(code::COPY, 3, STACK);
    program.value(code::ADD, 3, -8);
    program.value(code::MOVE, 4, 4);
    program.call(LOAD_BYTES);
    program.jump_if(code::JUMP_UNLESS_EQUAL, RESULT, 0, keep);
}

/// Judges by the IPv4 header at `at`.
fn of_ipv4(program: &mut Assembly, at: i16, keep: Label, drop: Label) {
    program.reaches(PACKET, END, at + 20, VALUE, keep);
    program.load(code::LOAD_BYTE, VALUE, PACKET, at);
    program.register(code::COPY, OTHER, VALUE);
    program.value(code::SHIFT_RIGHT, OTHER, 4);
    program.jump_if(code::JUMP_UNLESS_EQUAL, OTHER, 4, keep);
    program.value(code::AND, VALUE, 0xf);
    program.jump_if(code::JUMP_IF_BELOW, VALUE, 5, keep);
    program.load(code::LOAD_HALF, VALUE, PACKET, at + 6);
    program.value(code::AND, VALUE, seen(0x1fff));
    program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, 0, keep);
    program.load(code::LOAD_BYTE, VALUE, PACKET, at + 9);
    of_protocol(program, VALUE, keep);
    program.jump(drop);
}

/// Goes on at `walk` behind the IPv6 header at `at`.
fn of_ipv6(program: &mut Assembly, at: i16, keep: Label, walk: Label) {
    program.reaches(PACKET, END, at + 40, VALUE, keep);
    program.load(code::LOAD_BYTE, VALUE, PACKET, at);
    program.value(code::SHIFT_RIGHT, VALUE, 4);
    program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, 6, keep);
    program.load(code::LOAD_BYTE, NEXT, PACKET, at + 6);
    program.value(code::MOVE, OFFSET, i32::from(at) + 40);
    program.jump(walk);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::xdp::bpf::{self, Program};
    use crate::xdp::ethernet::TAGS;
    use crate::xdp::socket::Socket;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::cell::Cell;
    use std::os::fd::{AsFd, BorrowedFd};

    pub(in super::super) const REDIRECT: u32 = 4;
    const ETHERTYPES: [u16; 9] =
        [0x0800, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x0806, 0x88cc, 0x8847, 0x0026];
    const PROTOCOLS: [u8; 12] = [0, 1, 6, 17, 43, 44, 47, 51, 58, 59, 60, 132];

    /// The judgement, by a reader that knows nothing of the program.
    fn is_kept(frame: &[u8], reads: bool) -> bool {
        is_certainly_of_no_interest(frame, reads) != Some(true)
    }

    fn is_certainly_of_no_interest(frame: &[u8], reads: bool) -> Option<bool> {
        let of_interest = |protocol: u8| protocol == 6 || protocol == 17;
        let mut rest = frame.get(12..)?;
        let mut tags = 0;
        loop {
            let (kind, after) = rest.split_first_chunk::<2>()?;
            rest = after;
            match u16::from_be_bytes(*kind) {
                0x8100 | 0x88a8 | 0x9100 if tags == 4 => return None,
                0x8100 | 0x88a8 | 0x9100 => {
                    tags += 1;
                    rest = rest.get(2..)?;
                }
                0x0800 => {
                    let header = rest.first_chunk::<20>()?;
                    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
                    let sound = header[0] & 0xf0 == 0x40 && header[0] & 0x0f >= 5 && offset == 0;
                    return sound.then(|| !of_interest(header[9]));
                }
                0x86dd => {
                    let header = rest.first_chunk::<40>()?;
                    if header[0] & 0xf0 != 0x60 {
                        return None;
                    }
                    let (mut next, mut rest, mut seen) = (header[6], &rest[40..], 0);
                    while matches!(next, 0 | 43 | 44 | 60) {
                        // As the program reads: four bytes of each header.
                        let part = rest.first_chunk::<4>().filter(|_| reads && seen < 8)?;
                        if next == 44 && u16::from_be_bytes([part[2], part[3]]) >= 8 {
                            return None;
                        }
                        let len = if next == 44 { 8 } else { 8 * (usize::from(part[1]) + 1) };
                        // Nothing is read of a header that is the last.
                        (next, seen) = (part[0], seen + 1);
                        rest = rest.get(len..).unwrap_or_default();
                    }
                    return Some(!of_interest(next));
                }
                _ => return Some(true),
            }
        }
    }

    fn ipv4() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![8 => Just(0x45u8), 1 => 0x46..0x50u8, 1 => any::<u8>()];
        let place =
            prop_oneof![4 => Just(0u16), 1 => Just(0x2000), 1 => Just(0x4000), 1 => any::<u16>()];
        let protocol = prop_oneof![select(PROTOCOLS.to_vec()), any::<u8>()];
        (first, place, protocol).prop_map(|(first, place, protocol)| {
            let [high, low] = place.to_be_bytes();
            let mut packet = vec![first, 0, 0, 40, 0, 1, high, low, 64, protocol];
            packet.extend([7; 30]);
            packet
        })
    }

    fn ipv6() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![9 => Just(0x60u8), 1 => any::<u8>()];
        let kind = select(vec![0u8, 43, 44, 60]);
        let len = prop_oneof![4 => 0..3u8, 1 => any::<u8>()];
        let place = prop_oneof![4 => Just(1u16), 1 => any::<u16>()];
        let extensions = prop::collection::vec((kind, len, place), 0..11);
        (first, extensions, select(PROTOCOLS.to_vec())).prop_map(|(first, extensions, last)| {
            let kinds: Vec<u8> = extensions.iter().map(|(kind, ..)| *kind).chain([last]).collect();
            let mut packet = vec![first, 0, 0, 0, 0, 40, kinds[0], 64];
            packet.extend([9; 32]);
            for ((kind, len, place), next) in extensions.into_iter().zip(&kinds[1..]) {
                let [high, low] = place.to_be_bytes();
                let units = if kind == 44 { 1 } else { usize::from(len) + 1 };
                let mut header = vec![0xee; 8 * units];
                header[..4].copy_from_slice(&[*next, len, high, low]);
                packet.extend(header);
            }
            packet.extend([5; 12]);
            packet
        })
    }

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let kinds = prop_oneof![
            6 => Just(Vec::new()),
            3 => prop::collection::vec(select(TAGS.to_vec()), 1..7),
            1 => prop::collection::vec(select(ETHERTYPES.to_vec()), 1..4),
        ];
        let tags = |kinds: Vec<u16>| -> Vec<u8> {
            kinds.iter().flat_map(|kind| [(kind >> 8) as u8, *kind as u8, 0, 100]).collect()
        };
        let v4 = ipv4().prop_map(|packet| [vec![0x08, 0x00], packet].concat());
        let v6 = ipv6().prop_map(|packet| [vec![0x86, 0xdd], packet].concat());
        let other = (select(ETHERTYPES.to_vec()), prop::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(kind, rest)| [&kind.to_be_bytes()[..], &rest].concat());
        let rest = prop_oneof![3 => v4, 4 => v6, 1 => other];
        let cut = prop_oneof![3 => Just(usize::MAX), 1 => 14..200usize];
        (kinds, rest, cut).prop_map(move |(kinds, rest, cut)| {
            let mut frame = [&[2; 12][..], &tags(kinds), &rest].concat();
            // The kernel runs nothing over less.
            frame.resize(frame.len().max(14), 0);
            frame.truncate(cut);
            frame
        })
    }

    /// A queue with a socket, which exists as long as the value does.
    pub(in super::super) fn queue() -> (SocketMap, Socket, shm::Region) {
        let dir = tempfile::tempdir().unwrap();
        let mut options = shm::ServerOptions::new(dir.path().to_owned(), 98, vec![1]);
        options.slots = 64;
        let region = shm::Region::new(&options).unwrap();
        let socket = Socket::new(&region.memory(0), 64, None).unwrap();
        let map = SocketMap::new(1).unwrap();
        map.insert(0, 0, socket.as_fd()).unwrap();
        (map, socket, region)
    }

    fn verdict(program: BorrowedFd<'_>, frame: &[u8]) -> u32 {
        bpf::run(program, frame, 1, false).unwrap()
    }

    #[test]
    fn the_kernel_drops_what_a_plain_reader_would() {
        let (map, _socket, _region) = queue();
        for reads in [true, false] {
            let tally = Tally::new().unwrap();
            let text = text::tap(&map, None, Some(&Prefilter { tally: &tally, reads }), None);
            let program = Program::load(&text, &text).unwrap();
            let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
                cases: 20_000,
                failure_persistence: None,
                ..ProptestConfig::default()
            });
            let (dropped, kept) = (Cell::new(0), Cell::new(0));
            let result = runner.run(&frame(), |frame| {
                let is_kept = is_kept(&frame, reads);
                let count = if is_kept { &kept } else { &dropped };
                count.set(count.get() + 1);
                let expected = if is_kept { REDIRECT } else { DROP as u32 };
                prop_assert_eq!(verdict(program.as_fd(), &frame), expected, "{:02x?}", frame);
                Ok(())
            });
            result.unwrap_or_else(|error| panic!("reads {reads}: {error}"));
            assert_eq!(tally.sum(Tallied::Prefiltered), dropped.get());
            assert!(dropped.get() > 2000 && kept.get() > 2000, "{dropped:?} {kept:?}");
        }
    }

    #[test]
    fn the_host_loses_nothing_that_no_socket_takes() {
        let map = SocketMap::new(1).unwrap();
        let tally = Tally::new().unwrap();
        let text = text::tap(&map, None, Some(&Prefilter { tally: &tally, reads: true }), None);
        let program = Program::load(&text, &text).unwrap();
        let arp = [&[2; 12][..], &[0x08, 0x06], &[0; 46]].concat();
        assert_eq!(
            (verdict(program.as_fd(), &arp), tally.sum(Tallied::Prefiltered)),
            (text::PASS as u32, 0)
        );
    }

    #[test]
    fn frames_in_several_buffers() {
        let (map, _socket, _region) = queue();
        let tally = Tally::new().unwrap();
        let text = text::tap(&map, None, Some(&Prefilter { tally: &tally, reads: true }), None);
        let program = Program::load(&text, &text).unwrap();
        for (protocol, expected) in [(1, DROP as u32), (17, REDIRECT)] {
            let mut frame = [&[2; 12][..], &[0x08, 0x00, 0x45, 0, 0x23, 0x28], &[0; 8992]].concat();
            frame[23] = protocol;
            assert_eq!(verdict(program.as_fd(), &frame), expected, "protocol {protocol}");
        }
        // The extension headers go on in another buffer than they began in.
        for (last, expected) in [(58, DROP as u32), (6, REDIRECT)] {
            let mut frame = [&[2; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0], &[0; 8990]].concat();
            let mut at = 54;
            for next in [60, 60, 60, 60, last] {
                frame[at..at + 2].copy_from_slice(&[next, 200]);
                at += 201 * 8;
            }
            assert_eq!(verdict(program.as_fd(), &frame), expected, "next header {last}");
        }
        assert_eq!(tally.sum(Tallied::Prefiltered), 2);
    }
}
