//! Address translation for packets that the station sends first (`spec/transports.md` 8.6).

use std::io;
use std::net::SocketAddr;

use capture::tun::{Tun, TunError};

/// Payload of the packet that primes an entry.
pub const WARM_UP: &[u8] = b"Hello world";

/// What makes the kernel translate what the station sends to a client.
pub trait NatEntries: Send + Sync + std::fmt::Debug {
    /// From now on packets of the station's port to `client` leave as those of `phantom`.
    ///
    /// # Errors
    /// When the entry cannot be made.
    fn add(&self, client: SocketAddr, phantom: SocketAddr) -> io::Result<()>;
}

/// Entries that the kernel learns from a packet that seems to come from the client: it is written
/// into a tun device whose traffic the host redirects to the station.
#[derive(Debug)]
pub struct TunEntries(Tun);

impl TunEntries {
    /// Opens the device `name`.
    ///
    /// # Errors
    /// [`TunError`] says what is missing.
    pub fn open(name: &str) -> Result<Self, TunError> {
        Tun::open(name).map(Self)
    }
}

impl NatEntries for TunEntries {
    fn add(&self, client: SocketAddr, phantom: SocketAddr) -> io::Result<()> {
        let packet = packet::craft::udp(client, phantom, WARM_UP).ok_or_else(|| {
            let text = "both src and dst must be either IPv4 or IPv6";
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        self.0.send(&packet)
    }
}
