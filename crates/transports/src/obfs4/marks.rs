//! Which registration a connection belongs to (`spec/transports.md` 7.3).

use super::handshake::tail_mark;
use super::{ClientIdentity, MAX_HANDSHAKE, MIN_CLIENT_HANDSHAKE};
use subtle::ConstantTimeEq;

/// What is known after a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkVerdict<R> {
    /// More bytes may still end with a mark.
    TryAgain,
    /// What was received ends with the mark of this registration, and is its handshake. Whatever
    /// goes wrong from here on, the connection belongs to no other transport.
    Found(R),
    /// No client sends as many bytes.
    NotThisTransport,
}

/// The search of one connection. A mark depends on the first 32 bytes alone, so each registration
/// costs one HMAC per connection, and each read compares 16 bytes with the marks.
#[derive(Debug)]
pub struct MarkSearch<R> {
    // As integers, because those compare in constant time at once and not byte by byte.
    marks: Vec<(u128, R)>,
    last: u64,
}

impl<R> Default for MarkSearch<R> {
    fn default() -> Self {
        Self { marks: Vec::new(), last: 0 }
    }
}

impl<R: Clone> MarkSearch<R> {
    /// A connection on which nothing was received.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges `received`, everything since the start of the connection. Valid obfs4 registrations
    /// of its phantom are numbered from 1 in the order in which they became valid; `list(n, each)`
    /// calls `each` with the number, the identity and the registration of those beyond `n`, in that
    /// order. Nothing is asked before as many bytes as the shortest handshake have arrived.
    pub fn offer(
        &mut self,
        received: &[u8],
        list: impl FnOnce(u64, &mut dyn FnMut(u64, &ClientIdentity, R)),
    ) -> MarkVerdict<R> {
        let (Some(representative), Some(tail)) = (received.first_chunk(), tail_mark(received))
        else {
            return MarkVerdict::TryAgain;
        };
        debug_assert!(received.len() >= MIN_CLIENT_HANDSHAKE);
        let Self { marks, last } = self;
        list(*last, &mut |number, identity, registration| {
            marks.push((u128::from_ne_bytes(identity.mark(representative)), registration));
            *last = number;
        });
        // Bytes behind the longest handshake would be found fatal; they are left to that check.
        let tail = u128::from_ne_bytes(*tail);
        let found = self.marks.iter().find(|(mark, _)| bool::from(mark.ct_eq(&tail)));
        match found {
            Some((_, registration)) => MarkVerdict::Found(registration.clone()),
            None if received.len() < MAX_HANDSHAKE => MarkVerdict::TryAgain,
            None => MarkVerdict::NotThisTransport,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::handshake::client_message;
    use super::*;

    fn identity(number: u32) -> ClientIdentity {
        let mut public = [1; 32];
        public[..4].copy_from_slice(&number.to_be_bytes());
        ClientIdentity::new(public, [2; 20])
    }

    type Each<'a> = &'a mut dyn FnMut(u64, &ClientIdentity, u64);

    #[test]
    fn one_of_many_is_found_when_its_last_byte_arrives() {
        let identities: Vec<_> = (0..200).map(identity).collect();
        let asked = std::cell::Cell::new(0);
        let list = |after: u64, each: Each<'_>| {
            for (number, identity) in (1..).zip(&identities).skip(after as usize) {
                asked.set(asked.get() + 1);
                each(number, identity, number);
            }
        };
        let message = client_message(&identities[137], &[0x33; 32], &[0x44; 500], 470_000);
        let mut search = MarkSearch::new();
        for n in 0..message.len() {
            assert_eq!(search.offer(&message[..n], list), MarkVerdict::TryAgain);
        }
        assert_eq!(search.offer(&message, list), MarkVerdict::Found(138));
        assert_eq!(asked.get(), 200, "each mark is computed once");
    }

    #[test]
    fn a_registration_that_comes_late_is_found() {
        let late = identity(9);
        let message = client_message(&late, &[0x33; 32], &[0x44; 77], 470_000);
        let mut search = MarkSearch::new();
        assert_eq!(search.offer(&message, |_, _: Each<'_>| ()), MarkVerdict::TryAgain);
        let verdict = search.offer(&message, |after, each| {
            assert_eq!(after, 0);
            each(7, &late, 7);
        });
        assert_eq!(verdict, MarkVerdict::Found(7));
    }

    #[test]
    fn garbage_is_given_up_at_8192_bytes() {
        let known = identity(9);
        for n in [0, 31, 32, 64, 140, 141, 8191, 8192, 9000] {
            let verdict = MarkSearch::new().offer(&vec![0x55; n], |_, each| each(1, &known, ()));
            let expected =
                if n < 8192 { MarkVerdict::TryAgain } else { MarkVerdict::NotThisTransport };
            assert_eq!(verdict, expected, "{n}");
        }
    }
}
