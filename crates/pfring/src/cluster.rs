//! The producer of a cluster, as the reference's balancer is one (`spec/ingest.md` 3.2 and 4).

use std::ffi::{CString, c_char};
use std::io;
use std::ptr::{NonNull, null, null_mut};

use pfring_sys::zc::{
    pfring_zc_buffer_pool, pfring_zc_cluster, pfring_zc_multi_queue, pfring_zc_pkt_buff,
    pfring_zc_queue, pfring_zc_queue_mode,
};

use crate::{Library, Statistics};

/// Buffers that the producer works with, and packets of one burst.
pub const WORKING_SET: usize = 8;
/// Buffers that a device receives into.
const PER_DEVICE: u64 = 32_768;
/// Head room of a buffer, and what its size is rounded up to.
const LINE: u64 = 64;
/// Longest text of statistics that the module keeps.
const LONGEST_TEXT: usize = 1023;

/// What a cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its number.
    pub cluster: u32,
    /// Names of the devices, as the library takes them (`zc:eth1`).
    pub devices: Vec<String>,
    /// Queues, each with a pool of the same number.
    pub queues: u32,
    /// Packets that a queue holds, a power of two.
    pub slots: u32,
    /// Buffers of a consumer's pool, a power of two.
    pub buffers: u32,
    /// Longest packet in bytes.
    pub packet: u32,
    /// NUMA node of the memory; -1 for any.
    pub node: i32,
    /// A packet may go to several queues.
    pub copies: bool,
}

impl Settings {
    /// Buffers of the whole cluster.
    pub fn total(&self) -> u64 {
        let queues = u64::from(self.queues) * (u64::from(self.slots) + u64::from(self.buffers));
        self.devices.len() as u64 * PER_DEVICE + queues + WORKING_SET as u64
    }

    /// Memory of the buffers in bytes, which huge pages must have room for.
    pub fn memory(&self) -> u64 {
        self.total() * (u64::from(self.packet) + LINE).next_multiple_of(LINE)
    }
}

/// Why a cluster cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The cluster itself.
    #[error("pfring_zc_create_cluster error [{cause}]: cluster {cluster}: {}", create_hint(cause, *memory))]
    Create {
        /// Its number.
        cluster: u32,
        /// Memory of its buffers in bytes.
        memory: u64,
        /// What the library said.
        cause: io::Error,
    },
    /// A device.
    #[error(
        "pfring_zc_open_device error [{cause}]: {device}: is the interface there (ip link), with its ZC driver \
         (pf_ringcfg --list-interfaces), and not in use by another PF_RING program?"
    )]
    Device {
        /// Its name.
        device: String,
        /// What the library said.
        cause: io::Error,
    },
    /// A queue, a pool, or what joins queues.
    #[error(
        "{function} error [{cause}]: cluster {cluster}: ask for fewer queues (-n) or slots (-q)"
    )]
    Part {
        /// The function that failed.
        function: &'static str,
        /// The cluster.
        cluster: u32,
        /// What the library said.
        cause: io::Error,
    },
    /// More buffers than the library can count.
    #[error(
        "cluster {cluster}: {total} buffers are more than PF_RING can count: ask for fewer slots (-q)"
    )]
    TooLarge {
        /// The cluster.
        cluster: u32,
        /// Buffers that it would have.
        total: u64,
    },
    /// A device has a name that cannot be one.
    #[error("{0:?} is no name of a device")]
    Name(String),
}

impl ClusterError {
    /// Whether the process lacks a privilege.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Create { cause, .. } | Self::Device { cause, .. } | Self::Part { cause, .. } => {
                cause.kind() == io::ErrorKind::PermissionDenied
            }
            Self::TooLarge { .. } | Self::Name(_) => false,
        }
    }
}

/// What an operator should do when a cluster cannot be made.
fn create_hint(cause: &io::Error, memory: u64) -> String {
    /// No buffer space available.
    const ENOBUFS: i32 = 105;
    /// Address family not supported by protocol.
    const EAFNOSUPPORT: i32 = 97;
    let pages = memory.div_ceil(2 << 20);
    match cause.raw_os_error() {
        Some(ENOBUFS) => format!(
            "too few huge pages: it takes {memory} bytes, {pages} pages of 2 MiB (sysctl -w vm.nr_hugepages={pages}, \
             more when other programs use some)"
        ),
        Some(EAFNOSUPPORT) => {
            "the kernel module is not loaded: modprobe pf_ring (package pfring-dkms)".to_owned()
        }
        _ if cause.kind() == io::ErrorKind::PermissionDenied => {
            "not permitted: a ZC cluster takes root with CAP_SYS_ADMIN, CAP_IPC_LOCK, CAP_NET_ADMIN and CAP_NET_RAW"
                .to_owned()
        }
        _ => format!(
            "are huge pages mounted (mount -t hugetlbfs none /dev/hugepages), {pages} of 2 MiB of them free \
             (/proc/meminfo), and is no balancer of this cluster running? station doctor looks at each"
        ),
    }
}

/// Why nothing can be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Five minutes without a licence are over.
    #[error(
        "PF_RING ZC has ended its demo mode (error -6): without a licence it captures for five minutes after each \
         start; put a licence of ntop for the card's address into /etc/pf_ring, or read the interface without PF_RING"
    )]
    Demo,
    /// The library reports something else.
    #[error(
        "PF_RING ZC cannot receive (error {0}): see dmesg, and whether the interface is still there"
    )]
    Code(i32),
}

impl ReceiveError {
    /// Number of packets that the library says it received, of at most `max`.
    pub(crate) fn count(received: i32, max: usize) -> Result<usize, Self> {
        const DEMO: i32 = -6;
        match usize::try_from(received) {
            Ok(count) if count <= max => Ok(count),
            _ if received == DEMO => Err(Self::Demo),
            _ => Err(Self::Code(received)),
        }
    }
}

/// A cluster with its devices and queues. What it received last can be looked at, changed and sent.
#[derive(Debug)]
pub struct Cluster {
    library: &'static Library,
    cluster: NonNull<pfring_zc_cluster>,
    devices: Vec<*mut pfring_zc_queue>,
    queues: Vec<*mut pfring_zc_queue>,
    multi: Option<NonNull<pfring_zc_multi_queue>>,
    working: *mut pfring_zc_buffer_pool,
    handles: Vec<*mut pfring_zc_pkt_buff>,
    packet: usize,
    received: usize,
}

// SAFETY: the library's handles belong to no thread; this value is their only user.
unsafe impl Send for Cluster {}

impl Cluster {
    /// Makes the cluster: devices, queues and pools, in this order, and last the producer's own buffers.
    ///
    /// # Errors
    /// Names what could not be made; nothing of the cluster is left then.
    pub fn create(library: &'static Library, settings: &Settings) -> Result<Self, ClusterError> {
        let (zc, id) = (&library.zc, settings.cluster);
        let total = settings.total();
        let Ok(buffers) = u32::try_from(total) else {
            return Err(ClusterError::TooLarge { cluster: id, total });
        };
        let names: Vec<CString> = settings
            .devices
            .iter()
            .map(|name| CString::new(&**name).map_err(|_| ClusterError::Name(name.clone())))
            .collect::<Result<_, _>>()?;
        // SAFETY: numbers, and no mount point, which the library looks for then.
        let made = unsafe {
            zc.pfring_zc_create_cluster(id, settings.packet, 0, buffers, settings.node, null(), 0)
        };
        let Some(cluster) = NonNull::new(made) else {
            let cause = io::Error::last_os_error();
            return Err(ClusterError::Create { cluster: id, memory: settings.memory(), cause });
        };
        // From here on dropping it takes the cluster down again.
        let mut this = Self {
            library,
            cluster,
            devices: Vec::new(),
            queues: Vec::new(),
            multi: None,
            working: null_mut(),
            handles: Vec::new(),
            packet: settings.packet as usize,
            received: 0,
        };
        for name in &names {
            this.open(name)?;
        }
        let part = |function| {
            let cause = io::Error::last_os_error();
            ClusterError::Part { function, cluster: id, cause }
        };
        for _ in 0..settings.queues {
            let (mut queue, mut pool) = (null_mut(), null_mut());
            let (slots, buffers) = (settings.slots, settings.buffers);
            let (cluster, into) = (cluster.as_ptr(), (&raw mut queue, &raw mut pool));
            // SAFETY: the cluster is there, and so are the places for the two results.
            let code = unsafe {
                zc.pfring_zc_create_queue_pool_pair(cluster, slots, buffers, into.0, into.1)
            };
            if code < 0 || queue.is_null() {
                return Err(part("pfring_zc_create_queue_pool_pair"));
            }
            this.queues.push(queue);
        }
        if settings.copies {
            let (queues, count) = (this.queues.as_mut_ptr(), settings.queues);
            // SAFETY: `queues` are `count` queues of this cluster.
            let multi = unsafe { zc.pfring_zc_create_multi_queue(queues, count) };
            let made = NonNull::new(multi);
            this.multi = Some(made.ok_or_else(|| part("pfring_zc_create_multi_queue"))?);
        }
        // SAFETY: the cluster is there.
        let working =
            unsafe { zc.pfring_zc_create_buffer_pool(cluster.as_ptr(), WORKING_SET as u32) };
        if working.is_null() {
            return Err(part("pfring_zc_create_buffer_pool"));
        }
        this.working = working;
        for _ in 0..WORKING_SET {
            // SAFETY: the pool was just made.
            let handle = unsafe { zc.pfring_zc_get_packet_handle_from_pool(working) };
            if handle.is_null() {
                return Err(part("pfring_zc_get_packet_handle_from_pool"));
            }
            this.handles.push(handle);
        }
        Ok(this)
    }

    fn open(&mut self, name: &CString) -> Result<(), ClusterError> {
        let (cluster, mode) = (self.cluster.as_ptr(), pfring_zc_queue_mode::rx_only);
        // SAFETY: the cluster is there, and the name ends with a zero.
        let device =
            unsafe { self.library.zc.pfring_zc_open_device(cluster, name.as_ptr(), mode, 0) };
        if device.is_null() {
            let device = name.to_string_lossy().into_owned();
            return Err(ClusterError::Device { device, cause: io::Error::last_os_error() });
        }
        self.devices.push(device);
        Ok(())
    }

    /// Numbers of the queues, for consumers.
    pub fn queue_ids(&self) -> Vec<u32> {
        // SAFETY: the queues are there as long as the cluster.
        let id = |queue: &*mut _| unsafe { self.library.zc.pfring_zc_get_queue_id(*queue) };
        self.queues.iter().map(id).collect()
    }

    /// Takes at most [`WORKING_SET`] packets from a device, without waiting; what was received before and not sent is
    /// gone. Returns their number.
    ///
    /// # Errors
    /// When the library reports one.
    ///
    /// # Panics
    /// When there is no such device.
    pub fn receive(&mut self, device: usize) -> Result<usize, ReceiveError> {
        self.received = 0;
        let (device, handles) = (self.devices[device], self.handles.as_mut_ptr());
        // SAFETY: the device is open, and `handles` are as many buffers that this producer holds; the library may
        // swap them for others, which it then holds.
        let received = unsafe {
            self.library.zc.pfring_zc_recv_pkt_burst(device, handles, WORKING_SET as u32, 0)
        };
        self.received = ReceiveError::count(received, WORKING_SET)?;
        Ok(self.received)
    }

    /// The packet `index` of those received last, and the time of its arrival in nanoseconds since the epoch, 0 where
    /// the card gives none.
    ///
    /// # Panics
    /// When there is no such packet.
    pub fn packet(&mut self, index: usize) -> (&mut [u8], u64) {
        assert!(index < self.received, "packet {index} of {}", self.received);
        let handle = self.handles[index];
        // SAFETY: this producer holds the buffer and nobody else writes to it; it is as long as the cluster's packets.
        unsafe {
            let data = self.library.zc.pfring_zc_pkt_buff_data(handle, self.queues[0]);
            let length = usize::from((*handle).len).min(self.packet);
            let stamp = &(*handle).ts;
            let time = u64::from(stamp.tv_sec) * 1_000_000_000 + u64::from(stamp.tv_nsec);
            (std::slice::from_raw_parts_mut(data, length), time)
        }
    }

    /// Makes the packet `index` shorter.
    ///
    /// # Panics
    /// When there is no such packet, or it is not as long.
    pub fn truncate(&mut self, index: usize, length: usize) {
        assert!(length <= self.packet(index).0.len(), "a packet cannot grow");
        // SAFETY: this producer holds the buffer. The length fits, because the old one does.
        unsafe { (*self.handles[index]).len = length as u16 };
    }

    /// Sends the packet `index` to each queue of the mask, the first in bit 0; without `copies` in the settings the
    /// mask has one bit. With `flush` what was sent before can be seen by the consumers too. Returns the number of
    /// queues that took it; the others have counted it as dropped.
    ///
    /// # Panics
    /// When there is no such packet.
    pub fn send(&mut self, index: usize, queues: u64, flush: bool) -> u32 {
        assert!(index < self.received, "packet {index} of {}", self.received);
        let (zc, handle) = (&self.library.zc, &raw mut self.handles[index]);
        let flush = u8::from(flush);
        if let Some(multi) = self.multi {
            // SAFETY: the queues were joined above; `handle` is a buffer that this producer holds, and in its place
            // there is one afterwards.
            let copies =
                unsafe { zc.pfring_zc_send_pkt_multi(multi.as_ptr(), handle, queues, flush) };
            return u32::try_from(copies).unwrap_or(0);
        }
        let Some(queue) = self.queues.get(queues.trailing_zeros() as usize) else { return 0 };
        // SAFETY: as above, for one queue.
        let sent = unsafe { zc.pfring_zc_send_pkt(*queue, handle, flush) };
        u32::from(sent >= 0)
    }

    /// Counters of the devices and of the queues; what the library does not tell is 0.
    pub fn statistics(&self) -> (Vec<Statistics>, Vec<Statistics>) {
        // SAFETY: devices and queues are there as long as the cluster.
        let of = |queue: &*mut _| unsafe { self.library.statistics(*queue) }.unwrap_or_default();
        (self.devices.iter().map(of).collect(), self.queues.iter().map(of).collect())
    }

    /// Lets `/proc/net/pf_ring/stats` show this text, whole lines of it up to 1,023 bytes.
    pub fn show(&self, text: &str) {
        let mut fits = String::new();
        for line in text.split_inclusive('\n') {
            if fits.len() + line.len() > LONGEST_TEXT {
                break;
            }
            fits.push_str(line);
        }
        let Ok(text) = CString::new(fits) else { return };
        // The library takes a pointer to what it does not change.
        let text: *mut c_char = text.as_ptr().cast_mut();
        // SAFETY: the cluster is there, and the text ends with a zero. It is information alone, so that failing to
        // show it changes nothing.
        unsafe { self.library.zc.pfring_zc_set_proc_stats(self.cluster.as_ptr(), text) };
    }
}

impl Drop for Cluster {
    /// Gives the producer's buffers back and takes the cluster down.
    fn drop(&mut self) {
        let zc = &self.library.zc;
        // SAFETY: the buffers came from this pool or were received in exchange for such; nothing of the cluster is
        // used afterwards.
        unsafe {
            for handle in &self.handles {
                zc.pfring_zc_release_packet_handle_to_pool(self.working, *handle);
            }
            zc.pfring_zc_destroy_cluster(self.cluster.as_ptr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(devices: usize, queues: u32) -> Settings {
        Settings {
            cluster: 98,
            devices: vec!["zc:eth1".to_owned(); devices],
            queues,
            slots: 8192,
            buffers: 16,
            packet: 1536,
            node: -1,
            copies: false,
        }
    }

    #[test]
    fn a_cluster_is_sized_as_the_reference_sizes_it() {
        assert_eq!(settings(1, 4).total(), 65_608);
        assert_eq!(settings(2, 8).total(), 2 * 32_768 + 8 * (8192 + 16) + 8);
        assert_eq!(settings(1, 4).memory(), 65_608 * 1600);
    }

    #[test]
    fn refusals_name_value_and_remedy() {
        let text = |code| {
            let cause = io::Error::from_raw_os_error(code);
            ClusterError::Create { cluster: 98, memory: 65_608 * 1600, cause }.to_string()
        };
        for (code, parts) in [
            (105, ["No buffer space", "vm.nr_hugepages=51"]),
            (97, ["not supported", "modprobe pf_ring"]),
            (88, ["non-socket", "mount -t hugetlbfs"]),
            (13, ["Permission denied", "CAP_SYS_ADMIN"]),
        ] {
            for part in parts {
                assert!(text(code).contains(part), "{}", text(code));
            }
        }
    }

    #[test]
    fn received_counts_are_believed_only_as_far_as_they_are_possible() {
        assert_eq!(ReceiveError::count(0, 8), Ok(0));
        assert_eq!(ReceiveError::count(8, 8), Ok(8));
        assert_eq!(ReceiveError::count(9, 8), Err(ReceiveError::Code(9)));
        assert_eq!(ReceiveError::count(-1, 8), Err(ReceiveError::Code(-1)));
        assert_eq!(ReceiveError::count(-6, 8), Err(ReceiveError::Demo));
    }
}
