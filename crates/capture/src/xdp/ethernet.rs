//! The way of a program to the network header, which its stages share: behind at most four VLAN tags, each place
//! fixed.

use super::assembly::{Assembly, Label, code, seen};
use super::prefilter::CONTEXT;

/// EtherTypes of tags, and how many there may be.
pub(super) const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const MAX_TAGS: i16 = 4;

/// Registers that the frame is read with: where it begins and ends, and what was read.
pub(super) const PACKET: u8 = 2;
pub(super) const END: u8 = 3;
pub(super) const VALUE: u8 = 4;

/// Writes what follows behind the Ethernet header of IPv4 and of IPv6 for each number of tags; both are told where
/// theirs begins and lead elsewhere. A frame that is cut off, or has more tags, goes on at `unclear`, one of another
/// protocol at `other`.
pub(super) fn write(
    program: &mut Assembly,
    unclear: Label,
    other: Label,
    of_ipv4: impl Fn(&mut Assembly, i16),
    of_ipv6: impl Fn(&mut Assembly, i16),
) {
    program.load(code::LOAD_WORD, PACKET, CONTEXT, 0);
    program.load(code::LOAD_WORD, END, CONTEXT, 4);
    for tags in 0..=MAX_TAGS {
        let network = 14 + 4 * tags;
        let (v4, v6, tag) = (program.label(), program.label(), program.label());
        program.reaches(PACKET, END, network, VALUE, unclear);
        program.load(code::LOAD_HALF, VALUE, PACKET, network - 2);
        program.jump_if(code::JUMP_IF_EQUAL, VALUE, seen(0x0800), v4);
        program.jump_if(code::JUMP_IF_EQUAL, VALUE, seen(0x86dd), v6);
        for kind in TAGS {
            let to = if tags < MAX_TAGS { tag } else { unclear };
            program.jump_if(code::JUMP_IF_EQUAL, VALUE, seen(kind), to);
        }
        program.jump(other);
        program.place(v4);
        of_ipv4(program, network);
        program.place(v6);
        of_ipv6(program, network);
        program.place(tag);
    }
}
