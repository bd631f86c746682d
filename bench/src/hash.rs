//! Rows of the balancer's walk through headers, with the hash of what it finds.

use std::hint::black_box;

use etherparse::{PacketBuilder, SlicedPacket, VlanId};
use packet::distribution::{Mode, frame_hash};
use packet::hash::SymmetricHash;

use crate::measure::{Row, nanoseconds};

/// Frames of one round; their headers stay in the cache.
pub(crate) const FRAMES: usize = 256;

/// A frame, and where the frame inside its tunnel begins.
struct Sample {
    frame: Vec<u8>,
    inner: Option<usize>,
}

/// Plain frames of both families, some of them tagged.
fn plain(n: usize) -> Vec<u8> {
    let low = n.to_le_bytes()[0];
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let load = [7; 40];
    let written = match n % 4 {
        0 | 1 => link
            .ipv4([203, 0, 113, low], [192, 122, 190, low], 64)
            .tcp(1024, 443, 1, 2)
            .write(&mut frame, &load),
        2 => link
            .single_vlan(VlanId::try_new(5).expect("a VLAN"))
            .ipv4([203, 0, 113, low], [192, 122, 190, low], 64)
            .udp(1024, 443)
            .write(&mut frame, &load),
        _ => link.ipv6([low; 16], [0x20; 16], 64).tcp(1024, 443, 1, 2).write(&mut frame, &load),
    };
    written.expect("writing to memory");
    frame
}

/// The same behind GRE, ERSPAN II and VXLAN in turn, and as they are.
fn mixed(n: usize) -> Sample {
    let inside = plain(n);
    let mut outer = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64];
    let (protocol, header): (u8, &[u8]) = match n / 4 % 4 {
        0 => (47, &[0, 0, 0x65, 0x58]),
        1 => (47, &[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 0, 0, 0, 0, 0]),
        2 => (17, &[0, 9, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0]),
        _ => return Sample { frame: inside, inner: None },
    };
    outer.push(protocol);
    outer.extend([0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
    outer.extend(header);
    let inner = outer.len();
    outer.extend(&inside);
    let total = u16::try_from(outer.len() - 14).expect("a short frame").to_be_bytes();
    outer[16..18].copy_from_slice(&total);
    if protocol == 17 {
        let udp = u16::try_from(outer.len() - 34).expect("a short frame").to_be_bytes();
        outer[38..40].copy_from_slice(&udp);
    }
    Sample { frame: outer, inner: Some(inner) }
}

fn all_plain() -> Vec<Sample> {
    (0..FRAMES).map(|n| Sample { frame: plain(n), inner: None }).collect()
}

fn all_mixed() -> Vec<Sample> {
    (0..FRAMES).map(mixed).collect()
}

/// The outermost addresses of plain frames.
pub(crate) fn ip() -> Row {
    row(ip_round(), all_plain())
}

/// The innermost addresses of a mix of tunnels.
pub(crate) fn auto() -> Row {
    row(auto_round(), all_mixed())
}

/// Our side of the row of that name.
pub(crate) fn ip_round() -> impl FnMut() {
    round(Mode::Ip, all_plain())
}

/// Our side of the row of that name.
pub(crate) fn auto_round() -> impl FnMut() {
    round(Mode::Auto, all_mixed())
}

fn round(mode: Mode, samples: Vec<Sample>) -> impl FnMut() {
    let hash = SymmetricHash::new(7);
    // Both ends of the same inner flow, or the walk found something else.
    for sample in &samples {
        let inside = &sample.frame[sample.inner.unwrap_or(0)..];
        assert_eq!(frame_hash(mode, &hash, &sample.frame), frame_hash(Mode::Ip, &hash, inside));
    }
    move || {
        for sample in &samples {
            black_box(frame_hash(mode, &hash, black_box(&sample.frame)));
        }
    }
}

fn row(ours: impl FnMut() + 'static, theirs: Vec<Sample>) -> Row {
    Row {
        unit: "ns",
        baseline_name: "etherparse on the same headers",
        ours: nanoseconds(FRAMES, ours),
        baseline: Ok(nanoseconds(FRAMES, move || {
            for sample in &theirs {
                let frame = black_box(&sample.frame[..]);
                let _ = black_box(SlicedPacket::from_ethernet(frame));
                if let Some(inner) = sample.inner {
                    let _ = black_box(SlicedPacket::from_ethernet(&frame[inner..]));
                }
            }
        })),
        plausible: None,
    }
}
