//! NaCl boxes (X25519, XSalsa20-Poly1305), the only cryptography of CURVE (RFC 26).

use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit;
use salsa20::XSalsa20;
use salsa20::cipher::consts::U10;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes a box is longer than what is in it.
pub(crate) const OVERHEAD: usize = 16;

/// The key two sides share. It is wiped when dropped and never printed.
#[derive(Clone)]
pub(crate) struct SharedKey(Zeroizing<[u8; 32]>);

impl SharedKey {
    /// The key of the holder of `secret` and the holder of the secret of `public`; `None` for a
    /// point of low order, with which everybody would know the key.
    pub(crate) fn new(secret: &[u8; 32], public: &[u8; 32]) -> Option<Self> {
        let point = keys::x25519(secret, public)?;
        let key = salsa20::hsalsa::<U10>((&*point).into(), &Default::default());
        Some(Self(Zeroizing::new(key.into())))
    }

    /// Appends the box of `parts`, one behind the other, to `out`.
    pub(crate) fn seal(&self, nonce: &[u8; 24], parts: &[&[u8]], out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; OVERHEAD]);
        for part in parts {
            out.extend_from_slice(part);
        }
        let (mut stream, mac) = self.begin(nonce);
        let (tag, text) = out[at..].split_at_mut(OVERHEAD);
        stream.apply_keystream(text);
        tag.copy_from_slice(&mac.compute_unpadded(text));
    }

    /// What is in the box `sealed`; `None` when it was made with another key or nonce, or altered.
    pub(crate) fn open(&self, nonce: &[u8; 24], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (tag, text) = sealed.split_at_checked(OVERHEAD)?;
        let (mut stream, mac) = self.begin(nonce);
        if !bool::from(mac.compute_unpadded(text).as_slice().ct_eq(tag)) {
            return None;
        }
        let mut plain = Zeroizing::new(text.to_vec());
        stream.apply_keystream(&mut plain);
        Some(plain)
    }

    /// The key stream behind the key of the authenticator, which is its first 32 bytes.
    fn begin(&self, nonce: &[u8; 24]) -> (XSalsa20, Poly1305) {
        let mut stream = XSalsa20::new((&*self.0).into(), nonce.into());
        let mut key = Zeroizing::new([0; 32]);
        stream.apply_keystream(&mut *key);
        (stream, Poly1305::new((&*key).into()))
    }
}

impl std::fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedKey(_)")
    }
}
