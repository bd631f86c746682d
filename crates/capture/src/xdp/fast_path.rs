//! A stage in front of the sockets that gives the packets of live sessions to the host (`spec/ingest.md` 9.3), where
//! conntrack knows their flow from the first packet, which came by the detector and its tun device.
//!
//! Which flows these are stands in a table that detectors write ([`shm::fast_path`]). A packet passes when its flow
//! has an entry there that holds. It gets the address of the interface, without which the host would not take it for
//! its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use shm::fast_path::{BUCKETS, FlowKey, IDLE, SEEN, SLOT_BYTES, SLOTS, UNTIL};

use super::assembly::{Assembly, Label, STACK, code, seen};
use super::bpf;
use super::tally::{Tallied, Tally};
use super::text::PASS;

/// Registers that keep their values over calls.
const CONTEXT: u8 = super::prefilter::CONTEXT;
const FRAME: u8 = 7;
const SLOT: u8 = 8;
/// Registers that are free between calls.
const RESULT: u8 = 0;
const FIRST: u8 = 1;
const OTHER: u8 = 2;
const END: u8 = 3;
const VALUE: u8 = 4;
const PROTOCOL: u8 = 5;

/// Where the words of the key are on the stack.
const WORDS: i16 = -56;
const TCP: i32 = 6;
const UDP: i32 = 17;

/// The table, as the kernel has it. All sources of a balancer share one.
#[derive(Debug, Clone)]
pub struct FlowTable(Arc<OwnedFd>);

impl FlowTable {
    /// A table without flows.
    ///
    /// # Errors
    /// When the process may not make maps of BPF, or there is no memory.
    pub fn new() -> io::Result<Self> {
        bpf::shared_values(SLOTS * SLOT_BYTES, BUCKETS, b"conjure_flows").map(Self::of)
    }

    /// The table with this descriptor.
    pub(super) fn of(map: OwnedFd) -> Self {
        Self(Arc::new(map))
    }
}

impl AsFd for FlowTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PartialEq for FlowTable {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The stage.
#[derive(Debug)]
pub(super) struct FastPath<'a> {
    pub(super) table: &'a FlowTable,
    /// Counts what passes.
    pub(super) tally: &'a Tally,
    /// Hardware address of the interface.
    pub(super) address: [u8; 6],
    /// IPv6 passes too.
    pub(super) v6: bool,
    /// The kernel has a clock for programs that costs next to nothing, from 5.11 on.
    pub(super) coarse: bool,
}

impl FastPath<'_> {
    /// Writes the stage. What does not pass goes on at `on`.
    pub(super) fn write(&self, program: &mut Assembly, on: Label) {
        let (v6, look_up) = (program.label(), program.label());
        program.load(code::LOAD_WORD, FRAME, CONTEXT, 0);
        program.load(code::LOAD_WORD, END, CONTEXT, 4);
        program.reaches(FRAME, END, 14 + 20 + 4, VALUE, on);
        program.load(code::LOAD_HALF, VALUE, FRAME, 12);
        if self.v6 {
            program.jump_if(code::JUMP_IF_EQUAL, VALUE, seen(0x86dd), v6);
        }
        program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, seen(0x0800), on);
        of_ipv4(program, on);
        // The kernel refuses instructions that nothing leads to.
        if self.v6 {
            program.jump(look_up);
            program.place(v6);
            of_ipv6(program, on);
        }
        program.place(look_up);
        self.pass(program, on);
    }

    /// Looks for the flow whose key is on the stack, and lets the packet pass.
    fn pass(&self, program: &mut Assembly, on: Label) {
        let found = program.label();
        bucket(program);
        program.look_up(self.table.as_fd().as_raw_fd(), FIRST);
        program.jump_if(code::JUMP_IF_EQUAL, RESULT, 0, on);
        for slot in 0..SLOTS {
            let other = if slot + 1 < SLOTS { program.label() } else { on };
            let start = offset(slot * SLOT_BYTES);
            for word in 0..FlowKey::WORDS as i16 {
                program.load(code::LOAD_LONG, FIRST, RESULT, start + 8 * word);
                program.load(code::LOAD_LONG, OTHER, STACK, WORDS + 8 * word);
                program.jump_if_register(code::JUMP_UNLESS_EQUAL_REGISTER, FIRST, OTHER, other);
            }
            program.register(code::COPY, SLOT, RESULT);
            program.value(code::ADD, SLOT, start.into());
            if slot + 1 < SLOTS {
                program.jump(found);
                program.place(other);
            }
        }
        program.place(found);
        self.clock(program);
        program.load(code::LOAD_LONG, FIRST, SLOT, offset(UNTIL));
        program.jump_if_register(code::JUMP_UNLESS_ABOVE_REGISTER, FIRST, RESULT, on);
        program.load(code::LOAD_LONG, FIRST, SLOT, offset(SEEN));
        program.wide(OTHER, IDLE.as_nanos() as u64);
        program.register(code::ADD_REGISTER, FIRST, OTHER);
        program.jump_if_register(code::JUMP_UNLESS_ABOVE_REGISTER, FIRST, RESULT, on);
        program.store(code::STORE_LONG, SLOT, offset(SEEN), RESULT);
        let [high @ .., a, b] = self.address;
        program.value(code::MOVE, FIRST, i32::from_ne_bytes(high));
        program.store(code::STORE_WORD, FRAME, 0, FIRST);
        program.value(code::MOVE, FIRST, u16::from_ne_bytes([a, b]).into());
        program.store(code::STORE_HALF, FRAME, 4, FIRST);
        self.tally.count(program, Tallied::Passed);
        program.value(code::MOVE, RESULT, PASS);
        program.exit();
    }

    /// The time of the table.
    fn clock(&self, program: &mut Assembly) {
        const TIME: i32 = 5;
        const COARSE_TIME: i32 = 160;
        program.call(if self.coarse { COARSE_TIME } else { TIME });
    }
}

/// Offset of a word in a bucket.
const fn offset(at: u32) -> i16 {
    at as i16
}

/// Writes the key of a packet over IPv4.
fn of_ipv4(program: &mut Assembly, on: Label) {
    program.load(code::LOAD_BYTE, VALUE, FRAME, 14);
    program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, 0x45, on);
    program.load(code::LOAD_HALF, VALUE, FRAME, 20);
    program.value(code::AND, VALUE, seen(0x3fff));
    program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, 0, on);
    program.load(code::LOAD_BYTE, PROTOCOL, FRAME, 23);
    program.load(code::LOAD_WORD, VALUE, FRAME, 26);
    program.value(code::SHIFT_LEFT, VALUE, 32);
    program.load(code::LOAD_WORD, OTHER, FRAME, 30);
    program.register(code::OR_REGISTER, VALUE, OTHER);
    program.store(code::STORE_LONG, STACK, WORDS, VALUE);
    program.value(code::MOVE, VALUE, 0);
    for word in 1..4 {
        program.store(code::STORE_LONG, STACK, WORDS + 8 * word, VALUE);
    }
    tail(program, 34, 4, on);
}

/// Writes the key of a packet over IPv6.
fn of_ipv6(program: &mut Assembly, on: Label) {
    program.reaches(FRAME, END, 14 + 40 + 4, VALUE, on);
    program.load(code::LOAD_BYTE, VALUE, FRAME, 14);
    program.value(code::SHIFT_RIGHT, VALUE, 4);
    program.jump_if(code::JUMP_UNLESS_EQUAL, VALUE, 6, on);
    program.load(code::LOAD_BYTE, PROTOCOL, FRAME, 20);
    for word in 0..4 {
        program.load(code::LOAD_LONG, VALUE, FRAME, 22 + 8 * word);
        program.store(code::STORE_LONG, STACK, WORDS + 8 * word, VALUE);
    }
    tail(program, 54, 6, on);
}

/// Writes the last word of the key: ports at `at`, protocol and family. What begins or ends a connection goes on
/// at `on`.
fn tail(program: &mut Assembly, at: i16, family: i32, on: Label) {
    const BEGINS_OR_ENDS: i32 = 0b111;
    let any = program.label();
    program.jump_if(code::JUMP_IF_EQUAL, PROTOCOL, UDP, any);
    program.jump_if(code::JUMP_UNLESS_EQUAL, PROTOCOL, TCP, on);
    program.reaches(FRAME, END, at + 14, VALUE, on);
    program.load(code::LOAD_BYTE, VALUE, FRAME, at + 13);
    program.jump_if(code::JUMP_IF_ANY, VALUE, BEGINS_OR_ENDS, on);
    program.place(any);
    program.load(code::LOAD_WORD, VALUE, FRAME, at);
    program.value(code::SHIFT_LEFT, VALUE, 8);
    program.register(code::OR_REGISTER, VALUE, PROTOCOL);
    program.value(code::SHIFT_LEFT, VALUE, 8);
    program.value(code::OR, VALUE, family);
    program.store(code::STORE_LONG, STACK, WORDS + 32, VALUE);
}

/// The number of the bucket of the key on the stack.
fn bucket(program: &mut Assembly) {
    program.load(code::LOAD_LONG, FIRST, STACK, WORDS);
    program.wide(VALUE, FlowKey::MULTIPLIER);
    for word in 1..=FlowKey::WORDS as i16 {
        program.register(code::MULTIPLY_REGISTER, FIRST, VALUE);
        program.register(code::COPY, OTHER, FIRST);
        program.value(code::SHIFT_RIGHT, OTHER, 32);
        program.register(code::XOR_REGISTER, FIRST, OTHER);
        if word < FlowKey::WORDS as i16 {
            program.load(code::LOAD_LONG, OTHER, STACK, WORDS + 8 * word);
            program.register(code::XOR_REGISTER, FIRST, OTHER);
        }
    }
    program.register(code::MULTIPLY_REGISTER, FIRST, VALUE);
    program.value(code::SHIFT_RIGHT, FIRST, FlowKey::SHIFT.cast_signed());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::bpf::{Program, SocketMap};
    use crate::xdp::prefilter::tests::{REDIRECT, queue};
    use crate::xdp::text;
    use proptest::prelude::*;
    use proptest::sample::select;
    use shm::fast_path::{Entered, Table, now};
    use std::cell::Cell;
    use std::num::NonZeroU64;

    const PASSES: u32 = PASS as u32;
    const OWNER: NonZeroU64 = NonZeroU64::MIN;
    const SECOND: u64 = 1_000_000_000;

    /// A program with this stage, its table and its counter.
    fn stage(map: &SocketMap, coarse: bool) -> (Program, Table, FlowTable, Tally) {
        let (table, tally) = (FlowTable::new().unwrap(), Tally::new().unwrap());
        let address = [2, 0, 0, 0, 0, 0x55];
        let fast_path = FastPath { table: &table, tally: &tally, address, v6: true, coarse };
        let text = text::tap(map, Some(&fast_path), None, None);
        let program = Program::load(&text, &text).unwrap();
        let mapped = Table::map(&table).unwrap();
        (program, mapped, table, tally)
    }

    fn verdict(program: &Program, frame: &[u8]) -> u32 {
        bpf::run(program.as_fd(), frame, 1, false).unwrap()
    }

    /// A frame of one of few flows, mostly sound.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let flags = select(vec![0x10u8, 0x18, 0x10, 0x02, 0x11, 0x04, 0x12]);
        let protocol = select(vec![6u8, 17, 6, 17, 47]);
        let change = prop_oneof![3 => Just(None), 1 => (12..70usize, any::<u8>()).prop_map(Some)];
        let cut = prop_oneof![3 => Just(usize::MAX), 1 => 14..80usize];
        (any::<bool>(), protocol, 0..40u8, flags, change, cut).prop_map(
            |(v6, protocol, port, flags, change, cut)| {
                let mut frame = vec![2; 12];
                if v6 {
                    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
                    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
                    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5]);
                } else {
                    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
                    frame.extend([203, 0, 113, 9, 192, 122, 190, 5]);
                }
                frame.extend([0x9c, port, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 4, 0]);
                frame.extend([0; 8]);
                if let Some((at, value)) = change
                    && let Some(byte) = frame.get_mut(at)
                {
                    *byte = value;
                }
                frame.truncate(cut);
                frame
            },
        )
    }

    #[test]
    fn the_kernel_passes_what_a_plain_reader_would() {
        let (map, _socket, _region) = queue();
        for coarse in [true, false] {
            let (program, table, _map, tally) = stage(&map, coarse);
            let (passed, kept) = (Cell::new(0), Cell::new(0));
            let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
                cases: 10_000,
                failure_persistence: None,
                ..ProptestConfig::default()
            });
            let judge = |(frame, enter): (Vec<u8>, bool)| {
                let flow = FlowKey::of(&frame);
                if let Some(flow) = flow.filter(|_| enter) {
                    let entered = table.enter(&flow, OWNER, now());
                    prop_assert!(!matches!(entered, Entered::Full));
                    prop_assert_eq!(verdict(&program, &frame), PASSES);
                    passed.set(passed.get() + 1);
                    let (Entered::Fresh(slot) | Entered::Renewed(slot)) = entered else {
                        return Ok(());
                    };
                    table.remove(slot, OWNER);
                }
                prop_assert_eq!(verdict(&program, &frame), REDIRECT, "{:?}", flow);
                kept.set(kept.get() + 1);
                Ok(())
            };
            runner
                .run(&(frame(), any::<bool>()), judge)
                .unwrap_or_else(|error| panic!("coarse {coarse}: {error}"));
            assert_eq!(tally.sum(Tallied::Passed), passed.get());
            assert!(passed.get() > 1000 && kept.get() > 1000, "{passed:?} {kept:?}");
        }
    }

    #[test]
    fn an_entry_holds_for_its_time_and_while_packets_come() {
        let (map, _socket, _region) = queue();
        let (program, table, _map, tally) = stage(&map, true);
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 203, 0, 113, 9]);
        frame.extend([192, 122, 190, 5, 0x9c, 0x41, 1, 0xbb, 0, 8, 0, 0]);
        let flow = FlowKey::of(&frame).unwrap();
        let entered_ago = |seconds: u64| {
            let Entered::Fresh(slot) = table.enter(&flow, OWNER, now() - seconds * SECOND) else {
                panic!("not fresh");
            };
            slot
        };
        let slot = entered_ago(8);
        let before = now();
        assert_eq!(verdict(&program, &frame), PASSES);
        let (seen, _) = table.times(slot, OWNER).unwrap();
        assert!(seen >= before, "seen anew");
        table.remove(slot, OWNER);
        for ago in [11, 31] {
            let slot = entered_ago(ago);
            assert_eq!(verdict(&program, &frame), REDIRECT, "{ago} s");
            table.remove(slot, OWNER);
        }
        // Seen all the time, it ends after 30 s all the same.
        let slot = entered_ago(0);
        // Renewed as of then, which leaves the later time at which it was seen.
        assert_eq!(table.enter(&flow, OWNER, now() - 31 * SECOND), Entered::Renewed(slot));
        let (seen, until) = table.times(slot, OWNER).unwrap();
        assert!(seen >= before && until < now(), "seen a moment ago, and over");
        assert_eq!(verdict(&program, &frame), REDIRECT);
        assert_eq!(table.enter(&flow, OWNER, now()), Entered::Renewed(slot));
        assert_eq!(verdict(&program, &frame), PASSES);
        assert_eq!(tally.sum(Tallied::Passed), 2);
    }

    #[test]
    fn a_family_that_the_host_does_not_take_stays() {
        let (map, _socket, _region) = queue();
        let (table, tally) = (FlowTable::new().unwrap(), Tally::new().unwrap());
        let fast_path =
            FastPath { table: &table, tally: &tally, address: [2; 6], v6: false, coarse: true };
        let text = text::tap(&map, Some(&fast_path), None, None);
        let program = Program::load(&text, &text).unwrap();
        let mapped = Table::map(&table).unwrap();
        let v4 = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17], &[7; 20]].concat();
        let v6 = [&[2; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 17, 64], &[7; 60]].concat();
        for (frame, expected) in [(v4, PASSES), (v6, REDIRECT)] {
            mapped.enter(&FlowKey::of(&frame).unwrap(), OWNER, now());
            assert_eq!(verdict(&program, &frame), expected);
        }
    }

    /// All places of a bucket are looked at.
    #[test]
    fn flows_of_one_bucket() {
        let (map, _socket, _region) = queue();
        let (program, table, _map, _tally) = stage(&map, true);
        let frame = |client: u32| {
            let mut frame = vec![2; 12];
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(client.to_be_bytes());
            frame.extend([192, 122, 190, 5, 0x9c, 0x41, 1, 0xbb, 0, 8, 0, 0]);
            frame
        };
        let bucket = |client| FlowKey::of(&frame(client)).unwrap().bucket();
        let crowd: Vec<Vec<u8>> =
            (0..1 << 20).filter(|client| bucket(*client) == bucket(0)).take(5).map(frame).collect();
        let [frames @ .., last] = &crowd[..] else { panic!("no crowd") };
        assert_eq!(frames.len(), SLOTS as usize);
        for frame in frames {
            assert_eq!(verdict(&program, frame), REDIRECT);
            let entered = table.enter(&FlowKey::of(frame).unwrap(), OWNER, now());
            assert!(matches!(entered, Entered::Fresh(_)));
        }
        assert!(frames.iter().all(|frame| verdict(&program, frame) == PASSES));
        assert_eq!(verdict(&program, last), REDIRECT);
    }
}
