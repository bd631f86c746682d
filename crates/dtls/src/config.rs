//! What a connection is made from.

use crate::certificate::{Identity, PeerKey};
use keys::SharedSecret;
use keys::dtls::{CertificateSeeds, client_hello_random};
use std::sync::Arc;
use std::time::Duration;

/// Longest datagram of a handshake, bytes; what existing peers keep to.
pub const DATAGRAM_LIMIT: usize = 1200;
/// Time between two transmissions of a flight. Existing peers do not back off.
pub const RETRANSMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Time for a whole handshake.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends the first datagram.
    Client,
    /// Waits for it.
    Server,
}

/// Keys, names and limits of one end.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// The last 28 bytes of the ClientHello's random. A server refuses any other.
    pub tag: [u8; 28],
    /// The wall clock, seconds since 1970; goes into the random of this end.
    pub unix_time: u64,
    /// Key and certificate of this end.
    pub identity: Arc<Identity>,
    /// The key that the peer must have.
    pub peer: PeerKey,
    /// Longest datagram of the handshake, bytes; at least 128 are used.
    pub datagram_limit: usize,
    /// Time between two transmissions of a flight.
    pub retransmit_interval: Duration,
    /// Time for the whole handshake.
    pub handshake_limit: Duration,
    /// Whether a server asks for its hello to be repeated with a cookie before it computes anything,
    /// which costs a round trip. Ignored by a client, which repeats its hello when asked.
    pub verify_hello: bool,
}

impl Config {
    /// The DTLS client of the session with `secret`, whoever plays it; `unix_time` in seconds.
    pub fn client(secret: &SharedSecret, unix_time: u64) -> Self {
        Self::new(secret, unix_time, Role::Client)
    }

    /// The DTLS server of the session with `secret`, whoever plays it; `unix_time` in seconds.
    pub fn server(secret: &SharedSecret, unix_time: u64) -> Self {
        Self::new(secret, unix_time, Role::Server)
    }

    fn new(secret: &SharedSecret, unix_time: u64, role: Role) -> Self {
        let seeds = CertificateSeeds::new(secret);
        let (own, peer) = match role {
            Role::Client => (&seeds.client, &seeds.server),
            Role::Server => (&seeds.server, &seeds.client),
        };
        let scalar = "the key schedule makes scalars of P-256";
        Self {
            role,
            tag: client_hello_random(secret),
            unix_time,
            identity: Arc::new(Identity::new(own, unix_time).expect(scalar)),
            peer: PeerKey::new(peer).expect(scalar),
            datagram_limit: DATAGRAM_LIMIT,
            retransmit_interval: RETRANSMIT_INTERVAL,
            handshake_limit: HANDSHAKE_LIMIT,
            verify_hello: false,
        }
    }
}
