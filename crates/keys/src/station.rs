//! Station keys, their file format and X25519 (`spec/core.md` 7.1, 7.7, `spec/detector.md` 17.1).

use crate::locked::Locked;
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use curve::Kernel;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The published default key of the reference detector; whoever uses it has no secret.
const BUILT_IN_PRIVATE: [u8; 32] = [
    0xe0, 0xc0, 0x67, 0x1a, 0x60, 0x87, 0x82, 0xae, 0xfa, 0xd0, 0x1e, 0x71, 0x2e, 0x80, 0x7f, 0x6f,
    0xd7, 0xc7, 0x05, 0x8d, 0x26, 0x7c, 0x22, 0x7f, 0x66, 0x8e, 0xf5, 0x51, 0x31, 0x46, 0x77, 0x77,
];

/// Why 32 or 64 bytes are no station key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StationKeyError {
    /// Fewer than 32 bytes.
    #[error("{found} bytes found, a private key needs 32; write it with genkey")]
    TooShort {
        /// Length of the file.
        found: usize,
    },
    /// The second half is not the public key of the first.
    #[error("bytes 33 to 64 are not the public key of bytes 1 to 32; write the pair with genkey")]
    PublicMismatch,
    /// All bytes are zero.
    #[error("the private key is all zero; write a new one with genkey")]
    Zero,
    /// The reference's published default key.
    #[error("this is the published default key of the reference detector; write one with genkey")]
    BuiltIn,
}

/// A station's X25519 private key. It is kept out of swap, wiped when dropped and never printed. The copy
/// inside the cryptographic library is wiped by it.
pub struct StationKey {
    private: Locked,
    public: [u8; 32],
    agreement: PrivateKey,
}

impl StationKey {
    /// Takes 32 bytes as the scalar; clamping happens at use, as RFC 7748 says.
    ///
    /// # Errors
    /// For the all-zero key and the published default key of the reference.
    pub fn from_private(private: &[u8; 32]) -> Result<Self, StationKeyError> {
        if bool::from(private.ct_eq(&[0; 32])) {
            return Err(StationKeyError::Zero);
        }
        if bool::from(private.ct_eq(&BUILT_IN_PRIVATE)) {
            return Err(StationKeyError::BuiltIn);
        }
        let agreement = imported(private);
        Ok(Self { private: Locked::new(private), public: computed(&agreement), agreement })
    }

    /// Reads the content of a key file: the private key, and behind it the public key when there
    /// are 64 bytes or more. What follows is ignored.
    ///
    /// # Errors
    /// When the file is too short, its halves do not belong together, or the key is worthless.
    pub fn from_file(content: &[u8]) -> Result<Self, StationKeyError> {
        let private =
            content.first_chunk().ok_or(StationKeyError::TooShort { found: content.len() })?;
        let key = Self::from_private(private)?;
        match content.get(32..64) {
            Some(public) if public != key.public => Err(StationKeyError::PublicMismatch),
            _ => Ok(key),
        }
    }

    /// The public key, distributed in ClientConf.
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The private key, for peers that take it as raw bytes.
    pub const fn expose_private(&self) -> &[u8; 32] {
        self.private.expose()
    }

    /// `X25519(key, u)`; `None` for a point of low order, where the result would be all zero and
    /// known to everybody.
    pub fn agree(&self, u: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        exchange(&self.agreement, u)
    }
}

/// `X25519(key, u)` for every key and point, several at a time where `kernel` is faster than one after the
/// other: the secrets of the first key in the order of the points, then those of the next. What is all zero
/// was a point of low order.
pub fn agree_all(
    keys: &[StationKey],
    kernel: Option<Kernel>,
    points: &[[u8; 32]],
) -> Zeroizing<Vec<[u8; 32]>> {
    let mut secrets = Zeroizing::new(vec![[0; 32]; keys.len() * points.len()]);
    let together = kernel.map_or(0, |kernel| {
        let rest = points.len() % kernel.lanes();
        if rest < kernel.worthwhile() { points.len() - rest } else { points.len() }
    });
    if let Some(kernel) = kernel {
        let scalars: Vec<&[u8; 32]> = keys.iter().map(StationKey::expose_private).collect();
        kernel.multiply(&scalars, &points[..together], |key, point, secret| {
            secrets[key * points.len() + point] = *secret;
        });
    }
    for (number, key) in keys.iter().enumerate() {
        for (point, u) in points.iter().enumerate().skip(together) {
            secrets[number * points.len() + point] = key.agree(u).map_or([0; 32], |secret| *secret);
        }
    }
    secrets
}

impl Clone for StationKey {
    fn clone(&self) -> Self {
        Self {
            private: self.private.clone(),
            public: self.public,
            agreement: imported(self.private.expose()),
        }
    }
}

impl std::fmt::Debug for StationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StationKey(_)")
    }
}

/// `X25519(private, u)`; `None` when the result is all zero.
pub fn x25519(private: &[u8; 32], u: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    exchange(&imported(private), u)
}

/// `X25519(private, 9)`.
pub fn public_key(private: &[u8; 32]) -> [u8; 32] {
    computed(&imported(private))
}

/// Clears the low three bits, clears bit 255 and sets bit 254.
pub fn clamp(private: &mut [u8; 32]) {
    private[0] &= 248;
    private[31] &= 127;
    private[31] |= 64;
}

fn imported(private: &[u8; 32]) -> PrivateKey {
    PrivateKey::from_private_key(&X25519, private).expect("any 32 bytes are an X25519 scalar")
}

fn computed(private: &PrivateKey) -> [u8; 32] {
    let public = private.compute_public_key().expect("every X25519 scalar has a public key");
    public.as_ref().try_into().expect("X25519 public keys have 32 bytes")
}

fn exchange(private: &PrivateKey, u: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let peer = UnparsedPublicKey::new(&X25519, u);
    let secret = agreement::agree(private, peer, (), |raw| {
        raw.try_into().map(Zeroizing::new).map_err(|_| ())
    });
    // The library refuses a zero result by itself; the station's promise does not rest on that.
    secret.ok().filter(|secret: &Zeroizing<[u8; 32]>| !bool::from(secret.ct_eq(&[0; 32])))
}

/// A client's ephemeral key whose public half looks like random bytes on the wire.
pub struct EphemeralKey {
    private: Zeroizing<[u8; 32]>,
    representative: [u8; 32],
}

impl EphemeralKey {
    /// Draws scalars until the public key has a representative, then picks one of its two forms
    /// and the free bits at random. A random low-order component is added to the public key, so
    /// that representatives cover the whole curve and not its prime-order subgroup alone
    /// (`spec/detector.md` 20); stations remove it by clamping.
    pub fn generate<R: rand_core::CryptoRng + ?Sized>(rng: &mut R) -> Self {
        loop {
            let mut private = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *private);
            let choices = rng.next_u32();
            let u = public_with_torsion(&private, choices as usize & 7);
            if let Some(forms) = crate::elligator::encode(&u) {
                let mut representative = forms[(choices >> 3 & 1) as usize];
                representative[31] |= (choices >> 4 & 3) as u8 * 0x40;
                return Self { private, representative };
            }
        }
    }

    /// The key of `private` with the chosen root (0 or 1) and free bits (0 to 3), without a
    /// low-order component, as released clients make it; `None` when it has no representative.
    pub fn from_private(private: &[u8; 32], root: usize, free_bits: u8) -> Option<Self> {
        let mut representative = crate::elligator::encode(&public_key(private))?[root & 1];
        representative[31] |= free_bits << 6;
        Some(Self { private: Zeroizing::new(*private), representative })
    }

    /// The same key with bit 254 of its representative clear: older obfs4 peers do not ignore that
    /// bit (`spec/transports.md` 2.5).
    pub fn with_bit_254_clear(mut self) -> Self {
        self.representative[31] &= !0x40;
        self
    }

    /// The public key as a receiver of the representative sees it.
    pub fn public(&self) -> [u8; 32] {
        crate::elligator::decode(&self.representative)
    }

    /// What is sent.
    pub const fn representative(&self) -> &[u8; 32] {
        &self.representative
    }

    /// The secret shared with the owner of `station_public`; `None` when that key is of low order.
    pub fn agree(&self, station_public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        x25519(&self.private, station_public)
    }
}

impl std::fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EphemeralKey(_)")
    }
}

fn public_with_torsion(private: &[u8; 32], component: usize) -> [u8; 32] {
    use curve25519_dalek::{constants::EIGHT_TORSION, edwards::EdwardsPoint};
    let mut clamped = *private;
    clamp(&mut clamped);
    let point = EdwardsPoint::mul_base_clamped(clamped) + EIGHT_TORSION[component];
    clamped.zeroize();
    point.to_montgomery().to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    #[test]
    fn worthless_keys_are_refused() {
        assert_eq!(StationKey::from_file(&[0; 64]).unwrap_err(), StationKeyError::Zero);
        assert_eq!(StationKey::from_file(&BUILT_IN_PRIVATE).unwrap_err(), StationKeyError::BuiltIn);
        assert_eq!(
            StationKey::from_file(&[1; 31]).unwrap_err(),
            StationKeyError::TooShort { found: 31 }
        );
        assert_eq!(StationKey::from_file(&[1; 64]).unwrap_err(), StationKeyError::PublicMismatch);
        assert!(StationKey::from_file(&[1; 40]).is_ok());
    }

    #[test]
    fn ephemeral_keys_agree_with_the_station() {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let station = StationKey::from_private(&[0x11; 32]).unwrap();
        let mut free_bits = [0; 4];
        for _ in 0..64 {
            let client = EphemeralKey::generate(&mut rng);
            let u = crate::elligator::decode(client.representative());
            assert_eq!(station.agree(&u), client.agree(station.public()));
            free_bits[usize::from(client.representative()[31] >> 6)] += 1;
        }
        assert!(free_bits.iter().all(|&count| count > 0), "{free_bits:?}");
    }

    #[test]
    fn many_agree_as_one_after_the_other() {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let mut draw = || {
            let mut bytes = [0; 32];
            rand_core::Rng::fill_bytes(&mut rng, &mut bytes);
            bytes
        };
        let keys = [draw(), draw()].map(|private| StationKey::from_private(&private).unwrap());
        for count in 0..20 {
            let mut points: Vec<[u8; 32]> = (0..count).map(|_| draw()).collect();
            if let Some(point) = points.get_mut(1) {
                *point = [0; 32];
            }
            let secret = |key: &StationKey, u| key.agree(u).map_or([0; 32], |secret| *secret);
            let one_by_one: Vec<[u8; 32]> =
                keys.iter().flat_map(|key| points.iter().map(move |u| secret(key, u))).collect();
            for kernel in [None, Kernel::detect(), Some(Kernel::Avx2Plain), Some(Kernel::IfmaPlain)]
            {
                assert_eq!(*agree_all(&keys, kernel, &points), one_by_one, "{kernel:?}");
            }
        }
    }

    #[test]
    fn agreement_equals_another_implementation() {
        let private = [0x5a; 32];
        let station = StationKey::from_private(&private).unwrap();
        let theirs = x25519_dalek::x25519(private, x25519_dalek::X25519_BASEPOINT_BYTES);
        assert_eq!(station.public(), &theirs);
        let peer = x25519_dalek::x25519([9; 32], x25519_dalek::X25519_BASEPOINT_BYTES);
        assert_eq!(*station.agree(&peer).unwrap(), x25519_dalek::x25519(private, peer));
    }

    #[test]
    fn low_order_points_give_nothing() {
        let station = StationKey::from_private(&[0x11; 32]).unwrap();
        let mut one = [0; 32];
        one[0] = 1;
        assert!(station.agree(&[0; 32]).is_none());
        assert!(station.agree(&one).is_none());
    }
}
