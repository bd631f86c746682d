//! The shared secret of a session and everything derived from it (`spec/core.md` 7).

use crate::port::seeded_port;
use crate::stream::{HkdfStream, StreamError, hmac_sha256};
use crate::version::ClientVersion;
use hmac::Mac;
use std::ops::Range;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Label of the Min tag; the misspelling is part of the protocol.
pub const MIN_LABEL: &[u8] = b"MinTrasportHMACString";
/// Label of the Prefix tag.
pub const PREFIX_LABEL: &[u8] = b"PrefixTransportHMACString";
/// Label of the DTLS identifier; the misspelling is part of the protocol.
pub const DTLS_LABEL: &[u8] = b"dtlsTrasportHMACString";

/// Decoys that one session contacts.
pub const DECOY_WIDTH: usize = 5;

/// The secret that client and station share: 32 bytes for current clients, any length in general.
/// It is wiped when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret(Box<[u8]>);

impl SharedSecret {
    /// Takes `bytes` as the secret.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The main stream from its start.
    pub fn main_stream(&self) -> HkdfStream {
        HkdfStream::main(&self.0)
    }

    /// Keys of the two encrypted parts of a decoy registration; the same for every version.
    pub fn decoy_keys(&self) -> DecoyKeys {
        DecoyKeys::new(&self.0)
    }

    /// The conjure seed and the transport stream behind it.
    pub fn session_keys(&self, version: ClientVersion) -> SessionKeys {
        let mut stream = self.main_stream();
        let mut skipped = Zeroizing::new([0; 104]);
        let read =
            stream.read(&mut skipped[..version.seed_offset()]).and_then(|()| stream.take::<16>());
        let seed = ConjureSeed(read.expect("120 bytes lie within the first 8,160"));
        SessionKeys { seed, transport: stream }
    }

    /// `HMAC-SHA256(secret, label)`.
    pub fn tag(&self, label: &[u8]) -> [u8; 32] {
        let mut mac = hmac_sha256(&self.0);
        mac.update(label);
        mac.finalize().into_bytes().into()
    }

    /// Registration identifier and first bytes of a Min connection.
    pub fn min_identifier(&self) -> [u8; 32] {
        self.tag(MIN_LABEL)
    }

    /// Registration identifier of Prefix, what its obfuscated tag hides.
    pub fn prefix_identifier(&self) -> [u8; 32] {
        self.tag(PREFIX_LABEL)
    }

    /// Registration identifier of DTLS.
    pub fn dtls_identifier(&self) -> [u8; 32] {
        self.tag(DTLS_LABEL)
    }

    /// Index of the client's decoy number `i` (below [`DECOY_WIDTH`]) among `count` decoys;
    /// `None` without decoys.
    pub fn decoy_index(&self, i: usize, count: usize) -> Option<usize> {
        let digest = self.tag(format!("registrationdecoy{i}").as_bytes());
        let modulus = u128::try_from(count).ok().filter(|&n| n > 0)?;
        let rest = digest.iter().fold(0, |rest, &byte| (rest << 8 | u128::from(byte)) % modulus);
        usize::try_from(rest).ok()
    }

    /// How logs name the session: the first 8 bytes in hexadecimal, zeros when there are fewer.
    pub fn log_id(&self) -> String {
        let first = self.0.first_chunk::<8>().copied().unwrap_or_default();
        format!("{:016x}", u64::from_be_bytes(first))
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(_)")
    }
}

impl PartialEq for SharedSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SharedSecret {}

/// The 16-byte seed of phantom and port selection.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ConjureSeed([u8; 16]);

impl ConjureSeed {
    /// Takes `bytes` as the seed.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The seed itself.
    pub const fn expose(&self) -> &[u8; 16] {
        &self.0
    }

    /// The port that seed selects in `range` (end excluded).
    pub fn port(&self, range: Range<u16>) -> u16 {
        seeded_port(&self.0, range)
    }
}

impl std::fmt::Debug for ConjureSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConjureSeed(_)")
    }
}

/// What a session derives for its client version.
#[derive(Debug, Clone)]
pub struct SessionKeys {
    /// Seed of phantom and port selection.
    pub seed: ConjureSeed,
    transport: HkdfStream,
}

impl SessionKeys {
    /// Keys of an obfs4 registration, the next bytes behind the seed.
    pub fn obfs4(&self) -> Obfs4Keys {
        Obfs4Keys::read(&mut self.transport.clone()).expect("52 bytes lie within the stream")
    }

    /// The stream behind the seed.
    pub fn transport_stream(&self) -> HkdfStream {
        self.transport.clone()
    }
}

/// Identity of one obfs4 registration.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Obfs4Keys {
    /// Clamped X25519 scalar.
    pub private: [u8; 32],
    /// Its public key.
    pub public: [u8; 32],
    /// The node id.
    pub node_id: [u8; 20],
}

impl Obfs4Keys {
    fn read(stream: &mut HkdfStream) -> Result<Self, StreamError> {
        let mut private: [u8; 32] = stream.take()?;
        crate::station::clamp(&mut private);
        let public = crate::station::public_key(&private);
        Ok(Self { private, public, node_id: stream.take()? })
    }

    /// Registration identifier: public key, then node id.
    pub fn identifier(&self) -> [u8; 52] {
        let mut id = [0; 52];
        id[..32].copy_from_slice(&self.public);
        id[32..].copy_from_slice(&self.node_id);
        id
    }
}

impl std::fmt::Debug for Obfs4Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Obfs4Keys(_)")
    }
}

/// AES-128-GCM key and nonce.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct AeadKey {
    /// AES-128 key.
    pub key: [u8; 16],
    /// 12-byte nonce.
    pub nonce: [u8; 12],
}

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AeadKey(_)")
    }
}

/// Keys of a decoy registration (`spec/detector.md` 8.4).
///
/// The fixed-size part needs only the first block of the stream. A tag check that fails, as nearly
/// all do, never computes the rest.
pub struct DecoyKeys {
    /// Key of the fixed-size payload.
    pub fixed: AeadKey,
    stream: HkdfStream,
}

impl DecoyKeys {
    /// Derives the keys of `shared_secret` as far as the fixed-size part.
    pub fn new(shared_secret: &[u8]) -> Self {
        let mut stream = HkdfStream::main(shared_secret);
        let fixed = Self::next(&mut stream);
        Self { fixed, stream }
    }

    /// Key of the variable-size payload.
    pub fn variable(&self) -> AeadKey {
        Self::next(&mut self.stream.clone())
    }

    fn next(stream: &mut HkdfStream) -> AeadKey {
        let mut read =
            || Ok::<_, StreamError>(AeadKey { key: stream.take()?, nonce: stream.take()? });
        read().expect("56 bytes lie within the first 8,160")
    }
}

impl std::fmt::Debug for DecoyKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DecoyKeys(_)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let secret = SharedSecret::new(&[0xab; 32]);
        let session = secret.session_keys(ClientVersion::CURRENT);
        let text =
            format!("{secret:?} {session:?} {:?} {:?}", secret.decoy_keys(), session.obfs4());
        assert!(!text.contains("ab"), "{text}");
        assert!(!text.contains("171"), "{text}");
    }

    #[test]
    fn short_secrets_have_a_log_id() {
        assert_eq!(SharedSecret::new(b"short").log_id(), "0000000000000000");
        assert_eq!(SharedSecret::new(&[0x0f; 9]).log_id(), "0f0f0f0f0f0f0f0f");
        assert_eq!(SharedSecret::new(b"").decoy_index(0, 0), None);
    }

    #[test]
    fn the_seed_of_a_current_client_is_the_fixed_payload_key() {
        let secret = SharedSecret::new(b"any");
        let seed = secret.session_keys(ClientVersion(4)).seed;
        assert_eq!(seed.expose(), &secret.decoy_keys().fixed.key);
    }
}
