//! Programs for the XDP hook, written as instructions, so that building them takes no compiler for BPF.

use std::os::fd::AsRawFd;

use super::assembly::{Assembly, VALUE_BY_DESCRIPTOR, code, instruction};
use super::bpf::{Memory, SocketMap};
use super::fast_path::FastPath;
use super::prefilter::{self, Prefilter};
use super::sorting::Stage;

/// What a program says of a packet: it goes nowhere, or on into the host.
pub(super) const DROP: i32 = 1;
pub(super) const PASS: i32 = 2;
/// Offset of the receive queue in the context.
const QUEUE: i16 = 16;

/// The packet goes to the socket of its receive queue, or on into the host when there is none. With a fast path
/// the host gets those of its flows, and a prefilter drops what it judges to be of no interest, unless the host would
/// get it; with sorting each queue of the detector has a socket of its own.
pub(super) fn tap(
    map: &SocketMap,
    fast_path: Option<&FastPath<'_>>,
    prefilter: Option<&Prefilter<'_>>,
    sorting: Option<Stage>,
) -> Vec<u64> {
    const REDIRECT_MAP: i32 = 51;
    let mut program = Assembly::default();
    let (on, keep) = (program.label(), program.label());
    program.register(code::COPY, prefilter::CONTEXT, 1);
    if let Some(fast_path) = fast_path {
        fast_path.write(&mut program, on);
    }
    program.place(on);
    if let Some(prefilter) = prefilter {
        prefilter.write(&mut program, map, keep);
    }
    program.place(keep);
    match sorting {
        Some(stage) => stage.write(&mut program, map, 2),
        None => first_socket(&mut program, map, 2),
    }
    program.map(1, map.0.as_raw_fd());
    // What `redirect_map` answers for a queue without socket.
    program.value(code::MOVE, 3, PASS);
    program.call(REDIRECT_MAP);
    program.exit();
    program.finish()
}

/// Brings the number in `map` of the first socket of the packet's receive queue to `register`.
pub(super) fn first_socket(program: &mut Assembly, map: &SocketMap, register: u8) {
    program.load(code::LOAD_WORD, register, prefilter::CONTEXT, QUEUE);
    if map.sockets_each() > 1 {
        program.value(code::MULTIPLY, register, map.sockets_each().cast_signed());
    }
}

/// Bytes that [`paced`] keeps.
pub(super) const PACE: u32 = 16;

/// Packets leave by the interface with this index, `group` of them in every `period` nanoseconds; more are
/// dropped. `memory` has [`PACE`] bytes: when the first was due, and how many have left.
pub(super) fn paced(memory: &Memory, interface: u32, group: i32, period: i32) -> Vec<u64> {
    const STORE: u8 = 0x7b;
    const SUBTRACT: u8 = 0x1f;
    const DIVIDE: u8 = 0x37;
    const CLOCK: i32 = 5;
    const REDIRECT: i32 = 23;
    vec![
        instruction(code::LOAD_WIDE, 6, VALUE_BY_DESCRIPTOR, 0, memory.0.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(code::CALL, 0, 0, 0, CLOCK),
        instruction(code::LOAD_DOUBLE, 1, 6, 0, 0),
        instruction(code::JUMP_UNLESS_EQUAL, 1, 0, 2, 0),
        instruction(code::COPY, 1, 0, 0, 0),
        instruction(STORE, 6, 0, 0, 0),
        instruction(SUBTRACT, 0, 1, 0, 0),
        instruction(DIVIDE, 0, 0, 0, period),
        instruction(code::MULTIPLY, 0, 0, 0, group),
        instruction(code::LOAD_DOUBLE, 1, 6, 8, 0),
        instruction(code::JUMP_IF_ABOVE_REGISTER, 0, 1, 2, 0),
        instruction(code::MOVE, 0, 0, 0, DROP),
        instruction(code::EXIT, 0, 0, 0, 0),
        instruction(code::ADD, 1, 0, 0, 1),
        instruction(STORE, 6, 1, 8, 0),
        instruction(code::MOVE, 1, 0, 0, interface.cast_signed()),
        instruction(code::MOVE, 2, 0, 0, 0),
        instruction(code::CALL, 0, 0, 0, REDIRECT),
        instruction(code::EXIT, 0, 0, 0, 0),
    ]
}

/// The packet goes on into the host.
pub(super) fn pass() -> Vec<u64> {
    vec![instruction(code::MOVE, 0, 0, 0, PASS), instruction(code::EXIT, 0, 0, 0, 0)]
}
