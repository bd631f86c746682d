//! AES-128-GCM without additional data, as both encrypted parts of a tag use it.

use crate::layout::GCM_TAG;
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, KeyInit};
use keys::AeadKey;

/// Opens `sealed` (ciphertext, then 16-byte tag) in place; the plaintext on success.
pub(crate) fn open<'a>(key: &AeadKey, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
    let (text, tag) = sealed.split_last_chunk_mut::<GCM_TAG>()?;
    let tag = (*tag).into();
    Aes128Gcm::new(&key.key.into())
        .decrypt_inout_detached(&key.nonce.into(), b"", (&mut *text).into(), &tag)
        .ok()?;
    Some(text)
}

/// Seals `plaintext`: ciphertext, then 16-byte tag.
pub(crate) fn seal(key: &AeadKey, plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = plaintext.to_vec();
    let tag = Aes128Gcm::new(&key.key.into())
        .encrypt_inout_detached(&key.nonce.into(), b"", sealed.as_mut_slice().into())
        .expect("AES-GCM seals up to 64 GiB");
    sealed.extend_from_slice(&tag);
    sealed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_text_opens_and_altered_text_does_not() {
        let key = AeadKey { key: [1; 16], nonce: [2; 12] };
        let mut sealed = seal(&key, b"fixed");
        assert_eq!(open(&key, &mut sealed.clone()), Some(b"fixed".as_slice()));
        sealed[0] ^= 1;
        assert_eq!(open(&key, &mut sealed), None);
        assert_eq!(open(&key, &mut [0; 15]), None);
    }
}
