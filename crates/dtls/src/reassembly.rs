//! Handshake messages from fragments, in order, in bounded memory.

use crate::message::MessageHeader;
use crate::refusal::Refusal;

/// Longest body of a message, bytes. Those of existing peers stay below 500.
const MAX_MESSAGE: usize = 4096;
/// Messages that are kept, from the next one on. A flight has at most five.
const MAX_AHEAD: u16 = 6;
/// Separate pieces of one message that are kept.
const MAX_PIECES: usize = 64;

/// A message of which parts arrived.
#[derive(Debug)]
struct Partial {
    kind: u8,
    body: Vec<u8>,
    /// Ranges that arrived, ascending, apart from each other.
    pieces: Vec<(usize, usize)>,
}

impl Partial {
    fn add(&mut self, offset: usize, fragment: &[u8]) {
        let (mut start, mut end) = (offset, offset + fragment.len());
        self.body[start..end].copy_from_slice(fragment);
        self.pieces.retain(|&(from, to)| {
            let apart = to < start || end < from;
            if !apart {
                (start, end) = (start.min(from), end.max(to));
            }
            apart
        });
        if self.pieces.len() < MAX_PIECES {
            let place = self.pieces.partition_point(|&(from, _)| from < start);
            self.pieces.insert(place, (start, end));
        }
    }

    fn is_whole(&self) -> bool {
        self.pieces == [(0, self.body.len())]
    }
}

/// The peer's messages that are not yet complete or not yet their turn.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    next: u16,
    /// Slot `i` holds message `next + i`.
    slots: [Option<Box<Partial>>; MAX_AHEAD as usize],
}

impl Reassembly {
    /// Number of the message whose turn it is.
    pub(crate) const fn next(&self) -> u16 {
        self.next
    }

    /// Keeps a fragment; `Ok(false)` when its message had its turn.
    ///
    /// Fragments are not authenticated, so later ones win: whoever forges one cannot keep the
    /// retransmitted original out.
    pub(crate) fn add(&mut self, header: MessageHeader, fragment: &[u8]) -> Result<bool, Refusal> {
        let Some(ahead) = header.sequence.checked_sub(self.next) else { return Ok(false) };
        if header.len > MAX_MESSAGE || ahead >= MAX_AHEAD {
            return Err(Refusal::TooLong);
        }
        let slot = &mut self.slots[usize::from(ahead)];
        let fits =
            slot.as_ref().is_some_and(|it| it.kind == header.kind && it.body.len() == header.len);
        if !fits {
            let body = vec![0; header.len];
            *slot = Some(Box::new(Partial { kind: header.kind, body, pieces: vec![] }));
        }
        if let Some(partial) = slot {
            partial.add(header.offset, fragment);
        }
        Ok(true)
    }

    /// Type and body of the message whose turn it is, once it is whole.
    pub(crate) fn ready(&self) -> Option<(u8, &[u8])> {
        self.slots[0].as_ref().filter(|partial| partial.is_whole()).map(|p| (p.kind, &p.body[..]))
    }

    /// Takes the ready message out, to be either [accepted](Self::advance) or forgotten.
    pub(crate) fn take(&mut self) -> Option<(u8, Vec<u8>)> {
        self.ready()?;
        self.slots[0].take().map(|partial| (partial.kind, partial.body))
    }

    /// The message that was taken is accepted: it is the next one's turn.
    pub(crate) fn advance(&mut self) {
        self.slots.rotate_left(1);
        *self.slots.last_mut().expect("there are slots") = None;
        self.next = self.next.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u16, len: usize, offset: usize) -> MessageHeader {
        MessageHeader { kind: 11, len, sequence, offset }
    }

    #[test]
    fn pieces_in_any_order_and_overlapping_make_the_message() {
        let body: Vec<u8> = (0..100).collect();
        let mut reassembly = Reassembly::default();
        for (from, to) in [(60, 100), (0, 20), (10, 30), (30, 30), (50, 70)] {
            assert_eq!(reassembly.add(header(0, 100, from), &body[from..to]), Ok(true));
            assert_eq!(reassembly.ready(), None);
        }
        reassembly.add(header(0, 100, 25), &body[25..55]).unwrap();
        assert_eq!(reassembly.take(), Some((11, body)));
        reassembly.advance();
        assert_eq!(reassembly.add(header(0, 100, 0), &[0; 100]), Ok(false), "its turn is over");
        assert_eq!(reassembly.next(), 1);
    }

    #[test]
    fn messages_wait_for_their_turn() {
        let mut reassembly = Reassembly::default();
        reassembly.add(header(1, 0, 0), &[]).unwrap();
        assert_eq!(reassembly.ready(), None);
        reassembly.add(header(0, 1, 0), &[7]).unwrap();
        assert_eq!(reassembly.take(), Some((11, vec![7])));
        reassembly.advance();
        assert_eq!(reassembly.take(), Some((11, vec![])));
    }

    #[test]
    fn a_message_of_no_bytes_needs_its_fragment() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.take(), None);
        reassembly.add(header(0, 0, 0), &[]).unwrap();
        assert_eq!(reassembly.take(), Some((11, vec![])));
    }

    #[test]
    fn a_forged_fragment_does_not_keep_the_original_out() {
        let mut reassembly = Reassembly::default();
        reassembly.add(header(0, 500, 10), &[9; 50]).unwrap();
        reassembly.add(header(0, 20, 5), &[9; 5]).unwrap();
        reassembly.add(header(0, 20, 0), &[1; 20]).unwrap();
        assert_eq!(reassembly.take(), Some((11, vec![1; 20])));
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.add(header(MAX_AHEAD, 1, 0), &[1]), Err(Refusal::TooLong));
        assert_eq!(reassembly.add(header(0, MAX_MESSAGE + 1, 0), &[1]), Err(Refusal::TooLong));
        for offset in (0..MAX_MESSAGE).step_by(2) {
            reassembly.add(header(0, MAX_MESSAGE, offset), &[1]).unwrap();
        }
        let partial = reassembly.slots[0].as_ref().unwrap();
        assert_eq!(partial.pieces.len(), MAX_PIECES);
        // Retransmitted whole, it still completes.
        reassembly.add(header(0, MAX_MESSAGE, 0), &[2; MAX_MESSAGE]).unwrap();
        assert_eq!(reassembly.take(), Some((11, vec![2; MAX_MESSAGE])));
    }
}
