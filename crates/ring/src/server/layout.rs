//! How a balancer's queues are laid out, and the memory that this takes.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use crate::abi::MAX_QUEUES;
use crate::error::ServerError;
use crate::frames::{CELL, OwnedFrames};
use crate::lending::Memory;

/// Mirrors that can be read at one time.
const MIRRORS: usize = 2;
/// Descriptors of a mirror's ring, where queues have no fewer.
const MIRROR_SLOTS: u32 = 2048;

/// How a balancer's queues are laid out.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Folder of the control socket (`CJ_IPC_DIR`).
    pub dir: PathBuf,
    /// Cluster number.
    pub cluster: u32,
    /// Number of queues of each set; queue ids count through all sets.
    pub sets: Vec<u32>,
    /// Descriptors per ring, a power of two.
    pub slots: u32,
    /// Ingest threads.
    pub producers: u32,
    /// Frames per ingest thread beyond those that queues can hold.
    pub working_set: u32,
    /// Size of a frame in bytes, a power of two.
    pub frame_size: u32,
    /// Bytes kept free before a packet.
    pub head_room: u32,
    /// Group whose members may attach, besides root and our own user.
    pub group: Option<u32>,
}

impl ServerOptions {
    /// The defaults for `sets` of queues of `cluster`: 8192 slots, one thread, frames of 2048 bytes.
    pub fn new(dir: PathBuf, cluster: u32, sets: Vec<u32>) -> Self {
        Self {
            dir,
            cluster,
            sets,
            slots: 8192,
            producers: 1,
            working_set: 4096,
            frame_size: 2048,
            head_room: 64,
            group: None,
        }
    }

    /// Number of queues over all sets.
    pub fn queues(&self) -> usize {
        self.sets.iter().map(|n| *n as usize).sum()
    }

    /// Number of mirrors that can be read at one time: two, or what ids of queues leave.
    pub fn mirrors(&self) -> usize {
        MIRRORS.min(MAX_QUEUES.saturating_sub(self.queues()))
    }

    /// Descriptors of the ring with this number; those of mirrors follow those of queues.
    pub(super) fn slots_of(&self, ring: usize) -> u32 {
        if ring < self.queues() { self.slots } else { self.slots.min(MIRROR_SLOTS) }
    }

    /// Frames that one ingest thread needs: a stalled consumer must never starve the input, so every
    /// queue and every mirror may hold a full ring (`spec/ingest.md` 10.4).
    pub(super) fn frames_per_producer(&self) -> u64 {
        let rings = self.queues() + self.mirrors();
        (0..rings).map(|ring| u64::from(self.slots_of(ring))).sum::<u64>()
            + u64::from(self.working_set.max(64).next_multiple_of(2))
    }

    /// Length of the frames region in bytes: the frames of every ingest thread, and behind them all their cells.
    pub(super) fn frames_len(&self) -> u64 {
        let frames = self.frames_per_producer() * u64::from(self.producers);
        let cells = (frames * CELL).next_multiple_of(u64::from(self.frame_size));
        frames * u64::from(self.frame_size) + cells
    }

    pub(super) fn set_of(&self, queue: usize) -> u32 {
        let mut first = 0;
        for (set, len) in self.sets.iter().enumerate() {
            first += *len as usize;
            if queue < first {
                return set as u32;
            }
        }
        0
    }
}

/// The frames of a balancer that is yet to be: for sources that need their memory before there are queues.
#[derive(Debug)]
pub struct Region {
    pub(super) frames: Arc<OwnedFrames>,
    per_thread: u32,
    frame_size: u32,
}

impl Region {
    /// Makes the frames that a server with these options has.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn new(options: &ServerOptions) -> Result<Self, ServerError> {
        let per_thread = options.frames_per_producer();
        let len = usize::try_from(options.frames_len()).unwrap_or(usize::MAX);
        let failed =
            |e: Errno| ServerError::Memory { what: "packet frames", len, source: e.into() };
        Ok(Self {
            frames: Arc::new(OwnedFrames::new(len).map_err(failed)?),
            per_thread: u32::try_from(per_thread).unwrap_or(u32::MAX),
            frame_size: options.frame_size,
        })
    }

    /// The memory of the ingest thread with this number.
    ///
    /// # Panics
    /// When there is no such thread.
    pub fn memory(&self, thread: u32) -> Memory {
        let len = self.per_thread as usize * self.frame_size as usize;
        let first = len * thread as usize;
        assert!(first + len <= self.frames.len(), "no ingest thread {thread}");
        Memory { frames: Arc::clone(&self.frames), first, len, frame_size: self.frame_size }
    }
}
