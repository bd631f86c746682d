//! Obfuscators hide a tag from observers (`spec/core.md` 9). Only CTR is on the wire today; the
//! others exist in the reference's library.

use aes_gcm::aead::{Aead, KeyInit};
use ctr::cipher::{KeyIvInit, StreamCipher};
use keys::{EphemeralKey, StationKey, elligator};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Bytes of the representative in front of CTR and GCM output.
const REPRESENTATIVE: usize = 32;
const GCM_TAG: usize = 16;

/// The ways to obfuscate a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Obfuscator {
    /// Representative, then AES-128-CTR. Not authenticated: a wrong key reveals other bytes.
    Ctr,
    /// Representative, then AES-128-GCM with its tag.
    Gcm,
    /// Random pad, then the tag xor the pad.
    Xor,
    /// The tag as it is.
    Nil,
}

/// Why nothing could be revealed; the station tries its next key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevealError {
    /// Shorter than the representative, and the tag of GCM.
    #[error("Unexpected station pubkey length. Expected: 32B")]
    TooShort,
    /// XOR input that is empty or has no two halves.
    #[error("Unexpected message with even length")]
    Halves,
    /// GCM with another key.
    #[error("cipher: message authentication failed")]
    Authentication,
    /// A representative of low order.
    #[error("crypto/ecdh: bad X25519 remote ECDH input: low order point")]
    LowOrder,
}

/// The station's public key is of low order, so nothing can be hidden under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the station's public key is of low order; check the ClientConf")]
pub struct WorthlessStationKey;

/// Hash of the agreed secret: the key, then nonce or counter block.
fn key_material(agreed: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::digest(agreed).into())
}

fn ctr_apply(material: &[u8; 32], data: &mut [u8]) {
    let (key, counter) = material.split_at(16);
    let mut cipher = ctr::Ctr128BE::<aes::Aes128>::new_from_slices(key, counter)
        .expect("key and counter block have 16 bytes each");
    cipher.apply_keystream(data);
}

fn gcm(material: &[u8; 32]) -> (aes_gcm::Aes128Gcm, [u8; 12]) {
    let cipher = aes_gcm::Aes128Gcm::new_from_slice(&material[..16]).expect("the key has 16 bytes");
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&material[16..28]);
    (cipher, nonce)
}

impl Obfuscator {
    /// Hides `plain` for the owner of `station_public`.
    ///
    /// # Errors
    /// When that key is of low order.
    pub fn obfuscate<R: CryptoRng + ?Sized>(
        self,
        plain: &[u8],
        station_public: &[u8; 32],
        rng: &mut R,
    ) -> Result<Vec<u8>, WorthlessStationKey> {
        match self {
            Self::Ctr | Self::Gcm => {
                self.obfuscate_with(plain, station_public, &EphemeralKey::generate(rng))
            }
            Self::Xor => {
                let mut pad = vec![0; plain.len()];
                rng.fill_bytes(&mut pad);
                Ok(xor(&pad, plain))
            }
            Self::Nil => Ok(plain.to_vec()),
        }
    }

    /// The same with a given ephemeral key, which XOR and Nil do not use: they return `plain`
    /// under a pad of zeros, and `plain`.
    ///
    /// # Errors
    /// When the station key is of low order.
    pub fn obfuscate_with(
        self,
        plain: &[u8],
        station_public: &[u8; 32],
        ephemeral: &EphemeralKey,
    ) -> Result<Vec<u8>, WorthlessStationKey> {
        let material =
            || ephemeral.agree(station_public).map(|s| key_material(&s)).ok_or(WorthlessStationKey);
        let mut out = ephemeral.representative().to_vec();
        match self {
            Self::Ctr => {
                out.extend_from_slice(plain);
                ctr_apply(&*material()?, &mut out[REPRESENTATIVE..]);
            }
            Self::Gcm => {
                let (cipher, nonce) = gcm(&*material()?);
                let sealed = cipher.encrypt(&nonce.into(), plain);
                out.extend(sealed.expect("AES-GCM seals up to 64 GiB"));
            }
            Self::Xor => out = xor(&vec![0; plain.len()], plain),
            Self::Nil => out = plain.to_vec(),
        }
        Ok(out)
    }

    /// What `hidden` hides under `key`.
    ///
    /// # Errors
    /// When `hidden` cannot have been made for `key`. CTR never notices a wrong key.
    pub fn reveal(self, hidden: &[u8], key: &StationKey) -> Result<Vec<u8>, RevealError> {
        let material = || {
            let (representative, text) = hidden.split_first_chunk().ok_or(RevealError::TooShort)?;
            let agreed = key.agree(&elligator::decode(representative));
            Ok((key_material(&*agreed.ok_or(RevealError::LowOrder)?), text))
        };
        match self {
            Self::Ctr => {
                let (material, text) = material()?;
                let mut plain = text.to_vec();
                ctr_apply(&material, &mut plain);
                Ok(plain)
            }
            Self::Gcm if hidden.len() < REPRESENTATIVE + GCM_TAG => Err(RevealError::TooShort),
            Self::Gcm => {
                let (material, text) = material()?;
                let (cipher, nonce) = gcm(&material);
                cipher.decrypt(&nonce.into(), text).map_err(|_| RevealError::Authentication)
            }
            Self::Xor if hidden.is_empty() || hidden.len() % 2 == 1 => Err(RevealError::Halves),
            Self::Xor => {
                let (pad, masked) = hidden.split_at(hidden.len() / 2);
                Ok(pad.iter().zip(masked).map(|(p, m)| p ^ m).collect())
            }
            Self::Nil => Ok(hidden.to_vec()),
        }
    }
}

/// The 32 bytes hidden in a CTR tag whose point was already decoded to `u`; `None` when the point
/// is of low order.
pub(crate) fn reveal_ctr(u: &[u8; 32], masked: &[u8; 32], key: &StationKey) -> Option<[u8; 32]> {
    let agreed = key.agree(u)?;
    let mut plain = *masked;
    ctr_apply(&key_material(&agreed), &mut plain);
    Some(plain)
}

/// Pad, then `plain` xor pad.
pub fn xor(pad: &[u8], plain: &[u8]) -> Vec<u8> {
    let masked = pad.iter().zip(plain).map(|(p, m)| p ^ m);
    pad.iter().copied().chain(masked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    const ALL: [Obfuscator; 4] =
        [Obfuscator::Ctr, Obfuscator::Gcm, Obfuscator::Xor, Obfuscator::Nil];

    proptest! {
        #[test]
        fn what_is_obfuscated_is_revealed(
            plain in proptest::collection::vec(any::<u8>(), 1..100),
            seed in any::<u64>(),
        ) {
            let station = StationKey::from_private(&[3; 32]).unwrap();
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            for obfuscator in ALL {
                let hidden = obfuscator.obfuscate(&plain, station.public(), &mut rng).unwrap();
                prop_assert_eq!(&obfuscator.reveal(&hidden, &station).unwrap(), &plain);
            }
        }

        #[test]
        fn any_bytes_are_survived(hidden in proptest::collection::vec(any::<u8>(), 0..120)) {
            let station = StationKey::from_private(&[3; 32]).unwrap();
            for obfuscator in ALL {
                let _ = obfuscator.reveal(&hidden, &station);
            }
        }
    }

    #[test]
    fn low_order_keys_hide_nothing() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let station = StationKey::from_private(&[3; 32]).unwrap();
        assert!(Obfuscator::Ctr.obfuscate(b"x", &[0; 32], &mut rng).is_err());
        assert_eq!(Obfuscator::Ctr.reveal(&[0; 64], &station), Err(RevealError::LowOrder));
    }
}
