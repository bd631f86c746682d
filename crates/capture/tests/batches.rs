//! What a batch writes is, cut again, what was pushed.

mod flows;

use capture::Passed;
use capture::tun::{Batch, VNET_LEN};
use flows::{Flow, cut, ip_len};
use proptest::prelude::*;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// The writes of a batch into which `packets` are pushed, flushed whenever it is full.
fn writes(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    writes_of(Batch::new(), 0, packets)
}

/// The same of `batch`. Of the acknowledgements that it keeps apart as many as `taken` go first.
fn writes_of(mut batch: Batch, taken: usize, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut writes = Vec::new();
    let mut flush = |batch: &mut Batch| {
        let mut sent = batch.pass(|acknowledgements| {
            let first: Vec<Vec<u8>> = acknowledgements.take(taken).map(<[u8]>::to_vec).collect();
            let taken = first.len();
            writes.extend(first.into_iter().map(|packet| [&[0; VNET_LEN], &packet[..]].concat()));
            Passed { taken, error: None }
        });
        let together = sent.together;
        assert_eq!(sent.packets, together);
        sent.add(batch.flush(|parts| {
            writes.push(parts.iter().flat_map(|part| part.iter().copied()).collect());
            Ok(())
        }));
        assert_eq!(sent.together, together);
        sent
    };
    let mut sent = 0;
    for packet in packets {
        if !batch.push(packet) {
            sent += flush(&mut batch).packets;
            assert!(batch.push(packet), "an empty batch has room for any packet");
        }
    }
    sent += flush(&mut batch).packets;
    assert_eq!(sent, packets.len() as u64);
    writes
}

fn flow(number: u16) -> Flow {
    let (from, to) = match number % 2 {
        0 => ("203.0.113.9", "192.122.190.7"),
        _ => ("2001:db8::9", "2001:48a8:687f:1::7"),
    };
    Flow::new(from.parse().unwrap(), to.parse().unwrap(), 40_000 + number)
}

/// The packet without what follows it in its frame, where it says how long it is.
fn trimmed(packet: &[u8]) -> &[u8] {
    let len = match packet {
        [0x40..=0x4f, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        [0x60..=0x6f, _, _, _, high, low, ..] => {
            40 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => packet.len(),
    };
    packet.get(..len).filter(|shorter| shorter.len() >= 40).unwrap_or(packet)
}

/// Where a packet belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// To the TCP flow with these addresses and ports.
    Flow(Vec<u8>),
    /// To no flow of TCP.
    Elsewhere,
    /// It may belong to any.
    Anywhere,
}

fn place(packet: &[u8]) -> Place {
    let (protocol, addresses, fragment) = match packet {
        [0x40..=0x4f, _, _, _, _, _, high, low, ..] if packet.len() >= 20 => {
            (packet[9], &packet[12..20], high & 0x3f != 0 || *low != 0)
        }
        [0x60..=0x6f, ..] if packet.len() >= 40 => (packet[6], &packet[8..40], false),
        _ => return Place::Anywhere,
    };
    let ports = packet.get(ip_len(packet)..ip_len(packet) + 4);
    match (protocol, ports) {
        (6, Some(ports)) if !fragment => Place::Flow([addresses, ports].concat()),
        (17, _) if !fragment => Place::Elsewhere,
        _ => Place::Anywhere,
    }
}

/// How a packet differs from the next full segment.
#[derive(Debug, Clone)]
enum Turn {
    Full,
    Short(usize),
    Longer,
    Push,
    Acknowledge,
    Flags(u8),
    Gap,
    Again,
    NewAck,
    Window,
    Ttl,
    Tos,
    Identification(u16),
    Options(Vec<u8>),
    Reserved,
    Urgent,
    WrongTcpChecksum,
    OtherZero,
    WrongIpChecksum,
    Fragment,
    Padding(usize),
    CutOff(usize),
    Datagram,
    Flip(usize, u8),
    Garbage(Vec<u8>),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        30 => Just(Turn::Full),
        2 => (1..100usize).prop_map(Turn::Short),
        1 => Just(Turn::Longer),
        2 => Just(Turn::Push),
        2 => Just(Turn::Acknowledge),
        2 => any::<u8>().prop_map(Turn::Flags),
        1 => Just(Turn::Gap),
        1 => Just(Turn::Again),
        1 => Just(Turn::NewAck),
        1 => Just(Turn::Window),
        1 => Just(Turn::Ttl),
        1 => Just(Turn::Tos),
        1 => any::<u16>().prop_map(Turn::Identification),
        1 => prop::collection::vec(any::<[u8; 4]>(), 0..=10)
            .prop_map(|words| Turn::Options(words.concat())),
        1 => Just(Turn::Reserved),
        1 => Just(Turn::Urgent),
        1 => Just(Turn::WrongTcpChecksum),
        1 => Just(Turn::OtherZero),
        1 => Just(Turn::WrongIpChecksum),
        1 => Just(Turn::Fragment),
        2 => (1..50usize).prop_map(Turn::Padding),
        1 => (0..200usize).prop_map(Turn::CutOff),
        1 => Just(Turn::Datagram),
        3 => (0..200usize, 1u8..).prop_map(|(at, bits)| Turn::Flip(at, bits)),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Turn::Garbage),
    ]
}

impl Turn {
    fn packet(&self, flow: &mut Flow) -> Vec<u8> {
        let full = [flow.port as u8; 100];
        match self {
            Self::Gap => flow.sequence = flow.sequence.wrapping_add(100),
            Self::Again => flow.sequence = flow.sequence.wrapping_sub(100),
            Self::NewAck => flow.ack += 1,
            Self::Window => flow.window += 1,
            Self::Ttl => flow.ttl -= 1,
            Self::Tos => flow.tos ^= 3,
            Self::Identification(by) => {
                flow.identification = flow.identification.wrapping_add(*by);
            }
            Self::Options(options) => flow.options.clone_from(options),
            _ => {}
        }
        let mut packet = match self {
            Self::Short(len) => flow.segment(ACK, &full[..*len]),
            Self::Longer => flow.segment(ACK, &[1; 101]),
            Self::Push => flow.segment(ACK | PSH, &full),
            Self::Acknowledge => flow.segment(ACK, &[]),
            Self::Flags(flags) => flow.segment(*flags, &full),
            Self::Garbage(bytes) => return bytes.clone(),
            _ => flow.segment(ACK, &full),
        };
        let at = ip_len(&packet);
        match self {
            Self::Reserved => {
                packet[at + 12] |= 1;
                flows::complete(&mut packet);
            }
            Self::Urgent => {
                packet[at + 19] = 1;
                flows::complete(&mut packet);
            }
            Self::WrongTcpChecksum => packet[at + 17] ^= 1,
            // A sum of zero may be written in two ways, and cutting makes one of them.
            Self::OtherZero => {
                let rest = packet.len() - 2;
                let checksum = [packet[at + 16], packet[at + 17]];
                packet[rest..].copy_from_slice(&[0, 0]);
                flows::complete(&mut packet);
                let to_add = [packet[at + 16], packet[at + 17]];
                packet[rest..].copy_from_slice(&to_add);
                packet[at + 16..at + 18].fill(if checksum[0] & 1 == 0 { 0xff } else { 0 });
            }
            Self::WrongIpChecksum if at == 20 => packet[10] ^= 1,
            Self::Fragment if at == 20 => {
                packet[6] = 0x20;
                flows::complete(&mut packet);
            }
            Self::Padding(len) => packet.resize(packet.len() + len, 0xee),
            Self::CutOff(len) => packet.truncate(*len),
            Self::Datagram => packet[if at == 20 { 9 } else { 6 }] = 17,
            Self::Flip(place, bits) => {
                let place = place % packet.len();
                packet[place] ^= bits;
            }
            _ => {}
        }
        packet
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn cut_again_it_is_what_was_pushed(
        turns in prop::collection::vec((0u16..4, turn()), 1..300),
        apart in prop::option::of(0..128usize),
    ) {
        let mut flows: Vec<Flow> = (0..4).map(flow).collect();
        let pushed: Vec<Vec<u8>> = turns
            .iter()
            .map(|(flow, turn)| turn.packet(&mut flows[usize::from(*flow)]))
            .collect();
        let writes = match apart {
            None => writes(&pushed),
            Some(taken) => writes_of(Batch::with_acknowledgements_apart(), taken, &pushed),
        };
        let came: Vec<Vec<u8>> = writes.iter().flat_map(|write| cut(write)).collect();
        prop_assert_eq!(came.len(), pushed.len());
        // In each flow in order, with whatever may belong to it.
        let seen = |packets: &[Vec<u8>], of: &Place| -> Vec<Vec<u8>> {
            let belongs = |packet: &&Vec<u8>| {
                let found = place(packet);
                found == *of || (*of != Place::Elsewhere && found == Place::Anywhere)
            };
            packets.iter().filter(belongs).map(|packet| trimmed(packet).to_vec()).collect()
        };
        let mut places: Vec<Place> = pushed.iter().map(|packet| place(packet)).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            prop_assert_eq!(seen(&came, &place), seen(&pushed, &place), "{:?}", place);
        }
    }
}

/// Full segments of two flows, one between the other's: two writes as long as a packet may be.
#[test]
fn flows_are_joined_side_by_side() {
    let mut flows = [flow(0), flow(1)];
    let packets: Vec<Vec<u8>> =
        (0..64).map(|at| flows[at % 2].segment(ACK, &[at as u8; 1448])).collect();
    let writes = writes(&packets);
    assert_eq!(writes.iter().map(|write| cut(write).len()).collect::<Vec<_>>(), [32, 32]);
    let mut one = flow(2);
    let packets: Vec<Vec<u8>> = (0..100).map(|_| one.segment(ACK, &[7; 1448])).collect();
    let joined: Vec<usize> = self::writes(&packets).iter().map(|write| cut(write).len()).collect();
    assert_eq!(joined, [45, 45, 10]);
}

/// PSH ends a run and stands in its last segment; a short segment ends it too.
#[test]
fn a_run_ends_where_its_data_does() {
    let mut flow = flow(1);
    let lengths = [(ACK, 100), (ACK | PSH, 100), (ACK, 100), (ACK, 99), (ACK, 99), (ACK, 0)];
    let packets: Vec<Vec<u8>> =
        lengths.iter().map(|(flags, len)| flow.segment(*flags, &vec![3; *len])).collect();
    let counts: Vec<usize> = writes(&packets).iter().map(|write| cut(write).len()).collect();
    assert_eq!(counts, [2, 2, 1, 1]);
}

/// What must not be overtaken keeps its place: an acknowledgement goes before other flows, and not before its own.
#[test]
fn acknowledgements_go_before_other_flows() {
    let (mut batch, [mut one, mut other]) =
        (Batch::with_acknowledgements_apart(), [flow(0), flow(1)]);
    let of_one = [one.segment(ACK, &[1; 9]), one.segment(ACK, &[]), one.segment(ACK | 1, &[])];
    let of_other =
        [other.segment(ACK, &[]), other.segment(ACK | PSH, &[2]), other.segment(ACK, &[])];
    of_one.iter().chain(&of_other).for_each(|packet| assert!(batch.push(packet)));
    assert_eq!(batch.acknowledgements(), 1);
    let mut came = Vec::new();
    let sent = batch.pass(|packets| {
        came.extend(packets.map(<[u8]>::to_vec));
        Passed { taken: 1, error: None }
    });
    assert_eq!((sent.packets, sent.together, sent.bytes), (1, 1, of_other[0].len() as u64));
    assert_eq!(came, [of_other[0].clone()]);
    assert_eq!(batch.flush(|_| Ok(())).packets, 5);
    // A fragment may belong to any flow.
    let mut fragment = flow(2).segment(ACK, &[3; 64]);
    fragment[6] = 0x20;
    assert!(batch.push(&fragment) && batch.push(&flow(0).segment(ACK, &[])));
    assert_eq!(batch.acknowledgements(), 0);
    assert_eq!(batch.flush(|_| Ok(())).packets, 2);
    // What is not taken is written.
    (0..40).for_each(|number| assert!(batch.push(&flow(number).segment(ACK, &[]))));
    assert_eq!(batch.acknowledgements(), 40);
    let failed = || Some(std::io::ErrorKind::OutOfMemory.into());
    let sent = batch.pass(|_| Passed { taken: 30, error: failed() });
    assert!(sent.packets == 30 && sent.lost == 0 && sent.alone.is_some());
    let mut written = Vec::new();
    batch.flush(|parts| {
        written.push(parts[0][VNET_LEN..].to_vec());
        Ok(())
    });
    let cut: Vec<Vec<u8>> = (30..40).map(|number| flow(number).segment(ACK, &[])).collect();
    assert!(written.iter().zip(&cut).all(|(came, sent)| came[..20] == sent[..20]));
    assert_eq!((written.len(), batch.acknowledgements()), (10, 0));
}

#[test]
fn a_batch_forgets_what_it_was_refused() {
    let mut batch = Batch::new();
    let mut flow = flow(0);
    for _ in 0..3 {
        assert!(batch.push(&flow.segment(ACK, &[1; 1000])));
    }
    let sent = batch.flush(|_| Err(std::io::ErrorKind::WouldBlock.into()));
    assert_eq!((sent.packets, sent.bytes, sent.lost), (0, 0, 3));
    assert!(sent.error.is_some());
    let sent = batch.flush(|_| panic!("it is empty"));
    assert_eq!((sent.packets, sent.lost), (0, 0));
}
