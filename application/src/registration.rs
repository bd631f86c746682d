//! A registration as the application keeps it.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use session::redis_out::Announcement;
use session::{Proto, SessionKey};
use tokio::time::Instant;
use transports::Transport;
use transports::obfs4::ServerIdentity;

use crate::geoip::Origin;

/// Lifetime of a registration that no connection has used (`spec/application.md` 9.3).
pub const UNUSED_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Lifetime of a registration that was used, counted from the registration.
pub const USED_LIFETIME: Duration = Duration::from_secs(6 * 3600);

/// What a transport recognises a registration by, on the registration's phantom: 32 bytes for Min,
/// Prefix and DTLS, 52 for obfs4, zero-padded. Labels differ, so transports never collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identifier([u8; 52]);

impl From<&[u8; 32]> for Identifier {
    fn from(tag: &[u8; 32]) -> Self {
        let mut bytes = [0; 52];
        bytes[..32].copy_from_slice(tag);
        Self(bytes)
    }
}

impl From<[u8; 52]> for Identifier {
    fn from(bytes: [u8; 52]) -> Self {
        Self(bytes)
    }
}

/// What a transport needs beside the identifier to serve a connection.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// The identifier says it all (Min, Prefix).
    #[default]
    Tag,
    /// Keys of an obfs4 handshake.
    Obfs4(Box<ServerIdentity>),
    /// What DTLS sessions are made of.
    Dtls(Box<crate::dtls::Material>),
}

/// One family of one registration.
#[derive(Debug)]
pub struct Registration {
    /// Phantom address.
    pub phantom: IpAddr,
    /// Phantom port.
    pub dst_port: u16,
    /// IP protocol of the transport.
    pub proto: Proto,
    /// Address of the registrant, `::` when unknown.
    pub client: IpAddr,
    /// Where the registrant is.
    pub origin: Origin,
    /// Transport of its connections.
    pub transport: Transport,
    /// How they are recognised.
    pub identifier: Identifier,
    /// What its transport needs to serve a connection.
    pub credentials: Credentials,
    /// Prefix number of the Prefix transport.
    pub prefix_id: Option<i32>,
    /// First eight bytes of the shared secret: the name of the registration in logs.
    pub short_id: [u8; 8],
    /// Numeric `RegistrationSource`.
    pub source: i32,
    /// Phantom generation.
    pub generation: u32,
    /// Client library version.
    pub lib_version: u32,
    /// Write a PROXY header to the covert.
    pub proxy_header: bool,
    /// The client says that the phantom was probed already.
    pub prescanned: bool,
    /// Covert as the client asked for it.
    pub covert_text: Box<str>,
    /// When the registration was received.
    pub received: Instant,
    /// The message that brought it, for a successor of this process.
    pub message: Bytes,
    /// Covert that will be dialled; set before the registration becomes valid.
    covert: OnceLock<SocketAddr>,
    valid: AtomicBool,
    used: AtomicBool,
    copies: AtomicU32,
    tunnels: AtomicU64,
}

/// What [`Registration::new`] is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// See [`Registration::phantom`].
    pub phantom: IpAddr,
    /// See [`Registration::dst_port`].
    pub dst_port: u16,
    /// See [`Registration::proto`].
    pub proto: Proto,
    /// See [`Registration::client`].
    pub client: IpAddr,
    /// See [`Registration::origin`].
    pub origin: Origin,
    /// See [`Registration::transport`].
    pub transport: Transport,
    /// See [`Registration::identifier`].
    pub identifier: Identifier,
    /// See [`Registration::credentials`].
    pub credentials: Credentials,
    /// See [`Registration::prefix_id`].
    pub prefix_id: Option<i32>,
    /// See [`Registration::short_id`].
    pub short_id: [u8; 8],
    /// See [`Registration::source`].
    pub source: i32,
    /// See [`Registration::generation`].
    pub generation: u32,
    /// See [`Registration::lib_version`].
    pub lib_version: u32,
    /// See [`Registration::proxy_header`].
    pub proxy_header: bool,
    /// See [`Registration::prescanned`].
    pub prescanned: bool,
    /// See [`Registration::covert_text`].
    pub covert_text: Box<str>,
}

impl Registration {
    /// A registration received now, not valid yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            phantom: parts.phantom,
            dst_port: parts.dst_port,
            proto: parts.proto,
            client: parts.client,
            origin: parts.origin,
            transport: parts.transport,
            identifier: parts.identifier,
            credentials: parts.credentials,
            prefix_id: parts.prefix_id,
            short_id: parts.short_id,
            source: parts.source,
            generation: parts.generation,
            lib_version: parts.lib_version,
            proxy_header: parts.proxy_header,
            prescanned: parts.prescanned,
            covert_text: parts.covert_text,
            received: Instant::now(),
            message: Bytes::new(),
            covert: OnceLock::new(),
            valid: AtomicBool::new(false),
            used: AtomicBool::new(false),
            copies: AtomicU32::new(1),
            tunnels: AtomicU64::new(0),
        }
    }

    /// The registration, brought by `message` some time ago.
    #[must_use]
    pub fn brought_by(mut self, message: Bytes, age: Duration) -> Self {
        self.message = message;
        // A host that has just started has no earlier time than its start.
        self.received = self.received.checked_sub(age).unwrap_or(self.received);
        self
    }

    /// Keys of its obfs4 handshakes, when that is its transport.
    pub fn obfs4(&self) -> Option<&ServerIdentity> {
        match &self.credentials {
            Credentials::Obfs4(identity) => Some(identity),
            Credentials::Tag | Credentials::Dtls(_) => None,
        }
    }

    /// What its DTLS sessions are made of, when that is its transport.
    pub fn dtls(&self) -> Option<&crate::dtls::Material> {
        match &self.credentials {
            Credentials::Dtls(material) => Some(material),
            Credentials::Tag | Credentials::Obfs4(_) => None,
        }
    }

    /// Name of the registration in logs: 16 hexadecimal digits.
    pub fn log_id(&self) -> String {
        hex::encode(self.short_id)
    }

    /// Key under which detectors forward its packets.
    ///
    /// `None` cannot happen for a registration of the pipeline, which refuses an IPv4 phantom
    /// for a client that is not IPv4.
    pub fn session_key(&self) -> Option<SessionKey> {
        SessionKey::new(self.proto, self.phantom, self.client, self.dst_port)
    }

    /// The registration as detectors hear of it.
    pub fn announcement(&self) -> Option<Announcement> {
        Some(Announcement { key: self.session_key()?, client: self.client })
    }

    /// Fixes the covert and makes the registration valid. True the first time.
    pub fn activate(&self, covert: SocketAddr) -> bool {
        let covert_set = self.covert.set(covert).is_ok();
        covert_set && !self.valid.swap(true, Ordering::AcqRel)
    }

    /// Whether connections may use it.
    pub fn is_valid(&self) -> bool {
        self.valid.load(Ordering::Acquire)
    }

    /// Covert to dial; `None` until it is valid.
    pub fn covert(&self) -> Option<SocketAddr> {
        self.covert.get().copied()
    }

    /// Notes that a connection was matched.
    pub fn mark_used(&self) {
        self.used.store(true, Ordering::Release);
    }

    /// Whether a connection has ever been matched.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// When the registration ends.
    pub fn expires(&self) -> Instant {
        self.received + if self.is_used() { USED_LIFETIME } else { UNUSED_LIFETIME }
    }

    /// Counts one more copy of the same message.
    pub fn count_copy(&self) -> u32 {
        self.copies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Copies received.
    pub fn copies(&self) -> u32 {
        self.copies.load(Ordering::Relaxed)
    }

    /// Counts a tunnel; returns its number, from 1.
    pub fn count_tunnel(&self) -> u64 {
        self.tunnels.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tunnels so far.
    pub fn tunnels(&self) -> u64 {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Text of the phantom and its port, brackets around IPv6.
    pub fn phantom_endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.phantom, self.dst_port)
    }
}
