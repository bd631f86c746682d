//! The registrar's signature over its responses (`spec/registrar.md` 4.3).

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use curve25519_dalek::{EdwardsPoint, Scalar, edwards::CompressedEdwardsY};
use hkdf::Hkdf;
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

const INFO: &[u8] = b"conjure-registrar-resp-sig-v1";

/// Signs responses. It is never printed.
pub enum ResponseSigner {
    /// Standard Ed25519, and the public key.
    Ed25519(Box<Ed25519KeyPair>, [u8; 32]),
    /// The reference's form: the second half of the key file is hashed, whatever it is.
    Legacy(Zeroizing<[u8; 64]>),
}

impl ResponseSigner {
    /// Standard signatures with a seed derived from the private half of a key file. The private
    /// half itself must never sign in the standard form once it signed in the legacy form: the two
    /// together give the signing scalar away.
    pub fn derived(private: &[u8; 32]) -> Self {
        Self::from_seed(&derived_seed(private))
    }

    /// Standard signatures with a seed of their own.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        let mut public = [0; 32];
        public.copy_from_slice(key.public_key().as_ref());
        Self::Ed25519(Box::new(key), public)
    }

    /// The reference's signatures with a key file of 64 bytes.
    pub fn legacy(file: &[u8; 64]) -> Self {
        Self::Legacy(Zeroizing::new(*file))
    }

    /// Ed25519 key of the signatures.
    pub fn public(&self) -> [u8; 32] {
        match self {
            Self::Ed25519(_, public) => *public,
            Self::Legacy(file) => {
                let (scalar, _) = expand(file);
                EdwardsPoint::mul_base(&scalar).compress().to_bytes()
            }
        }
    }

    /// Signature over `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            Self::Ed25519(key, _) => {
                let mut signature = [0; 64];
                signature.copy_from_slice(key.sign(message).as_ref());
                signature
            }
            Self::Legacy(file) => sign_legacy(file, message),
        }
    }
}

impl std::fmt::Debug for ResponseSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResponseSigner(_)")
    }
}

/// Seed for standard signatures, from the private half of a key file.
pub fn derived_seed(private: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut seed = Zeroizing::new([0; 32]);
    let expanded = Hkdf::<Sha256>::new(None, private).expand(INFO, &mut seed[..]);
    debug_assert!(expanded.is_ok(), "32 bytes are within the 8,160 of HKDF-SHA256");
    seed
}

/// Checks a legacy signature: `public` is the Ed25519 key, `hashed` the second half of the file.
pub fn verify_legacy(
    public: &[u8; 32],
    hashed: &[u8; 32],
    message: &[u8],
    signature: &[u8; 64],
) -> bool {
    let (r, s) = signature.split_at(32);
    let (Ok(r), Ok(s)) = (<[u8; 32]>::try_from(r), <[u8; 32]>::try_from(s)) else { return false };
    let Some(s) = Option::<Scalar>::from(Scalar::from_canonical_bytes(s)) else { return false };
    let points = (CompressedEdwardsY(r).decompress(), CompressedEdwardsY(*public).decompress());
    let (Some(r_point), Some(a)) = points else { return false };
    EdwardsPoint::mul_base(&s) == r_point + challenge(&r, hashed, message) * a
}

/// The clamped scalar and the nonce prefix of a key file.
fn expand(file: &[u8; 64]) -> (Scalar, Zeroizing<[u8; 32]>) {
    let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(&file[..32])));
    let (mut scalar, mut prefix) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
    scalar.copy_from_slice(&hash[..32]);
    prefix.copy_from_slice(&hash[32..]);
    let clamped = curve25519_dalek::scalar::clamp_integer(*scalar);
    (Scalar::from_bytes_mod_order(clamped), prefix)
}

fn challenge(r: &[u8; 32], hashed: &[u8; 32], message: &[u8]) -> Scalar {
    let hash = Sha512::new().chain_update(r).chain_update(hashed).chain_update(message);
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

fn sign_legacy(file: &[u8; 64], message: &[u8]) -> [u8; 64] {
    let (scalar, prefix) = expand(file);
    let nonce = Sha512::new().chain_update(*prefix).chain_update(message).finalize();
    let nonce = Scalar::from_bytes_mod_order_wide(&nonce.into());
    let r = EdwardsPoint::mul_base(&nonce).compress().to_bytes();
    let mut hashed = [0; 32];
    hashed.copy_from_slice(&file[32..]);
    let s = nonce + challenge(&r, &hashed, message) * scalar;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(s.as_bytes());
    signature
}
