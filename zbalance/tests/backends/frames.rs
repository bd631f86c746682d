//! Frames that every back end has to deliver as they were on the wire.

/// Addresses that begin each of them.
pub(crate) const HEAD: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// A datagram behind `tags`, `len` bytes long, which bears a number.
fn datagram(tags: &[u8], len: usize, number: u32) -> Vec<u8> {
    let mut frame = [&HEAD, tags, &[8, 0]].concat();
    let ip = (len - frame.len()) as u16;
    frame.extend([&[0x45, 0][..], &ip.to_be_bytes(), &[0, 0, 0, 0, 64, 17, 0, 0]].concat());
    frame.extend([10, 9, 0, 1, 10, 9, 0, 2, 0x1e, 0x61, 0x1e, 0x61]);
    frame.extend([&(ip - 20).to_be_bytes()[..], &[0, 0], &number.to_be_bytes()].concat());
    frame.extend((frame.len()..len).map(|n| (n as u32 * 7 + number) as u8));
    frame
}

/// Of every kind some: lengths up to that of Ethernet, one that takes several buffers, tags of any type and
/// number, runts.
pub(crate) fn of_every_kind() -> Vec<Vec<u8>> {
    let tags: [&[u8]; 5] = [
        &[],
        &[0x81, 0, 0, 100],
        &[0x81, 0, 0xef, 0xff],
        &[0x88, 0xa8, 0x0f, 0xfe, 0x81, 0, 0x20, 1],
        &[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3],
    ];
    let mut frames = Vec::new();
    for (round, len) in (0..).zip([60, 61, 64, 127, 590, 1513, 1514, 2047, 2049, 8000]) {
        for (n, tags) in (0..).zip(tags) {
            frames.push(datagram(tags, len, 100 * round + n));
        }
    }
    // An Ethernet header, and a byte behind it; an IP header that is cut off.
    frames.push([&HEAD[..], &[0x88, 0xb5]].concat());
    frames.push([&HEAD[..], &[0x88, 0xb5, 1]].concat());
    frames.push([&HEAD[..], &[8, 0, 0x45, 0, 0, 200]].concat());
    frames
}

/// Short datagrams with the numbers `numbers`; every third has a tag.
pub(crate) fn short(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    let tag = |number: u32| if number.is_multiple_of(3) { &[0x81, 0, 0, 7][..] } else { &[] };
    numbers.map(|number| datagram(tag(number), 60 + number as usize % 100, number)).collect()
}
