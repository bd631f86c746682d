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
    version: Option<u64>,
}

impl<R> Default for MarkSearch<R> {
    fn default() -> Self {
        Self { marks: Vec::new(), version: None }
    }
}

impl<R: Clone> MarkSearch<R> {
    /// A connection on which nothing was received.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges `received`, everything since the start of the connection. `registrations` lists the
    /// valid obfs4 registrations of its phantom; it is asked again only when `version`, which the
    /// caller changes with that list, has changed. Nothing is computed before as many bytes as the
    /// shortest handshake have arrived.
    pub fn offer<'a, I>(
        &mut self,
        received: &[u8],
        version: u64,
        registrations: impl FnOnce() -> I,
    ) -> MarkVerdict<R>
    where
        I: IntoIterator<Item = (&'a ClientIdentity, R)>,
    {
        let (Some(representative), Some(tail)) = (received.first_chunk(), tail_mark(received))
        else {
            return MarkVerdict::TryAgain;
        };
        debug_assert!(received.len() >= MIN_CLIENT_HANDSHAKE);
        if self.version != Some(version) {
            self.marks.clear();
            self.marks.extend(registrations().into_iter().map(|(identity, registration)| {
                (u128::from_ne_bytes(identity.mark(representative)), registration)
            }));
            self.version = Some(version);
        }
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

    #[test]
    fn one_of_many_is_found_when_its_last_byte_arrives() {
        let identities: Vec<_> = (0..200).map(identity).collect();
        let list = || identities.iter().zip(0..);
        let message = client_message(&identities[137], &[0x33; 32], &[0x44; 500], 470_000);
        let mut search = MarkSearch::<usize>::new();
        for n in 0..message.len() {
            assert_eq!(search.offer(&message[..n], 1, list), MarkVerdict::TryAgain);
        }
        let asked_again = || -> std::vec::IntoIter<(&ClientIdentity, usize)> {
            panic!("the list has not changed")
        };
        assert_eq!(search.offer(&message, 1, asked_again), MarkVerdict::Found(137));
    }

    #[test]
    fn a_registration_that_comes_late_is_found() {
        let late = identity(9);
        let message = client_message(&late, &[0x33; 32], &[0x44; 77], 470_000);
        let mut search = MarkSearch::new();
        assert_eq!(search.offer(&message, 1, Vec::new), MarkVerdict::TryAgain);
        assert_eq!(search.offer(&message, 2, || [(&late, 'x')]), MarkVerdict::Found('x'));
    }

    #[test]
    fn garbage_is_given_up_at_8192_bytes() {
        let known = identity(9);
        let mut search = MarkSearch::new();
        for n in [0, 31, 32, 64, 140, 141, 8191] {
            let verdict = search.offer(&vec![0x55; n], 1, || [(&known, ())]);
            assert_eq!(verdict, MarkVerdict::TryAgain, "{n}");
        }
        for n in [8192, 9000] {
            let verdict = search.offer(&vec![0x55; n], 1, || [(&known, ())]);
            assert_eq!(verdict, MarkVerdict::NotThisTransport, "{n}");
        }
    }
}
