//! Frames that kernels look at.

use etherparse::{PacketBuilder, VlanId};

/// Plain frames of both families, some of them tagged.
pub(crate) fn plain(n: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let load = [7; 40];
    let written = match n % 4 {
        0 | 1 => link
            .ipv4([203, 0, 113, n], [192, 122, 190, n], 64)
            .tcp(1024, 443, 1, 2)
            .write(&mut frame, &load),
        2 => link
            .single_vlan(VlanId::try_new(5).expect("a VLAN"))
            .ipv4([203, 0, 113, n], [192, 122, 190, n], 64)
            .udp(1024, 443)
            .write(&mut frame, &load),
        _ => link.ipv6([n; 16], [0x20; 16], 64).tcp(1024, 443, 1, 2).write(&mut frame, &load),
    };
    written.expect("writing to memory");
    frame
}

/// The same inside GRE, and as they are, in turn.
pub(crate) fn tunnelled(n: u8) -> Vec<u8> {
    let inside = plain(n);
    if (n / 4).is_multiple_of(2) {
        return inside;
    }
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64];
    frame.extend([47, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
    frame.extend([0, 0, 0x65, 0x58]);
    frame.extend(&inside);
    let total = u16::try_from(frame.len() - 14).expect("a short frame").to_be_bytes();
    frame[16..18].copy_from_slice(&total);
    frame
}

/// A short segment to `port`, between addresses of its own.
pub(crate) fn segment(n: u32, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let (source, destination) = (n.wrapping_mul(0x9e37_79b1), n.wrapping_mul(0x85eb_ca6b));
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source.to_be_bytes(), destination.to_be_bytes(), 64)
        .tcp((n >> 3) as u16, port, 7, 1024)
        .ack(9)
        .write(&mut frame, &[0x55; 6])
        .expect("writing to memory");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::distribution::{Mode, frame_hash};
    use packet::hash::SymmetricHash;

    #[test]
    fn tunnels_hide_the_plain_frame() {
        let hash = SymmetricHash::new(7);
        for n in 0..16 {
            let expected = frame_hash(Mode::Ip, &hash, &plain(n));
            assert_eq!(frame_hash(Mode::Auto, &hash, &tunnelled(n)), expected);
        }
    }
}
