//! A stage behind all others that gives each packet to the socket of its queue of the detector (`spec/ingest.md`
//! 9.1, 9.2), so that nobody in user space has to look at it: the first look waits for a line of the cache that the
//! kernel wrote on another processor.
//!
//! It judges exactly as the balancer's walk does, or not at all: what has no IPv4 or IPv6 header behind at most four
//! VLAN tags, labels of MPLS too, goes to the socket for packets that are looked at. Addresses in the packet are
//! fixed at each place, as in the prefilter.

use packet::hash::SymmetricHash;

use super::assembly::{Assembly, Label, code};
use super::bpf::SocketMap;
use super::ethernet::{self, END, PACKET, VALUE};
use super::text;
use super::{MAX_QUEUES, Refusal};

/// The way that is refused where packets are not sorted.
pub(super) const SORTED: &str = "sorted";
/// Why it is refused in generic mode: several processors may receive for one queue at once there, and kernels before
/// 6.15 let them take frames from a shared ring without a common lock.
pub(super) const BEHIND_THE_DRIVER: &str = "only in the driver";

/// Registers that a packet is read with.
/// Both addresses: one register each of IPv4, two of IPv6.
const SOURCE: [u8; 2] = [0, 1];
const DESTINATION: [u8; 2] = [4, 5];
/// The hash, from its seed on, and what mixing takes.
const HASH: u8 = 7;
const FACTORS: [u8; 2] = [8, 2];
const OTHER: u8 = 3;
/// What the number of the queue's first socket is raised by.
const STEP: u8 = 9;

/// Spreads packets by their outermost addresses over the queues of the only queue set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sorting {
    /// The hash.
    pub hash: SymmetricHash,
    /// Queues, at least 1.
    pub queues: u32,
    /// Sockets that there may be for it.
    pub sockets: u32,
}

impl Sorting {
    /// Sockets of each receive queue: one for packets that are looked at, and one for each queue where there are
    /// several.
    const fn sockets_each(self) -> u32 {
        if self.queues > 1 { 1 + self.queues } else { 1 }
    }

    /// What sorts the packets of an interface, `read` of whose receive queues are read; `None` where there is nothing to
    /// sort.
    pub(super) fn stage(self, read: u32) -> Result<Option<Stage>, Refusal> {
        let Self { queues, sockets: most, .. } = self;
        let wanted = read * self.sockets_each();
        if queues <= 1 {
            return Ok(None);
        }
        if wanted > most.min(MAX_QUEUES) {
            let most = most.min(MAX_QUEUES);
            let cause = format!(
                "{queues} queues behind {read} receive queue(s) take {wanted} sockets, of {most} that there may be"
            );
            return Err(Refusal { way: SORTED, cause });
        }
        Ok(Some(Stage(self)))
    }
}

/// The stage. Of the sockets of a receive queue the first is for packets that are looked at, and that with number
/// `1 + q` for queue `q`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage(Sorting);

impl Stage {
    /// Sockets of each receive queue.
    pub(super) const fn sockets_each(self) -> u32 {
        self.0.sockets_each()
    }

    /// Queues of the detector.
    pub(super) const fn queues(self) -> u32 {
        self.0.queues
    }

    /// Writes the stage, which leaves the number in `map` of the socket in `register`.
    pub(super) fn write(self, program: &mut Assembly, map: &SocketMap, register: u8) {
        let (of_pair, of_wide_pair) = (program.label(), program.label());
        let (chosen, looked_at) = (program.label(), program.label());
        program.value(code::MOVE, STEP, 0);
        let of_ipv4 = |program: &mut Assembly, at| read_ipv4(program, at, looked_at, of_pair);
        let of_ipv6 = |program: &mut Assembly, at| read_ipv6(program, at, looked_at, of_wide_pair);
        ethernet::write(program, looked_at, looked_at, of_ipv4, of_ipv6);
        program.place(of_pair);
        self.hash_ipv4(program);
        program.jump(chosen);
        program.place(of_wide_pair);
        self.hash_ipv6(program);
        program.place(chosen);
        // The upper half of the hash as a part of 1, times the queues.
        program.value(code::SHIFT_RIGHT, HASH, 32);
        program.value(code::MULTIPLY, HASH, self.0.queues.cast_signed());
        program.value(code::SHIFT_RIGHT, HASH, 32);
        program.value(code::ADD, HASH, 1);
        program.register(code::COPY, STEP, HASH);
        program.place(looked_at);
        text::first_socket(program, map, register);
        program.register(code::ADD_REGISTER, register, STEP);
    }

    fn hash_ipv4(self, program: &mut Assembly) {
        let ([a, joined], [b, _]) = (SOURCE, DESTINATION);
        let (greater, sorted) = (program.label(), program.label());
        for address in [a, b] {
            program.value(code::TO_BIG_ENDIAN, address, 32);
        }
        program.jump_if_register(code::JUMP_IF_ABOVE_REGISTER, a, b, greater);
        for (low, high, then) in [(a, b, true), (b, a, false)] {
            program.register(code::COPY, joined, low);
            program.value(code::SHIFT_LEFT, joined, 32);
            program.register(code::OR_REGISTER, joined, high);
            if then {
                program.jump(sorted);
                program.place(greater);
            }
        }
        program.place(sorted);
        self.mix(program, &[joined]);
    }

    fn hash_ipv6(self, program: &mut Assembly) {
        let (swap, sorted) = (program.label(), program.label());
        for half in SOURCE.into_iter().chain(DESTINATION) {
            program.value(code::TO_BIG_ENDIAN, half, 64);
        }
        let [high, low] = [0, 1].map(|half| (SOURCE[half], DESTINATION[half]));
        program.jump_if_register(code::JUMP_IF_ABOVE_REGISTER, high.0, high.1, swap);
        program.jump_if_register(code::JUMP_UNLESS_EQUAL_REGISTER, high.0, high.1, sorted);
        program.jump_if_register(code::JUMP_IF_ABOVE_REGISTER, low.0, low.1, swap);
        program.jump(sorted);
        program.place(swap);
        for (a, b) in [high, low] {
            program.register(code::COPY, OTHER, a);
            program.register(code::COPY, a, b);
            program.register(code::COPY, b, OTHER);
        }
        program.place(sorted);
        self.mix(program, &[SOURCE[0], SOURCE[1], DESTINATION[0], DESTINATION[1]]);
    }

    /// Mixes `words` into the hash, one after the other.
    fn mix(self, program: &mut Assembly, words: &[u8]) {
        program.constant(HASH, self.0.hash.seed());
        for (register, factor) in FACTORS.into_iter().zip(SymmetricHash::FACTORS) {
            program.constant(register, factor);
        }
        for word in words {
            program.register(code::XOR_REGISTER, HASH, *word);
            for factor in FACTORS.map(Some).into_iter().chain([None]) {
                program.register(code::COPY, OTHER, HASH);
                program.value(code::SHIFT_RIGHT, OTHER, 33);
                program.register(code::XOR_REGISTER, HASH, OTHER);
                if let Some(factor) = factor {
                    program.register(code::MULTIPLY_REGISTER, HASH, factor);
                }
            }
        }
    }
}

/// Brings the addresses of the IPv4 header at `at` to their registers, and goes on at `to`.
fn read_ipv4(program: &mut Assembly, at: i16, looked_at: Label, to: Label) {
    program.reaches(PACKET, END, at + 20, VALUE, looked_at);
    // Version 4 and a header of at least 20 bytes.
    program.load(code::LOAD_BYTE, VALUE, PACKET, at);
    program.jump_if(code::JUMP_IF_BELOW, VALUE, 0x45, looked_at);
    program.jump_if(code::JUMP_IF_ABOVE, VALUE, 0x4f, looked_at);
    program.load(code::LOAD_WORD, SOURCE[0], PACKET, at + 12);
    program.load(code::LOAD_WORD, DESTINATION[0], PACKET, at + 16);
    program.jump(to);
}

/// The same of the IPv6 header at `at`.
fn read_ipv6(program: &mut Assembly, at: i16, looked_at: Label, to: Label) {
    program.reaches(PACKET, END, at + 40, VALUE, looked_at);
    program.load(code::LOAD_BYTE, VALUE, PACKET, at);
    program.value(code::SHIFT_RIGHT, VALUE, 4);
    program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, 6, looked_at);
    for (register, place) in SOURCE.into_iter().chain(DESTINATION).zip([8, 16, 24, 32]) {
        program.load(code::LOAD_DOUBLE, register, PACKET, at + place);
    }
    program.jump(to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::bpf::{self, Program};
    use crate::xdp::ethernet::TAGS;
    use crate::xdp::prefilter::CONTEXT;
    use packet::distribution::{Mode, Spreader, Target, frame_hash};
    use packet::walk;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::cell::Cell;
    use std::os::fd::AsFd;

    const ETHERTYPES: [u16; 9] =
        [0x0800, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x0806, 0x8847, 0x8848, 0x0026];

    /// Ends with the number of the socket.
    fn numbering(stage: Stage) -> Program {
        let map = SocketMap::with(3, stage.sockets_each()).unwrap();
        let mut program = Assembly::default();
        program.register(code::COPY, CONTEXT, 1);
        stage.write(&mut program, &map, 0);
        program.exit();
        let text = program.finish();
        Program::load(&text, &text).unwrap()
    }

    /// The queue that the balancer would choose, where an IP header says so and not a label before it.
    fn queue(sorting: Sorting, frame: &[u8]) -> Option<u32> {
        let (_, ethertype) = walk::network_offset(frame)?;
        walk::outer(frame).filter(|_| matches!(ethertype, 0x0800 | 0x86dd))?;
        let hash = frame_hash(Mode::Ip, &sorting.hash, frame);
        match Spreader::new(Mode::Ip, sorting.queues).target(hash, 0) {
            Target::One(queue) => Some(queue),
            other => panic!("{other:?}"),
        }
    }

    /// Two addresses of `N` bytes, now and then equal or nearly so.
    fn pair<const N: usize>() -> impl Strategy<Value = Vec<u8>> {
        let changed = |mut pair: ([u8; N], [u8; N]), at: usize, by: u8| {
            pair.1 = pair.0;
            pair.1[at] ^= by;
            pair
        };
        let any_pair = any::<([u8; N], [u8; N])>();
        prop_oneof![
            2 => any_pair,
            1 => (any_pair, 0..N, any::<u8>()).prop_map(move |(pair, at, by)| changed(pair, at, by)),
        ]
        .prop_map(|(a, b)| [a, b].concat())
    }

    fn ipv4() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![8 => Just(0x45u8), 2 => 0x46..0x50u8, 2 => any::<u8>()];
        let place = prop_oneof![3 => Just([0, 0]), 1 => Just([0x20, 0]), 1 => any::<[u8; 2]>()];
        (first, place, any::<u8>(), pair::<4>()).prop_map(|(first, place, protocol, pair)| {
            let header = [first, 0, 0, 40, 0, 1, place[0], place[1], 64, protocol, 0, 0];
            [&header[..], &pair, &[7; 20]].concat()
        })
    }

    fn ipv6() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![9 => Just(0x60u8), 1 => any::<u8>()];
        (first, any::<u8>(), pair::<16>()).prop_map(|(first, next, pair)| {
            [&[first, 0, 0, 0, 0, 20, next, 64][..], &pair, &[5; 20]].concat()
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
        let labelled =
            ipv4().prop_map(|packet| [&[0x88, 0x47, 0, 1, 0x21, 64][..], &packet].concat());
        let other = (select(ETHERTYPES.to_vec()), prop::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(kind, rest)| [&kind.to_be_bytes()[..], &rest].concat());
        let rest = prop_oneof![4 => v4, 4 => v6, 1 => labelled, 1 => other];
        let cut = prop_oneof![3 => Just(usize::MAX), 1 => 14..90usize];
        (kinds, rest, cut).prop_map(move |(kinds, rest, cut)| {
            let mut frame = [&[2; 12][..], &tags(kinds), &rest].concat();
            // The kernel runs nothing over less.
            frame.resize(frame.len().max(14), 0);
            frame.truncate(cut);
            frame
        })
    }

    #[test]
    fn the_kernel_sorts_as_the_balancer_does() {
        let seeds = [0, 1, u64::MAX, 0x9e37_79b9_7f4a_7c15, 0x8000_0000_7fff_ffff];
        for (seed, queues) in seeds.into_iter().zip([2, 3, 63, 7, 4]) {
            let sorting = Sorting { hash: SymmetricHash::new(seed), queues, sockets: 64 };
            let stage = sorting.stage(1).unwrap().unwrap();
            let program = numbering(stage);
            let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
                cases: 8_000,
                failure_persistence: None,
                ..ProptestConfig::default()
            });
            let (sorted, looked_at) = (Cell::new(0), Cell::new(0));
            let result = runner.run(&frame(), |frame| {
                let queue = queue(sorting, &frame);
                let count = if queue.is_some() { &sorted } else { &looked_at };
                count.set(count.get() + 1);
                let expected = queue.map_or(0, |queue| 1 + queue);
                let number = bpf::run(program.as_fd(), &frame, 1, false).unwrap();
                prop_assert_eq!(number, expected, "{:02x?}", frame);
                Ok(())
            });
            result.unwrap_or_else(|error| panic!("seed {seed:x}: {error}"));
            assert!(sorted.get() > 2000 && looked_at.get() > 1000, "{sorted:?} {looked_at:?}");
        }
    }

    #[test]
    fn frames_in_several_buffers() {
        let sorting =
            Sorting { hash: SymmetricHash::new(0x9e37_79b9_7f4a_7c15), queues: 8, sockets: 9 };
        let stage = sorting.stage(1).unwrap().unwrap();
        let program = numbering(stage);
        let mut long = [&[2; 12][..], &[0x08, 0x00, 0x45, 0, 0x23, 0x28], &[0; 8982]].concat();
        long[26..34].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 9]);
        let expected = 1 + queue(sorting, &long).unwrap();
        assert_eq!(bpf::run(program.as_fd(), &long, 1, false).unwrap(), expected);
    }

    #[test]
    fn as_many_sockets_as_there_may_be() {
        let sorting = |queues| Sorting { hash: SymmetricHash::new(1), queues, sockets: 40 };
        assert!(sorting(1).stage(64).unwrap().is_none());
        assert_eq!(sorting(4).stage(8).unwrap().unwrap().sockets_each(), 5);
        let refusal = sorting(4).stage(9).unwrap_err();
        assert_eq!(
            refusal.cause,
            "4 queues behind 9 receive queue(s) take 45 sockets, of 40 that there may be"
        );
        let most = Sorting { sockets: u32::MAX, ..sorting(64) };
        assert!(
            most.stage(1).unwrap_err().cause.ends_with("take 65 sockets, of 64 that there may be")
        );
    }
}
