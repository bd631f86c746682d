//! Programs for the XDP hook, written as instructions, so that building them takes no compiler for BPF.

use std::os::fd::AsRawFd;

use super::bpf::{Memory, SocketMap};

/// What a program says of a packet: it goes nowhere, or on into the host.
const DROP: i32 = 1;
const PASS: i32 = 2;

const LOAD_WORD: u8 = 0x61;
const LOAD_WIDE: u8 = 0x18;
const MOVE: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Say that the value of [`LOAD_WIDE`] is the descriptor of a map: for the map, or for its only value.
const MAP_BY_DESCRIPTOR: u8 = 1;
const VALUE_BY_DESCRIPTOR: u8 = 2;

/// One instruction: operation, destination and source register, offset, immediate value.
const fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let [a, b] = offset.to_le_bytes();
    let [c, d, e, f] = value.to_le_bytes();
    u64::from_ne_bytes([code, src << 4 | dst, a, b, c, d, e, f])
}

/// The packet goes to the socket of its receive queue, or on into the host when there is none.
pub(super) fn tap(map: &SocketMap) -> Vec<u64> {
    /// Offset of the receive queue in the context.
    const QUEUE: i16 = 16;
    const REDIRECT_MAP: i32 = 51;
    vec![
        instruction(LOAD_WORD, 2, 1, QUEUE, 0),
        instruction(LOAD_WIDE, 1, MAP_BY_DESCRIPTOR, 0, map.0.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        // What `redirect_map` answers for a queue without socket.
        instruction(MOVE, 3, 0, 0, PASS),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// Bytes that [`paced`] keeps.
pub(super) const PACE: u32 = 16;

/// Packets leave by the interface with this index, `group` of them in every `period` nanoseconds; more are
/// dropped. `memory` has [`PACE`] bytes: when the first was due, and how many have left.
pub(super) fn paced(memory: &Memory, interface: u32, group: i32, period: i32) -> Vec<u64> {
    const LOAD: u8 = 0x79;
    const STORE: u8 = 0x7b;
    const COPY: u8 = 0xbf;
    const ADD: u8 = 0x07;
    const SUBTRACT: u8 = 0x1f;
    const DIVIDE: u8 = 0x37;
    const MULTIPLY: u8 = 0x27;
    const SKIP_UNLESS_ZERO: u8 = 0x55;
    const SKIP_IF_ABOVE: u8 = 0x2d;
    const CLOCK: i32 = 5;
    const REDIRECT: i32 = 23;
    vec![
        instruction(LOAD_WIDE, 6, VALUE_BY_DESCRIPTOR, 0, memory.0.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(CALL, 0, 0, 0, CLOCK),
        instruction(LOAD, 1, 6, 0, 0),
        instruction(SKIP_UNLESS_ZERO, 1, 0, 2, 0),
        instruction(COPY, 1, 0, 0, 0),
        instruction(STORE, 6, 0, 0, 0),
        instruction(SUBTRACT, 0, 1, 0, 0),
        instruction(DIVIDE, 0, 0, 0, period),
        instruction(MULTIPLY, 0, 0, 0, group),
        instruction(LOAD, 1, 6, 8, 0),
        instruction(SKIP_IF_ABOVE, 0, 1, 2, 0),
        instruction(MOVE, 0, 0, 0, DROP),
        instruction(EXIT, 0, 0, 0, 0),
        instruction(ADD, 1, 0, 0, 1),
        instruction(STORE, 6, 1, 8, 0),
        instruction(MOVE, 1, 0, 0, interface.cast_signed()),
        instruction(MOVE, 2, 0, 0, 0),
        instruction(CALL, 0, 0, 0, REDIRECT),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// The packet goes on into the host.
pub(super) fn pass() -> Vec<u64> {
    vec![instruction(MOVE, 0, 0, 0, PASS), instruction(EXIT, 0, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_as_the_kernel_lays_them_out() {
        assert_eq!(instruction(0x61, 2, 1, 16, 0).to_ne_bytes(), [0x61, 0x12, 16, 0, 0, 0, 0, 0]);
        assert_eq!(
            instruction(0xb7, 3, 0, 0, -2).to_ne_bytes(),
            [0xb7, 3, 0, 0, 0xfe, 0xff, 0xff, 0xff]
        );
    }
}
