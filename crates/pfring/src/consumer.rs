//! The consumer of one queue, as the reference's detector is one (`spec/ingest.md` 4).

use std::io;
use std::ptr::NonNull;

use pfring_sys::zc::{
    pfring_zc_buffer_pool, pfring_zc_pkt_buff, pfring_zc_queue, pfring_zc_queue_mode,
};

use crate::cluster::ReceiveError;
use crate::{Library, Statistics};

/// Packets of one burst, and buffers that a consumer takes out of its pool.
pub const BURST: usize = 16;

/// Why a consumer cannot attach. It may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The queue or the pool cannot be had.
    #[error("{function} error [{cause}]: {cluster}@{queue}: {}", hint(cause))]
    Refused {
        /// Which function said so.
        function: &'static str,
        /// The cluster.
        cluster: u32,
        /// The queue, and the pool of the same number.
        queue: u32,
        /// What it said.
        cause: io::Error,
    },
    /// The pool has too few buffers.
    #[error(
        "the pool {cluster}@{queue} gave {found} of {BURST} buffers: start the balancer with -b {BURST} or more, and \
         one consumer for each queue"
    )]
    Buffers {
        /// The cluster.
        cluster: u32,
        /// The pool.
        queue: u32,
        /// Buffers that it gave.
        found: usize,
    },
}

/// What an operator should know of a refusal.
fn hint(cause: &io::Error) -> &'static str {
    /// Invalid argument.
    const EINVAL: i32 = 22;
    /// Device or resource busy.
    const EBUSY: i32 = 16;
    match cause.raw_os_error() {
        Some(EINVAL) => {
            "its balancer is not there yet, or has fewer queues (-n); queues of a second set follow those of the first"
        }
        Some(EBUSY) => {
            "another consumer has it; see the lines Status in /proc/net/pf_ring/PID-none.ID"
        }
        _ => {
            "is the balancer of the cluster running, the folder of its huge pages mounted here, and this process \
              permitted to lock memory (CAP_IPC_LOCK)?"
        }
    }
}

/// A queue and the pool of the same number, with the buffers that this consumer holds.
#[derive(Debug)]
pub struct Consumer {
    library: &'static Library,
    queue: NonNull<pfring_zc_queue>,
    pool: NonNull<pfring_zc_buffer_pool>,
    /// Empty, or just received.
    handles: [*mut pfring_zc_pkt_buff; BURST],
    /// How many of them there are: fewer only while attaching fails.
    held: usize,
}

// SAFETY: the library's handles belong to no thread; this value is their only user.
unsafe impl Send for Consumer {}

impl Consumer {
    /// Attaches to a queue of a cluster that another process has made, and takes 16 buffers from its pool.
    ///
    /// # Errors
    /// When the balancer is not ready, which goes by, or the queue cannot be had.
    pub fn attach(
        library: &'static Library,
        cluster: u32,
        queue: u32,
    ) -> Result<Self, AttachError> {
        let refused = |function| AttachError::Refused {
            function,
            cluster,
            queue,
            cause: io::Error::last_os_error(),
        };
        let (zc, number) = (&library.zc, queue);
        let mode = pfring_zc_queue_mode::rx_only;
        // SAFETY: the function takes numbers alone and returns null or a queue.
        let attached = unsafe { zc.pfring_zc_ipc_attach_queue(cluster, number, mode) };
        let queue = NonNull::new(attached).ok_or_else(|| refused("pfring_zc_ipc_attach_queue"))?;
        // SAFETY: as above, for a pool.
        let attached = unsafe { zc.pfring_zc_ipc_attach_buffer_pool(cluster, number) };
        let Some(pool) = NonNull::new(attached) else {
            let error = refused("pfring_zc_ipc_attach_buffer_pool");
            // SAFETY: the queue was attached above, and nothing else has it.
            unsafe { zc.pfring_zc_ipc_detach_queue(queue.as_ptr()) };
            return Err(error);
        };
        let handles = [std::ptr::null_mut(); BURST];
        let mut consumer = Self { library, queue, pool, handles, held: 0 };
        for found in 0..BURST {
            // SAFETY: the pool was attached above.
            let handle = unsafe { zc.pfring_zc_get_packet_handle_from_pool(pool.as_ptr()) };
            if handle.is_null() {
                // What was taken goes back with the consumer.
                return Err(AttachError::Buffers { cluster, queue: number, found });
            }
            consumer.handles[found] = handle;
            consumer.held += 1;
        }
        Ok(consumer)
    }

    /// Takes at most 16 packets, without waiting, and hands them to `each` together. Returns their number; without
    /// any `each` is not called.
    ///
    /// # Errors
    /// When the library reports one.
    pub fn burst(&mut self, each: &mut dyn FnMut(&[&[u8]])) -> Result<usize, ReceiveError> {
        let (zc, queue) = (&self.library.zc, self.queue.as_ptr());
        // SAFETY: the queue is attached, and `handles` has 16 buffers that this consumer holds; the library may swap
        // them for others, which it then holds.
        let received = unsafe {
            zc.pfring_zc_recv_pkt_burst(queue, self.handles.as_mut_ptr(), BURST as u32, 0)
        };
        let count = ReceiveError::count(received, BURST)?;
        let mut packets = [&[][..]; BURST];
        for (packet, handle) in packets.iter_mut().zip(&self.handles[..count]) {
            // SAFETY: the handle was just received from this queue, so its buffer is there with `len` bytes, which
            // nobody else writes to while this consumer holds it. `len` counts what was captured.
            *packet = unsafe {
                let data = zc.pfring_zc_pkt_buff_data(*handle, queue);
                std::slice::from_raw_parts(data, usize::from((**handle).len))
            };
        }
        if count > 0 {
            each(&packets[..count]);
        }
        Ok(count)
    }

    /// Counters of the queue; `None` when the library does not tell.
    pub fn statistics(&self) -> Option<Statistics> {
        // SAFETY: the queue is attached.
        unsafe { self.library.statistics(self.queue.as_ptr()) }
    }
}

impl Drop for Consumer {
    /// Ends receiving, gives the buffers back, and detaches: in this order.
    fn drop(&mut self) {
        let (zc, queue, pool) = (&self.library.zc, self.queue.as_ptr(), self.pool.as_ptr());
        // SAFETY: queue and pool are attached, the buffers came from this pool or were received in exchange for such,
        // and nothing is used afterwards.
        unsafe {
            zc.pfring_zc_queue_breakloop(queue);
            for handle in &self.handles[..self.held] {
                zc.pfring_zc_release_packet_handle_to_pool(pool, *handle);
            }
            zc.pfring_zc_ipc_detach_queue(queue);
            zc.pfring_zc_ipc_detach_buffer_pool(pool);
        }
    }
}
