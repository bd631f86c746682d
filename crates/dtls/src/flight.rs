//! The messages that go out together, and again when no answer comes (RFC 6347 4.2.4).

use crate::message::MessageHeader;
use crate::protection::{OVERHEAD, PREFIX_LEN, SealingKey};
use crate::record::{CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER_LEN, Header};
use std::collections::VecDeque;

/// Shortest limit of a datagram that leaves room for a fragment of some use.
const LEAST_LIMIT: usize = 128;

/// One part of a flight.
#[derive(Debug)]
enum Part {
    Message {
        kind: u8,
        sequence: u16,
        body: Vec<u8>,
    },
    /// What follows is sealed.
    ChangeCipherSpec,
}

/// The messages that await an answer.
#[derive(Debug, Default)]
pub(crate) struct Flight(Vec<Part>);

impl Flight {
    pub(crate) fn message(&mut self, kind: u8, sequence: u16, body: Vec<u8>) {
        self.0.push(Part::Message { kind, sequence, body });
    }

    pub(crate) fn change_cipher_spec(&mut self) {
        self.0.push(Part::ChangeCipherSpec);
    }

    /// Appends the flight to `outbox` as datagrams of at most `limit` bytes. `number` is that of the
    /// next record in the clear; `sealing` seals what follows ChangeCipherSpec.
    pub(crate) fn transmit(
        &self,
        limit: usize,
        number: &mut u64,
        mut sealing: Option<&mut SealingKey>,
        outbox: &mut VecDeque<Vec<u8>>,
    ) {
        let limit = limit.max(LEAST_LIMIT);
        let mut datagram = Vec::new();
        let mut sealed = false;
        for part in &self.0 {
            match part {
                Part::ChangeCipherSpec => {
                    make_room(&mut datagram, HEADER_LEN + 1, limit, outbox);
                    datagram.extend_from_slice(&plain(CHANGE_CIPHER_SPEC, number, 1));
                    datagram.push(1);
                    sealed = true;
                }
                Part::Message { kind, sequence, body } => {
                    let overhead = MessageHeader::LEN + if sealed { OVERHEAD } else { HEADER_LEN };
                    let mut offset = 0;
                    loop {
                        let end = body.len().min(offset + limit - overhead);
                        let fragment = &body[offset..end];
                        let header = MessageHeader {
                            kind: *kind,
                            len: body.len(),
                            sequence: *sequence,
                            offset,
                        };
                        make_room(&mut datagram, overhead + fragment.len(), limit, outbox);
                        match sealing.as_deref_mut().filter(|_| sealed) {
                            Some(key) => seal(key, header, fragment, &mut datagram),
                            None => {
                                let len = MessageHeader::LEN + fragment.len();
                                datagram.extend_from_slice(&plain(HANDSHAKE, number, len));
                                header.encode(fragment.len(), &mut datagram);
                                datagram.extend_from_slice(fragment);
                            }
                        }
                        offset = end;
                        if offset == body.len() {
                            break;
                        }
                    }
                }
            }
        }
        if !datagram.is_empty() {
            outbox.push_back(datagram);
        }
    }
}

/// Sends `datagram` off when `more` bytes would not fit.
fn make_room(datagram: &mut Vec<u8>, more: usize, limit: usize, outbox: &mut VecDeque<Vec<u8>>) {
    if !datagram.is_empty() && datagram.len() + more > limit {
        outbox.push_back(std::mem::take(datagram));
    }
}

fn plain(content: u8, number: &mut u64, len: usize) -> [u8; HEADER_LEN] {
    let header = Header { content, epoch: 0, number: *number };
    *number += 1;
    header.encode(len as u16)
}

fn seal(key: &mut SealingKey, header: MessageHeader, fragment: &[u8], datagram: &mut Vec<u8>) {
    let start = datagram.len();
    datagram.resize(start + PREFIX_LEN, 0);
    header.encode(fragment.len(), datagram);
    datagram.extend_from_slice(fragment);
    key.seal(HANDSHAKE, datagram, start).expect("a handshake does not use up 2^48 records");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::next_fragment;
    use crate::reassembly::Reassembly;
    use crate::record;
    use crate::wire::Reader;

    #[test]
    fn datagrams_keep_to_the_limit_and_carry_everything() {
        let mut flight = Flight::default();
        let bodies: [Vec<u8>; 4] = [vec![1; 55], vec![2; 446], vec![], vec![3; 3000]];
        for (sequence, body) in (0..).zip(&bodies) {
            flight.message(11, sequence, body.clone());
        }
        for limit in [0, 128, 200, 1200, 5000] {
            let (mut number, mut outbox) = (0, VecDeque::new());
            flight.transmit(limit, &mut number, None, &mut outbox);
            let mut reassembly = Reassembly::default();
            let mut expected = 0;
            for datagram in &mut outbox {
                assert!(datagram.len() <= limit.max(LEAST_LIMIT));
                let mut rest = &mut datagram[..];
                while let Some((header, body)) = record::next(&mut rest) {
                    assert_eq!(header.number, expected);
                    expected += 1;
                    let (header, fragment) = next_fragment(&mut Reader::new(body)).unwrap();
                    reassembly.add(header, fragment).unwrap();
                }
            }
            assert_eq!(expected, number);
            for body in &bodies {
                assert_eq!(reassembly.take().unwrap(), (11, body.clone()));
                reassembly.advance();
            }
        }
    }
}
