//! Checks the registrar's signature over its responses (`spec/registrar.md` 4.3 and 10.5).

use ed25519_dalek::{Signature, VerifyingKey};

use crate::signing::verify_legacy;

/// A key that verifies responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseVerifier {
    /// Standard Ed25519.
    Ed25519(Box<VerifyingKey>),
    /// The reference's form.
    Legacy {
        /// Ed25519 key of the registrar's seed.
        public: [u8; 32],
        /// What is hashed in its place: the second half of the registrar's key file, as a rule its
        /// CURVE key.
        hashed: [u8; 32],
    },
}

/// The bytes are no Ed25519 key, or one under which anybody can sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key")]
pub struct NotAKey;

impl ResponseVerifier {
    /// Verifies standard signatures.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn ed25519(public: &[u8; 32]) -> Result<Self, NotAKey> {
        strong(public).map(|key| Self::Ed25519(Box::new(key)))
    }

    /// Verifies legacy signatures.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn legacy(public: &[u8; 32], hashed: &[u8; 32]) -> Result<Self, NotAKey> {
        strong(public)?;
        Ok(Self::Legacy { public: *public, hashed: *hashed })
    }

    /// Whether `signature` (64 bytes) is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = <&[u8; 64]>::try_from(signature) else { return false };
        match self {
            Self::Ed25519(key) => {
                key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
            }
            Self::Legacy { public, hashed } => verify_legacy(public, hashed, message, signature),
        }
    }
}

fn strong(public: &[u8; 32]) -> Result<VerifyingKey, NotAKey> {
    VerifyingKey::from_bytes(public).ok().filter(|key| !key.is_weak()).ok_or(NotAKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::ResponseSigner;

    #[test]
    fn each_form_verifies_its_own_signatures_only() {
        let file = [9; 64];
        let hashed = [9; 32];
        let (standard, legacy) = (ResponseSigner::derived(&[9; 32]), ResponseSigner::legacy(&file));
        let verifiers = [
            ResponseVerifier::ed25519(&standard.public()).unwrap(),
            ResponseVerifier::legacy(&legacy.public(), &hashed).unwrap(),
            ResponseVerifier::legacy(&legacy.public(), &[8; 32]).unwrap(),
            ResponseVerifier::ed25519(&legacy.public()).unwrap(),
        ];
        let verified = |message: &[u8], signature: &[u8]| {
            verifiers.each_ref().map(|verifier| verifier.verifies(message, signature))
        };
        assert_eq!(verified(b"m", &standard.sign(b"m")), [true, false, false, false]);
        assert_eq!(verified(b"m", &legacy.sign(b"m")), [false, true, false, false]);
        for signer in [&standard, &legacy] {
            let signature = signer.sign(b"m");
            assert_eq!(verified(b"n", &signature), [false; 4]);
            assert_eq!(verified(b"m", &signature[..63]), [false; 4]);
            for at in 0..64 {
                let mut altered = signature;
                altered[at] ^= 1;
                assert_eq!(verified(b"m", &altered), [false; 4], "byte {at}");
            }
        }
    }

    #[test]
    fn a_key_under_which_anybody_can_sign_is_none() {
        let mut identity = [0; 32];
        identity[0] = 1;
        for bad in [identity, [0; 32], [2; 32]] {
            assert_eq!(ResponseVerifier::ed25519(&bad), Err(NotAKey), "{bad:?}");
            assert_eq!(ResponseVerifier::legacy(&bad, &[0; 32]), Err(NotAKey), "{bad:?}");
        }
    }
}
