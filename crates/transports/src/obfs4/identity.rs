//! The identity of a registration, and the marks and MACs keyed with it (`spec/transports.md` 7.2).

use super::{MARK_LEN, REPRESENTATIVE};
use hmac::{Hmac, KeyInit, Mac};
use keys::Obfs4Keys;
use sha2::Sha256;

/// What both sides of a registration know: public key and node id, with the HMAC keyed by both
/// ready, which halves the cost of a mark.
#[derive(Clone)]
pub struct ClientIdentity {
    public: [u8; 32],
    node_id: [u8; 20],
    keyed: Hmac<Sha256>,
}

impl ClientIdentity {
    /// The identity of the server with this key and node id.
    pub fn new(public: [u8; 32], node_id: [u8; 20]) -> Self {
        let mut key = [0; 52];
        key[..32].copy_from_slice(&public);
        key[32..].copy_from_slice(&node_id);
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        Self { public, node_id, keyed }
    }

    /// The identity key `B`.
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The node id.
    pub const fn node_id(&self) -> &[u8; 20] {
        &self.node_id
    }

    /// The mark of a handshake that begins with `representative`, as transmitted.
    pub fn mark(&self, representative: &[u8; REPRESENTATIVE]) -> [u8; MARK_LEN] {
        self.mac16(&[representative])
    }

    /// The MAC over a handshake up to its mark, and the hour in decimal.
    pub(super) fn handshake_mac(&self, until_mark: &[u8], hour: u64) -> [u8; MARK_LEN] {
        self.mac16(&[until_mark, hour.to_string().as_bytes()])
    }

    fn mac16(&self, parts: &[&[u8]]) -> [u8; MARK_LEN] {
        let mut mac = self.keyed.clone();
        for part in parts {
            mac.update(part);
        }
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        *digest.first_chunk().expect("a digest is longer than a mark")
    }
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientIdentity(_)")
    }
}

impl From<&Obfs4Keys> for ClientIdentity {
    fn from(keys: &Obfs4Keys) -> Self {
        Self::new(keys.public, keys.node_id)
    }
}

/// The identity of a registration with its private key, as the station holds it.
#[derive(Clone)]
pub struct ServerIdentity {
    keys: Obfs4Keys,
    shared: ClientIdentity,
}

impl ServerIdentity {
    /// The identity with these keys.
    pub fn new(keys: Obfs4Keys) -> Self {
        let shared = ClientIdentity::from(&keys);
        Self { keys, shared }
    }

    /// The half that the client knows as well.
    pub const fn shared(&self) -> &ClientIdentity {
        &self.shared
    }

    pub(super) const fn private(&self) -> &[u8; 32] {
        &self.keys.private
    }
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerIdentity(_)")
    }
}
