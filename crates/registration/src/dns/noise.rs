//! `Noise_N_25519_ChaChaPoly_BLAKE2s` with the odd reply: sealed with the first key of the split,
//! which by the letter is the initiator's (`spec/registrar.md` 9.2). A library that enforces
//! directions cannot do it, and the pattern is short.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::{Blake2s256, Digest};
use hmac::{KeyInit, Mac, SimpleHmac};
use zeroize::Zeroizing;

/// Exactly as long as a hash, so it is the first one.
const PROTOCOL: &[u8; 32] = b"Noise_N_25519_ChaChaPoly_BLAKE2s";
/// Length of a public key.
const KEY: usize = 32;
/// Length of an authentication tag.
pub const TAG: usize = 16;
/// What a message is longer than its payload.
pub const OVERHEAD: usize = KEY + TAG;

type Hash = [u8; 32];
type Secret = Zeroizing<[u8; 32]>;

/// A responder's key.
pub struct StaticKey {
    private: Secret,
    start: Hash,
}

impl StaticKey {
    /// The key whose private half is `private`.
    pub fn new(private: &[u8; 32]) -> Self {
        Self { private: Zeroizing::new(*private), start: start(&keys::public_key(private)) }
    }

    /// Opens a message; `None` when it is too short or not for this key.
    pub fn open(&self, message: &[u8]) -> Option<Opened> {
        let (ephemeral, sealed) = message.split_first_chunk::<KEY>()?;
        if sealed.len() < TAG {
            return None;
        }
        let agreed = keys::x25519(&self.private, ephemeral)?;
        let session = Session::new(&self.start, ephemeral, &agreed);
        let payload = cipher(&session.payload_key)?.open(&session.hash, sealed)?;
        let copy = Blake2s256::digest(message).into();
        Some(Opened { payload, copy, reply: session.reply })
    }
}

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticKey(_)")
    }
}

/// A message that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its payload.
    pub payload: Vec<u8>,
    /// Hash of the message: the same for every copy of it, and for no other.
    pub copy: [u8; 32],
    /// Seals the reply.
    pub reply: ReplyKey,
}

/// Seals `payload` for the responder with the public key `to`. `ephemeral` is a private key that is
/// used once. Returns the message and the key of its reply; `None` when `to` is of low order.
pub fn seal(to: &[u8; 32], ephemeral: &[u8; 32], payload: &[u8]) -> Option<(Vec<u8>, ReplyKey)> {
    let public = keys::public_key(ephemeral);
    let agreed = keys::x25519(ephemeral, to)?;
    let session = Session::new(&start(to), &public, &agreed);
    let mut message = public.to_vec();
    message.extend_from_slice(&cipher(&session.payload_key)?.seal(&session.hash, payload)?);
    Some((message, session.reply))
}

/// Seals and opens the reply to one message.
pub struct ReplyKey(Secret);

impl ReplyKey {
    /// Seals `plaintext`. It is deterministic, so one key must seal one plaintext only; a repeated
    /// query gets the reply that was kept.
    pub fn seal(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        cipher(&self.0)?.seal(&[], plaintext)
    }

    /// Opens a reply; `None` when it is not one to this message.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        cipher(&self.0)?.open(&[], sealed)
    }
}

impl std::fmt::Debug for ReplyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplyKey(_)")
    }
}

/// Hash after the empty prologue and the responder's static key.
fn start(to: &[u8; 32]) -> Hash {
    mix(&mix(PROTOCOL, &[]), to)
}

struct Session {
    hash: Hash,
    payload_key: Secret,
    reply: ReplyKey,
}

impl Session {
    fn new(start: &Hash, ephemeral: &[u8; 32], agreed: &[u8; 32]) -> Self {
        let hash = mix(start, ephemeral);
        let (chaining, payload_key) = expand(PROTOCOL, agreed);
        let (reply, _) = expand(&chaining, &[]);
        Self { hash, payload_key, reply: ReplyKey(reply) }
    }
}

fn mix(hash: &Hash, data: &[u8]) -> Hash {
    Blake2s256::new().chain_update(hash).chain_update(data).finalize().into()
}

/// HKDF of the Noise specification with two outputs.
fn expand(chaining: &Hash, input: &[u8]) -> (Secret, Secret) {
    let temporary = mac(chaining, &[input]);
    let first = mac(&temporary, &[&[1]]);
    let second = mac(&temporary, &[&first[..], &[2]]);
    (first, second)
}

fn mac(key: &Hash, parts: &[&[u8]]) -> Secret {
    // HMAC pads keys to a block with zeros itself.
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key);
    let mut mac = SimpleHmac::<Blake2s256>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

struct Cipher(LessSafeKey);

/// `None` only if the library refuses a key of the right length.
fn cipher(key: &Secret) -> Option<Cipher> {
    UnboundKey::new(&CHACHA20_POLY1305, &key[..]).ok().map(|key| Cipher(LessSafeKey::new(key)))
}

impl Cipher {
    fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut data = Vec::with_capacity(plaintext.len() + TAG);
        data.extend_from_slice(plaintext);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.0.seal_in_place_append_tag(nonce, Aad::from(aad), &mut data).ok()?;
        Some(data)
    }

    fn open(&self, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut data = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let length = self.0.open_in_place(nonce, Aad::from(aad), &mut data).ok()?.len();
        data.truncate(length);
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_low_order_key_agrees_on_nothing() {
        assert!(seal(&[0; 32], &[1; 32], b"x").is_none());
        assert!(StaticKey::new(&[7; 32]).open(&[0; 60]).is_none());
    }

    proptest! {
        #[test]
        fn both_sides_agree_and_a_flipped_bit_is_noticed(
            private in any::<[u8; 32]>(),
            ephemeral in any::<[u8; 32]>(),
            payload in prop::collection::vec(any::<u8>(), 0..200),
            flip in any::<prop::sample::Index>(),
        ) {
            let key = StaticKey::new(&private);
            let (mut message, reply) =
                seal(&keys::public_key(&private), &ephemeral, &payload).unwrap();
            prop_assert_eq!(message.len(), payload.len() + OVERHEAD);
            let opened = key.open(&message).unwrap();
            prop_assert_eq!(&opened.payload, &payload);
            let answer = opened.reply.seal(b"answer").unwrap();
            prop_assert_eq!(reply.open(&answer).unwrap(), b"answer");
            // The top bit of the ephemeral key does not take part in the agreement, but in the hash.
            let at = flip.index(message.len());
            message[at] ^= 0x80;
            prop_assert!(key.open(&message).is_none());
        }
    }
}
