//! Address translation for packets that the station sends first (`spec/transports.md` 8.6).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use capture::tun::{Tun, TunError};

use super::service::{StartError, device_name};

/// Payload of the packet that primes an entry.
pub const WARM_UP: &[u8] = b"Hello world";

/// What makes the kernel translate what the station sends to a client.
pub trait NatEntries: Send + Sync + std::fmt::Debug {
    /// From now on packets of the station's port to `client` leave as those of `phantom`.
    ///
    /// # Errors
    /// When the entry cannot be made.
    fn add(&self, client: SocketAddr, phantom: SocketAddr) -> io::Result<()>;

    /// A copy of the device behind this, for a successor; `None` where there is none.
    fn device(&self) -> Option<io::Result<OwnedFd>> {
        None
    }
}

/// Entries that the kernel learns from a packet that seems to come from the client: it is written
/// into a tun device whose traffic the host redirects to the station.
#[derive(Debug)]
pub struct TunEntries(Tun);

impl TunEntries {
    /// Opens the device that `OFFSET` and `CJ_CORECOUNT` name.
    ///
    /// `attached` has it when a predecessor has attached it.
    ///
    /// # Errors
    /// [`StartError`] names what is missing.
    pub fn of_environment(
        attached: impl FnOnce(&str) -> Option<OwnedFd>,
    ) -> Result<Self, StartError> {
        let name = device_name()?;
        match attached(&name) {
            Some(device) => Ok(Self(Tun::from_attached(&name, device)?)),
            None => Ok(Self::open(&name)?),
        }
    }

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

    fn device(&self) -> Option<io::Result<OwnedFd>> {
        Some(self.0.as_fd().try_clone_to_owned())
    }
}
