//! What `genkey` writes (`spec/operations.md` 9.6).

use crate::station::{clamp, public_key};
use zeroize::Zeroizing;

/// A new key pair.
pub struct KeyPair {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl KeyPair {
    /// Draws a clamped private key.
    pub fn generate<R: rand_core::CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut private = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *private);
        clamp(&mut private);
        let public = public_key(&private);
        Self { private, public }
    }

    /// Content of the file `pubkey`.
    pub const fn public_file(&self) -> &[u8; 32] {
        &self.public
    }

    /// Content of the file `privkey`: private, then public key.
    pub fn private_file(&self) -> Zeroizing<[u8; 64]> {
        let mut file = Zeroizing::new([0; 64]);
        file[..32].copy_from_slice(&*self.private);
        file[32..].copy_from_slice(&self.public);
        file
    }

    /// The public key in Z85, as ZeroMQ configurations write it.
    pub fn public_z85(&self) -> String {
        z85(&self.public)
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPair(_)")
    }
}

/// Z85 (ZeroMQ RFC 32) of 32 bytes: 40 characters.
pub fn z85(bytes: &[u8; 32]) -> String {
    const ALPHABET: &[u8; 85] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let mut text = String::with_capacity(40);
    for four in bytes.chunks_exact(4) {
        let value = four.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
        for power in (0..5).rev() {
            text.push(char::from(ALPHABET[(value / 85u32.pow(power) % 85) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    #[test]
    fn a_pair_is_a_station_key() {
        let pair = KeyPair::generate(&mut ChaCha20Rng::seed_from_u64(1));
        let file = pair.private_file();
        assert_eq!((file[0] & 7, file[31] & 0xc0), (0, 0x40));
        let key = crate::StationKey::from_file(&*file).unwrap();
        assert_eq!(key.public(), pair.public_file());
        assert_ne!(*file, *KeyPair::generate(&mut ChaCha20Rng::seed_from_u64(2)).private_file());
    }

    /// The test vector of the ZeroMQ specification, four times.
    #[test]
    fn z85_of_the_specification() {
        let hello = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b];
        let bytes: Vec<u8> = hello.repeat(4);
        assert_eq!(z85(bytes.as_slice().try_into().unwrap()), "HelloWorld".repeat(4));
    }
}
