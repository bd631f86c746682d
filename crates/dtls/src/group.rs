//! Key exchange groups (RFC 8422 5.1.1).

use crate::refusal::Refusal;
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use zeroize::Zeroizing;

/// A key exchange group, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    X25519,
    P256,
    P384,
}

impl Group {
    pub(crate) const ALL: [Self; 3] = [Self::X25519, Self::P256, Self::P384];

    pub(crate) const fn id(self) -> u16 {
        match self {
            Self::X25519 => 29,
            Self::P256 => 23,
            Self::P384 => 24,
        }
    }

    pub(crate) fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.id() == id)
    }

    fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::X25519 => &agreement::X25519,
            Self::P256 => &agreement::ECDH_P256,
            Self::P384 => &agreement::ECDH_P384,
        }
    }
}

/// Our half of a key exchange, used once.
pub(crate) struct Ephemeral {
    private: PrivateKey,
    public: Vec<u8>,
}

impl Ephemeral {
    /// Makes a key of `group` from the first suitable of the random `draws`.
    pub(crate) fn new(group: Group, mut draws: impl FnMut() -> [u8; 48]) -> Self {
        let len = if group == Group::P384 { 48 } else { 32 };
        loop {
            // A draw at or above the group's order, one in 2^32 for P-256, is drawn again.
            let draw = Zeroizing::new(draws());
            let key = PrivateKey::from_private_key(group.algorithm(), &draw[..len]);
            let Ok(private) = key else { continue };
            let Ok(public) = private.compute_public_key() else { continue };
            return Self { private, public: public.as_ref().to_vec() };
        }
    }

    /// Our public key as it is sent.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared point's x-coordinate.
    pub(crate) fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let peer = UnparsedPublicKey::new(self.private.algorithm(), peer);
        agreement::agree(&self.private, peer, Refusal::Group, |shared| {
            Ok(Zeroizing::new(shared.to_vec()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_in_every_group() {
        for group in Group::ALL {
            let mut seed = 0;
            let mut next = || {
                seed += 1;
                [seed; 48]
            };
            let (a, b) = (Ephemeral::new(group, &mut next), Ephemeral::new(group, &mut next));
            assert_eq!(a.agree(b.public()), b.agree(a.public()));
            assert_eq!(a.agree(&b.public()[1..]), Err(Refusal::Group));
            assert_eq!(a.agree(&[]), Err(Refusal::Group));
        }
    }

    #[test]
    fn points_of_low_order_and_off_the_curve_are_refused() {
        let own = Ephemeral::new(Group::X25519, || [7; 48]);
        for low in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert_eq!(own.agree(&low), Err(Refusal::Group));
        }
        let own = Ephemeral::new(Group::P256, || [7; 48]);
        let mut off = own.public().to_vec();
        off[64] ^= 1;
        assert_eq!(own.agree(&off), Err(Refusal::Group));
    }

    #[test]
    fn a_draw_above_the_order_is_drawn_again() {
        let mut draws = [[0xff; 48], [5; 48]].into_iter();
        let key = Ephemeral::new(Group::P256, || draws.next().unwrap());
        assert_eq!(key.public().len(), 65);
        assert_eq!(draws.next(), None);
    }
}
