//! From the shared point to the keys of both directions (RFC 5246 5, 6.3, 8.1; RFC 7627 4).

use crate::protection::{OpeningKey, SealingKey};
use aws_lc_rs::{aead, digest, tls_prf};
use zeroize::Zeroizing;

/// What every session here derives its keys from; wiped when dropped.
pub type MasterSecret = Zeroizing<[u8; 48]>;

/// A cipher suite. Both authenticate with ECDSA and agree by ephemeral Diffie-Hellman.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`.
    Aes128GcmSha256,
    /// `TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384`.
    Aes256GcmSha384,
}

impl Suite {
    /// The suite with the number `id`.
    pub const fn from_id(id: u16) -> Option<Self> {
        match id {
            0xc02b => Some(Self::Aes128GcmSha256),
            0xc02c => Some(Self::Aes256GcmSha384),
            _ => None,
        }
    }

    /// Its number.
    pub const fn id(self) -> u16 {
        match self {
            Self::Aes128GcmSha256 => 0xc02b,
            Self::Aes256GcmSha384 => 0xc02c,
        }
    }

    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128GcmSha256 => &aead::AES_128_GCM,
            Self::Aes256GcmSha384 => &aead::AES_256_GCM,
        }
    }

    fn hash(self, bytes: &[u8]) -> digest::Digest {
        match self {
            Self::Aes128GcmSha256 => digest::digest(&digest::SHA256, bytes),
            Self::Aes256GcmSha384 => digest::digest(&digest::SHA384, bytes),
        }
    }

    fn prf<const N: usize>(self, secret: &[u8], label: &[u8], seed: &[u8]) -> Zeroizing<[u8; N]> {
        let algorithm = match self {
            Self::Aes128GcmSha256 => &tls_prf::P_SHA256,
            Self::Aes256GcmSha384 => &tls_prf::P_SHA384,
        };
        let derived = tls_prf::Secret::new(algorithm, secret)
            .and_then(|secret| secret.derive(label, seed, N))
            .expect("the PRF takes every secret that is not empty");
        let mut out = Zeroizing::new([0; N]);
        out.copy_from_slice(derived.as_ref());
        out
    }

    /// The master secret from the shared point and every handshake message up to ClientKeyExchange.
    pub fn master_secret(self, premaster: &[u8], transcript: &[u8]) -> MasterSecret {
        let session_hash = self.hash(transcript);
        self.prf(premaster, b"extended master secret", session_hash.as_ref())
    }

    /// What the client's Finished says about the messages before it.
    pub fn client_finished(self, master: &MasterSecret, transcript: &[u8]) -> [u8; 12] {
        *self.prf(master.as_ref(), b"client finished", self.hash(transcript).as_ref())
    }

    /// What the server's Finished says about the messages before it.
    pub fn server_finished(self, master: &MasterSecret, transcript: &[u8]) -> [u8; 12] {
        *self.prf(master.as_ref(), b"server finished", self.hash(transcript).as_ref())
    }

    /// The keys of both directions.
    pub fn keys(
        self,
        master: &MasterSecret,
        client_random: &[u8; 32],
        server_random: &[u8; 32],
    ) -> KeyBlock {
        let seed = [&server_random[..], &client_random[..]].concat();
        let bytes = self.prf(master.as_ref(), b"key expansion", &seed);
        KeyBlock { suite: self, bytes }
    }
}

/// Keys and salts of both directions; wiped when dropped.
pub struct KeyBlock {
    suite: Suite,
    /// Client key, server key, client salt, server salt; as much of it as the suite needs.
    bytes: Zeroizing<[u8; 72]>,
}

impl std::fmt::Debug for KeyBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyBlock(_)")
    }
}

/// One of the two ends, as the sender of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The DTLS client.
    Client,
    /// The DTLS server.
    Server,
}

impl KeyBlock {
    fn part(&self, sender: Sender) -> (aead::LessSafeKey, [u8; 4]) {
        let algorithm = self.suite.aead();
        let len = algorithm.key_len();
        let index = usize::from(sender == Sender::Server);
        let key = &self.bytes[index * len..][..len];
        let salt = &self.bytes[2 * len + 4 * index..][..4];
        let key = aead::UnboundKey::new(algorithm, key).expect("the key has the suite's length");
        (aead::LessSafeKey::new(key), salt.try_into().expect("4 bytes"))
    }

    /// Opens what `sender` sealed.
    pub fn opening(&self, sender: Sender) -> OpeningKey {
        let (key, salt) = self.part(sender);
        OpeningKey::new(key, salt)
    }

    /// Seals as `sender`; `nonce_key` is random and chooses how explicit nonces look.
    pub fn sealing(&self, sender: Sender, nonce_key: &[u8; 16]) -> SealingKey {
        let (key, salt) = self.part(sender);
        SealingKey::new(key, salt, nonce_key)
    }
}
