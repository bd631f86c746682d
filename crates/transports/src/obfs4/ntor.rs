//! The key exchange: ntor over Elligator representatives (`spec/transports.md` 7.2).

use super::{AUTH, ClientIdentity, REPRESENTATIVE, SEED_LEN, ServerIdentity};
use hmac::{Hmac, KeyInit, Mac};
use keys::{EphemeralKey, HkdfStream, elligator, x25519};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const PROTOCOL: &[u8] = b"ntor-curve25519-sha256-1";
const KEY_EXTRACT: &[u8] = b"ntor-curve25519-sha256-1:key_extract";
const KEY_VERIFY: &[u8] = b"ntor-curve25519-sha256-1:key_verify";
const KEY_EXPAND: &[u8] = b"ntor-curve25519-sha256-1:key_expand";
const MAC: &[u8] = b"ntor-curve25519-sha256-1:mac";

/// A public key of the exchange is of low order, so its secret would be known to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key of the handshake is of low order")]
pub struct LowOrder;

/// Keys of one direction: 72 bytes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct LinkSecret {
    /// Key of the secret boxes.
    pub key: [u8; 32],
    /// First 16 bytes of each nonce.
    pub nonce_prefix: [u8; 16],
    /// Seed of the generator that hides lengths.
    pub length_seed: [u8; SEED_LEN],
}

impl std::fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSecret(_)")
    }
}

/// What both sides derive from the exchange.
#[derive(Debug, PartialEq, Eq)]
pub struct LinkKeys {
    /// Client to server.
    pub upstream: LinkSecret,
    /// Server to client.
    pub downstream: LinkSecret,
    pub(super) auth: [u8; AUTH],
}

impl LinkKeys {
    /// The server's half of the exchange, for a client that sent `representative`.
    ///
    /// # Errors
    /// When the client's key is of low order.
    pub fn server(
        identity: &ServerIdentity,
        ephemeral: &EphemeralKey,
        representative: &[u8; REPRESENTATIVE],
    ) -> Result<Self, LowOrder> {
        let client = elligator::decode(representative);
        let first = ephemeral.agree(&client).ok_or(LowOrder)?;
        let second = x25519(identity.private(), &client).ok_or(LowOrder)?;
        Ok(Self::derive(&[first, second], identity.shared(), &client, &ephemeral.public()))
    }

    /// The client's half of the exchange, for a server that answered with `representative`.
    ///
    /// # Errors
    /// When a key of the server is of low order.
    pub fn client(
        identity: &ClientIdentity,
        ephemeral: &EphemeralKey,
        representative: &[u8; REPRESENTATIVE],
    ) -> Result<Self, LowOrder> {
        let server = elligator::decode(representative);
        let first = ephemeral.agree(&server).ok_or(LowOrder)?;
        let second = ephemeral.agree(identity.public()).ok_or(LowOrder)?;
        Ok(Self::derive(&[first, second], identity, &ephemeral.public(), &server))
    }

    /// The server's proof that it owns the identity key.
    pub const fn auth(&self) -> &[u8; AUTH] {
        &self.auth
    }

    fn derive(
        secrets: &[Zeroizing<[u8; 32]>; 2],
        identity: &ClientIdentity,
        client: &[u8; 32],
        server: &[u8; 32],
    ) -> Self {
        // The identity key stands twice in what is hashed; that is part of the protocol.
        let suffix: [&[u8]; 6] =
            [identity.public(), identity.public(), client, server, PROTOCOL, identity.node_id()];
        let hash = |key: &[u8], parts: &[&[u8]]| {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
            parts.iter().chain(&suffix).for_each(|part| mac.update(part));
            mac
        };
        let secret: [&[u8]; 2] = [&*secrets[0], &*secrets[1]];
        let seed: Zeroizing<[u8; 32]> =
            Zeroizing::new(hash(KEY_EXTRACT, &secret).finalize().into_bytes().into());
        let verify: Zeroizing<[u8; 32]> =
            Zeroizing::new(hash(KEY_VERIFY, &secret).finalize().into_bytes().into());
        let mut auth = hash(MAC, &[&*verify]);
        auth.update(b"Server");
        let mut stream = HkdfStream::new(&*seed, KEY_EXTRACT, KEY_EXPAND);
        let upstream = LinkSecret::read(&mut stream);
        let downstream = LinkSecret::read(&mut stream);
        Self { upstream, downstream, auth: auth.finalize().into_bytes().into() }
    }
}

impl LinkSecret {
    fn read(stream: &mut HkdfStream) -> Self {
        let mut secret = Self { key: [0; 32], nonce_prefix: [0; 16], length_seed: [0; SEED_LEN] };
        for part in [&mut secret.key[..], &mut secret.nonce_prefix, &mut secret.length_seed] {
            stream.read(part).expect("144 bytes lie within the first 8,160");
        }
        secret
    }
}
