//! Finding the registration of a TCP connection from its first bytes (`spec/transports.md` 3).

use crate::min;
use crate::obfs4::{ClientIdentity, MarkSearch, MarkVerdict};
use crate::prefix::{PrefixTable, Revealed, TAG_LEN};
use crate::transport::Transport;
use keys::StationKey;

/// What the caller's index knows about an identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered<R> {
    /// The caller's handle.
    pub registration: R,
    /// Transport of the registration.
    pub transport: Transport,
    /// Prefix id of its parameters, if it has any.
    pub prefix_id: Option<i32>,
}

/// The valid registrations of the phantom of one connection.
pub trait Index {
    /// The caller's handle.
    type Registration: Clone;

    /// The registration with the identifier `tag`.
    fn find(&self, tag: &[u8; 32]) -> Option<Registered<Self::Registration>>;

    /// The obfs4 registrations with a number beyond `after`, as [`MarkSearch::offer`] asks for
    /// them.
    fn obfs4(&self, after: u64, each: &mut dyn FnMut(u64, &ClientIdentity, Self::Registration));
}

/// A look-up of tags, for a phantom without obfs4 registrations.
impl<R: Clone, F: Fn(&[u8; 32]) -> Option<Registered<R>>> Index for F {
    type Registration = R;

    fn find(&self, tag: &[u8; 32]) -> Option<Registered<R>> {
        self(tag)
    }

    fn obfs4(&self, _: u64, _: &mut dyn FnMut(u64, &ClientIdentity, R)) {}
}

/// An identified connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<R> {
    /// The caller's handle.
    pub registration: R,
    /// The transport that recognised it.
    pub transport: Transport,
    /// Bytes of `received` that belong to the transport; what follows belongs to the covert. Those
    /// of obfs4 are its handshake, which is still to be verified and answered.
    pub consumed: usize,
    /// The prefix that was used.
    pub prefix_id: Option<i32>,
}

/// A connection that showed a valid tag in a way no client does. It is kept silent until its
/// deadline, like every other connection that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Burnt {
    /// The tag of another transport.
    #[error("found registration w/ incorrect transport type")]
    IncorrectTransport,
    /// The tag behind a prefix that was not registered.
    #[error("found connection for unexpected prefix")]
    UnexpectedPrefix,
}

/// Verdict over what has been received so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<R> {
    /// More bytes may still identify the connection.
    TryAgain,
    /// Identified.
    Found(Found<R>),
    /// No transport is left; the connection is drained until its deadline.
    Exhausted,
    /// A transport gave the connection up.
    Burnt(Transport, Burnt),
}

/// Verdict of one transport.
enum Answer<R> {
    TryAgain,
    NotThisTransport,
    Found(Found<R>),
    Burnt(Burnt),
}

/// Identification of one connection: which transports are still possible, and what was computed
/// from its bytes already.
#[derive(Debug)]
pub struct Identification<R> {
    min: bool,
    prefix: bool,
    obfs4: bool,
    revealed: Revealed,
    marks: MarkSearch<R>,
}

impl<R: Clone> Default for Identification<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Clone> Identification<R> {
    /// A connection on which nothing was received.
    pub fn new() -> Self {
        Self {
            min: true,
            prefix: true,
            obfs4: true,
            revealed: Revealed::default(),
            marks: MarkSearch::new(),
        }
    }

    /// Judges `received`, everything since the start of the connection; `index` has the valid
    /// registrations of its phantom. The cheapest transport is asked first.
    pub fn offer(
        &mut self,
        received: &[u8],
        prefixes: &PrefixTable,
        keys: &[StationKey],
        index: &impl Index<Registration = R>,
    ) -> Verdict<R> {
        if self.min {
            match identify_min(received, index) {
                Answer::TryAgain => {}
                Answer::NotThisTransport => self.min = false,
                Answer::Found(found) => return Verdict::Found(found),
                Answer::Burnt(burnt) => return Verdict::Burnt(Transport::Min, burnt),
            }
        }
        if self.prefix {
            match identify_prefix(received, prefixes, keys, &mut self.revealed, index) {
                Answer::TryAgain => {}
                Answer::NotThisTransport => self.prefix = false,
                Answer::Found(found) => return Verdict::Found(found),
                Answer::Burnt(burnt) => return Verdict::Burnt(Transport::Prefix, burnt),
            }
        }
        if self.obfs4 {
            match self.marks.offer(received, |after, each| index.obfs4(after, each)) {
                MarkVerdict::TryAgain => {}
                MarkVerdict::NotThisTransport => self.obfs4 = false,
                MarkVerdict::Found(registration) => {
                    return Verdict::Found(Found {
                        registration,
                        transport: Transport::Obfs4,
                        consumed: received.len(),
                        prefix_id: None,
                    });
                }
            }
        }
        if self.min || self.prefix || self.obfs4 { Verdict::TryAgain } else { Verdict::Exhausted }
    }

    /// Judges Prefix alone, for callers that offer transports one by one.
    pub fn offer_prefix(
        &mut self,
        received: &[u8],
        prefixes: &PrefixTable,
        keys: &[StationKey],
        index: &impl Index<Registration = R>,
    ) -> Verdict<R> {
        (self.min, self.obfs4) = (false, false);
        self.offer(received, prefixes, keys, index)
    }
}

fn identify_min<R>(received: &[u8], index: &impl Index<Registration = R>) -> Answer<R> {
    let Some(tag) = min::tag(received) else {
        return Answer::TryAgain;
    };
    match index.find(tag) {
        Some(Registered { registration, transport: Transport::Min, .. }) => Answer::Found(Found {
            registration,
            transport: Transport::Min,
            consumed: min::TAG_LEN,
            prefix_id: None,
        }),
        _ => Answer::NotThisTransport,
    }
}

fn identify_prefix<R>(
    received: &[u8],
    prefixes: &PrefixTable,
    keys: &[StationKey],
    revealed: &mut Revealed,
    index: &impl Index<Registration = R>,
) -> Answer<R> {
    if received.len() < TAG_LEN {
        return Answer::TryAgain;
    }
    let (mut more, mut wrong) = (false, false);
    for prefix in prefixes.iter() {
        let offset = prefix.bytes.len();
        let compared = offset.min(received.len());
        if received[..compared] != prefix.bytes[..compared] {
            continue;
        }
        if received.len() < prefix.header_len() {
            more = true;
            continue;
        }
        for identifier in revealed.at(received, offset, keys) {
            let Some(registered) = index.find(identifier) else { continue };
            if registered.transport != Transport::Prefix {
                return Answer::Burnt(Burnt::IncorrectTransport);
            }
            // A registration without parameters accepts any prefix.
            if registered.prefix_id.is_some_and(|id| id != prefix.id) {
                wrong = true;
                break;
            }
            return Answer::Found(Found {
                registration: registered.registration,
                transport: Transport::Prefix,
                consumed: prefix.header_len(),
                prefix_id: Some(prefix.id),
            });
        }
    }
    match (more, wrong) {
        (true, _) => Answer::TryAgain,
        (false, true) => Answer::Burnt(Burnt::UnexpectedPrefix),
        (false, false) => Answer::NotThisTransport,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix;
    use keys::SharedSecret;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    fn registered(transport: Transport, prefix_id: Option<i32>) -> Registered<u8> {
        Registered { registration: 7, transport, prefix_id }
    }

    const NOTHING: fn(&[u8; 32]) -> Option<Registered<u8>> = |_| None;

    #[test]
    fn min_decides_at_32_bytes() {
        let secret = SharedSecret::new(b"a session");
        let tag = min::opening(&secret);
        let keys = [];
        let table = PrefixTable::default();
        let index = |id: &[u8; 32]| (*id == tag).then(|| registered(Transport::Min, None));
        let mut connection = Identification::new();
        assert_eq!(connection.offer(&tag[..31], &table, &keys, &index), Verdict::TryAgain);
        let mut all = tag.to_vec();
        all.extend(b"rest");
        let Verdict::Found(found) = connection.offer(&all, &table, &keys, &index) else {
            panic!("not found");
        };
        assert_eq!((found.registration, found.consumed), (7, 32));
        // The identifier of a registration of another transport is not accepted.
        let other = |_: &[u8; 32]| Some(registered(Transport::Dtls, None));
        let mut connection = Identification::new();
        assert_eq!(connection.offer(&tag, &table, &keys, &other), Verdict::TryAgain);
        assert!(!connection.min);
    }

    #[test]
    fn garbage_exhausts_all_transports() {
        let keys = [StationKey::from_private(&[3; 32]).unwrap()];
        let table = PrefixTable::default();
        let mut connection = Identification::new();
        let verdict = connection.offer(&[0x55; 8191], &table, &keys, &NOTHING);
        assert_eq!(verdict, Verdict::TryAgain);
        let verdict = connection.offer(&[0x55; 8192], &table, &keys, &NOTHING);
        assert_eq!(verdict, Verdict::Exhausted);
    }

    proptest! {
        #[test]
        fn any_segmentation_is_found(
            seed in any::<u64>(),
            id in 0i32..10,
            cuts in proptest::collection::vec(1usize..40, 0..12),
            flush in 0i32..3,
        ) {
            let keys = [1, 2].map(|byte| StationKey::from_private(&[byte; 32]).unwrap());
            let table = PrefixTable::default();
            let secret = SharedSecret::new(&seed.to_be_bytes());
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let bytes = &table.by_id(id).unwrap().bytes;
            let writes =
                prefix::opening(bytes, flush, &secret, keys[1].public(), &mut rng).unwrap();
            let mut all = writes.concat();
            let header = all.len();
            all.extend(b"first bytes of the application");
            let index = |found: &[u8; 32]| {
                (*found == secret.prefix_identifier())
                    .then(|| registered(Transport::Prefix, Some(id)))
            };
            let mut connection = Identification::new();
            let mut end = 0;
            let mut lengths: Vec<usize> = cuts.iter().map(|cut| { end += cut; end }).collect();
            lengths.retain(|&n| n < all.len());
            lengths.push(all.len());
            for n in lengths {
                match connection.offer(&all[..n], &table, &keys, &index) {
                    Verdict::TryAgain => prop_assert!(n < header),
                    Verdict::Found(found) => {
                        prop_assert_eq!(found.consumed, header);
                        prop_assert_eq!(found.prefix_id, Some(id));
                        return Ok(());
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert!(false, "not found");
        }

        #[test]
        fn any_bytes_are_survived(received in proptest::collection::vec(any::<u8>(), 0..200)) {
            let keys = [StationKey::from_private(&[3; 32]).unwrap()];
            let table = PrefixTable::default();
            let verdict = Identification::new()
                .offer(&received, &table, &keys, &NOTHING);
            prop_assert!(!matches!(verdict, Verdict::Found(_)));
        }
    }
}
