//! Any bytes can be read, whatever they are; the views never leave the frame.

use etherparse::PacketBuilder;
use packet::distribution::{Mode, frame_hash};
use packet::tunnel::{self, Follow};
use packet::{Frame, SymmetricHash, Transport, walk};
use proptest::prelude::*;

fn within(outer: &[u8], inner: &[u8]) -> bool {
    let (o, i) = (outer.as_ptr_range(), inner.as_ptr_range());
    inner.is_empty() || (o.start <= i.start && i.end <= o.end)
}

fn read_everything(bytes: &[u8], offset: usize) {
    assert_eq!(walk::outer_pair(bytes), walk::outer(bytes).map(|outer| outer.pair));
    let _ = walk::vlan_ids(bytes).count();
    for follow in [Follow::ALL, Follow::GRE, Follow::GTP, Follow::ERSPAN] {
        let inner = tunnel::inner(bytes, follow);
        assert_eq!(inner.is_some(), walk::outer(bytes).is_some());
        assert!(inner.is_none_or(|inner| inner.offset < bytes.len()));
    }
    if let Some(bare) = tunnel::bare(bytes) {
        let mut into = Vec::new();
        bare.write(bytes, &mut into);
        // What is left has no tunnel that leads on, unless there were too many in one another.
        assert!(into.len() <= bytes.len() && walk::outer(&into).is_some());
    }
    let Ok(frame) = Frame::parse(bytes, offset) else {
        return;
    };
    assert!(within(bytes, frame.ip.captured()));
    assert!(within(bytes, frame.ip.payload()));
    for transport in [frame.transport(), frame.transport_or_capture()] {
        match transport {
            Transport::Tcp(tcp) => assert!(within(bytes, tcp.payload())),
            Transport::Udp(udp) => assert!(within(bytes, udp.payload())),
            Transport::Other => {}
        }
    }
}

/// Frames that reach deep into the parser: known headers with some bytes overwritten.
fn likely_frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = 0u8..8;
    let edits = proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6);
    let payload = proptest::collection::vec(any::<u8>(), 0..80);
    (kind, edits, payload, any::<usize>()).prop_map(|(kind, edits, payload, cut)| {
        let mut frame = build(kind, &payload);
        for (at, value) in edits {
            let at = at % frame.len();
            frame[at] = value;
        }
        if cut % 4 == 0 {
            frame.truncate(cut % (frame.len() + 1));
        }
        frame
    })
}

fn build(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let v4 = ([10, 0, 0, 1], [192, 0, 2, 1]);
    let v6 = ([0x20; 16], [0x21; 16]);
    match (kind & 1, kind & 2, kind & 4) {
        (0, 0, 0) => link.ipv4(v4.0, v4.1, 9).tcp(1, 443, 3, 4).write(&mut frame, payload),
        (0, _, 0) => link.ipv4(v4.0, v4.1, 9).udp(1, 2).write(&mut frame, payload),
        (_, 0, 0) => link.ipv6(v6.0, v6.1, 9).tcp(1, 443, 3, 4).write(&mut frame, payload),
        (_, _, 0) => link.ipv6(v6.0, v6.1, 9).udp(1, 2).write(&mut frame, payload),
        (0, _, _) => link
            .single_vlan(etherparse::VlanId::try_new(7).unwrap())
            .ipv4(v4.0, v4.1, 9)
            .tcp(1, 2, 3, 4)
            .write(&mut frame, payload),
        (_, _, _) => link
            .double_vlan(
                etherparse::VlanId::try_new(7).unwrap(),
                etherparse::VlanId::try_new(8).unwrap(),
            )
            .ipv6(v6.0, v6.1, 9)
            .udp(1, 2)
            .write(&mut frame, payload),
    }
    .unwrap();
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), offset in 0usize..64) {
        read_everything(&bytes, offset);
    }

    #[test]
    fn mutated_frames(frame in likely_frame(), offset in prop_oneof![Just(0usize), 0usize..64]) {
        read_everything(&frame, offset);
    }

    #[test]
    fn both_directions_share_a_hash(seed: u64, a: [u8; 4], b: [u8; 4], p: u16, q: u16) {
        let hash = SymmetricHash::new(seed);
        let frame = |src, dst, sport, dport| {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(src, dst, 9).tcp(sport, dport, 3, 4)
                .write(&mut frame, b"").unwrap();
            frame
        };
        for mode in [Mode::Ip, Mode::FiveTuple, Mode::Auto, Mode::Gre] {
            prop_assert_eq!(
                frame_hash(mode, &hash, &frame(a, b, p, q)),
                frame_hash(mode, &hash, &frame(b, a, q, p))
            );
        }
    }
}

#[test]
fn every_truncation() {
    for kind in 0..8 {
        let frame = build(kind, &[0x17; 40]);
        for len in 0..=frame.len() {
            for offset in [0, 1, 14, 42, len, len + 1] {
                read_everything(&frame[..len], offset);
            }
        }
    }
}
