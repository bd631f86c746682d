//! A ring without ZC: the kernel's module captures, and the library maps its ring (`spec/ingest.md` 5).

use std::ffi::{CString, OsStr};
use std::io;
use std::ptr::{NonNull, null_mut};

use pfring_sys::ring::{
    PF_RING_PROMISC, Ring as Functions, cluster_type, packet_direction, pfring, pfring_pkthdr,
    pfring_stat, socket_mode,
};

use crate::{LIBRARY, LoadError, Statistics, system};

/// Longest packet.
const LONGEST: u32 = 65_535;

/// Why a ring cannot be opened, or fails.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The library or the module.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The library refused a step.
    #[error(
        "{function} error [{cause}]: {device}: is the interface there, the module loaded (modprobe pf_ring), and the \
         process permitted to capture (CAP_NET_RAW, CAP_NET_ADMIN)?"
    )]
    Refused {
        /// The function.
        function: &'static str,
        /// The interface.
        device: String,
        /// What it said.
        cause: io::Error,
    },
    /// The interface has a name that cannot be one.
    #[error("{0:?} is no name of an interface")]
    Name(String),
    /// Receiving fails.
    #[error("pfring_recv error {code}: {device}: is the interface still there?")]
    Receive {
        /// The interface.
        device: String,
        /// What the library returned.
        code: i32,
    },
}

/// An interface that the kernel's module captures from, frames that come in alone.
pub struct Ring {
    functions: Functions,
    ring: NonNull<pfring>,
    device: String,
}

// SAFETY: a ring belongs to no thread; this value is its only user.
unsafe impl Send for Ring {}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Ring {
    /// Opens `device`, as a member of the module's cluster `cluster`: members share the packets by their addresses.
    ///
    /// # Errors
    /// Names what is missing or refused.
    pub fn open(device: &str, cluster: u32) -> Result<Self, RingError> {
        if system::module_version().is_none() {
            return Err(LoadError::NoModule { path: system::INFO.to_owned() }.into());
        }
        Self::open_with(OsStr::new(LIBRARY), device, cluster)
    }

    /// The same with the library `name`, without a look at the module.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn open_with(name: &OsStr, device: &str, cluster: u32) -> Result<Self, RingError> {
        let c_name = CString::new(device).map_err(|_| RingError::Name(device.to_owned()))?;
        // SAFETY: loading runs the library's initialisers, which is what the operator who installed it wants; the
        // functions are declared as the library's interface is published.
        let functions =
            unsafe { Functions::new(name) }.map_err(|error| LoadError::of(name, &error))?;
        let refused = |function| RingError::Refused {
            function,
            device: device.to_owned(),
            cause: io::Error::last_os_error(),
        };
        // SAFETY: the name ends with a zero.
        let opened = unsafe { functions.pfring_open(c_name.as_ptr(), LONGEST, PF_RING_PROMISC) };
        let ring = NonNull::new(opened).ok_or_else(|| refused("pfring_open"))?;
        // From here on dropping it closes the ring.
        let this = Self { functions, ring, device: device.to_owned() };
        let (functions, ring) = (&this.functions, ring.as_ptr());
        let direction = packet_direction::rx_only_direction;
        // SAFETY: the ring is open, which holds for each of these.
        unsafe {
            let by = cluster_type::cluster_per_flow_2_tuple;
            if functions.pfring_set_cluster(ring, cluster, by) < 0 {
                return Err(refused("pfring_set_cluster"));
            }
            if functions.pfring_set_direction(ring, direction) < 0 {
                return Err(refused("pfring_set_direction"));
            }
            if functions.pfring_set_socket_mode(ring, socket_mode::recv_only_mode) < 0 {
                return Err(refused("pfring_set_socket_mode"));
            }
            if functions.pfring_enable_ring(ring) < 0 {
                return Err(refused("pfring_enable_ring"));
            }
        }
        Ok(this)
    }

    /// The next packet, without waiting: what was captured of it, which may be less than was on the wire.
    ///
    /// # Errors
    /// When the library reports one.
    pub fn receive(&mut self) -> Result<Option<&[u8]>, RingError> {
        // SAFETY: the header is made of numbers, for which zeros are right.
        let mut header: pfring_pkthdr = unsafe { std::mem::zeroed() };
        let mut data = null_mut();
        let (ring, into) = (self.ring.as_ptr(), (&raw mut data, &raw mut header));
        // SAFETY: the ring is open; a length of 0 asks for a pointer into it instead of a copy.
        let code = unsafe { self.functions.pfring_recv(ring, into.0, 0, into.1, 0) };
        match code {
            0 => Ok(None),
            1.. if !data.is_null() => {
                // SAFETY: the library has put `caplen` bytes there, which stay until the next call, and that takes
                // this ring exclusively.
                Ok(Some(unsafe { std::slice::from_raw_parts(data, header.caplen as usize) }))
            }
            code => Err(RingError::Receive { device: self.device.clone(), code }),
        }
    }

    /// Counters since it was opened; `None` when the library does not tell.
    pub fn statistics(&self) -> Option<Statistics> {
        let mut stat = pfring_stat { recv: 0, drop: 0, shunt: 0 };
        // SAFETY: the ring is open, and `stat` is a place for the answer.
        let code = unsafe { self.functions.pfring_stats(self.ring.as_ptr(), &raw mut stat) };
        let statistics = Statistics { received: stat.recv, sent: 0, dropped: stat.drop };
        (code >= 0).then_some(statistics)
    }
}

impl Drop for Ring {
    /// Ends receiving and closes the ring.
    fn drop(&mut self) {
        let ring = self.ring.as_ptr();
        // SAFETY: the ring is open, and nothing is used afterwards. The library is unloaded after that.
        unsafe {
            self.functions.pfring_breakloop(ring);
            self.functions.pfring_shutdown(ring);
            self.functions.pfring_close(ring);
        }
    }
}
