//! The identity of a registration, and the marks and MACs keyed with it (`spec/transports.md` 7.2).

use super::{MARK_LEN, REPRESENTATIVE};
use hmac::{Hmac, KeyInit, Mac};
use keys::Obfs4Keys;
use sha2::{Sha256, block_api::compress256};

/// What both sides of a registration know: public key and node id, with both halves of the HMAC
/// keyed by them ready. A mark then costs two compressions instead of four.
#[derive(Clone)]
pub struct ClientIdentity {
    public: [u8; 32],
    node_id: [u8; 20],
    inner: [u32; 8],
    outer: [u32; 8],
}

impl ClientIdentity {
    /// The identity of the server with this key and node id.
    pub fn new(public: [u8; 32], node_id: [u8; 20]) -> Self {
        let mut identity = Self { public, node_id, inner: SHA256, outer: SHA256 };
        for (state, pad) in [(&mut identity.inner, 0x36), (&mut identity.outer, 0x5c)] {
            let mut block = [pad; 64];
            block.iter_mut().zip(public.iter().chain(&node_id)).for_each(|(b, key)| *b ^= key);
            compress256(state, &[block]);
        }
        identity
    }

    /// The identity key `B`.
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The node id.
    pub const fn node_id(&self) -> &[u8; 20] {
        &self.node_id
    }

    /// The mark of a handshake that begins with `representative`, as transmitted.
    pub fn mark(&self, representative: &[u8; REPRESENTATIVE]) -> [u8; MARK_LEN] {
        let digest = bytes(finished(self.inner, representative));
        let mac = bytes(finished(self.outer, &digest));
        *mac.first_chunk().expect("a digest is longer than a mark")
    }

    /// The MAC over a handshake up to its mark, and the hour in decimal.
    pub(super) fn handshake_mac(&self, until_mark: &[u8], hour: u64) -> [u8; MARK_LEN] {
        let mut key = [0; 52];
        key[..32].copy_from_slice(&self.public);
        key[32..].copy_from_slice(&self.node_id);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        mac.update(until_mark);
        mac.update(hour.to_string().as_bytes());
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        *digest.first_chunk().expect("a digest is longer than a MAC")
    }
}

/// State of SHA-256 before its first block (FIPS 180-4, 5.3.3).
const SHA256: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The digest of a message whose first block led to `state` and whose rest is `last`.
fn finished(mut state: [u32; 8], last: &[u8; 32]) -> [u32; 8] {
    const BITS: u64 = 8 * (64 + 32);
    let mut block = [0; 64];
    block[..32].copy_from_slice(last);
    block[32] = 0x80;
    block[56..].copy_from_slice(&BITS.to_be_bytes());
    compress256(&mut state, &[block]);
    state
}

fn bytes(state: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let (words, _) = bytes.as_chunks_mut::<4>();
    words.iter_mut().zip(state).for_each(|(bytes, word)| *bytes = word.to_be_bytes());
    bytes
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientIdentity(_)")
    }
}

impl From<&Obfs4Keys> for ClientIdentity {
    fn from(keys: &Obfs4Keys) -> Self {
        Self::new(keys.public, keys.node_id)
    }
}

/// The identity of a registration with its private key, as the station holds it.
#[derive(Clone)]
pub struct ServerIdentity {
    keys: Obfs4Keys,
    shared: ClientIdentity,
}

impl ServerIdentity {
    /// The identity with these keys.
    pub fn new(keys: Obfs4Keys) -> Self {
        let shared = ClientIdentity::from(&keys);
        Self { keys, shared }
    }

    /// The half that the client knows as well.
    pub const fn shared(&self) -> &ClientIdentity {
        &self.shared
    }

    pub(super) const fn private(&self) -> &[u8; 32] {
        &self.keys.private
    }
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerIdentity(_)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mark_is_an_hmac(public in any::<[u8; 32]>(), node_id in any::<[u8; 20]>(), r in any::<[u8; 32]>()) {
            let key = [&public[..], &node_id].concat();
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(&r);
            let expected = mac.finalize().into_bytes();
            let mark = ClientIdentity::new(public, node_id).mark(&r);
            prop_assert_eq!(mark.as_slice(), &expected[..16]);
        }
    }
}
