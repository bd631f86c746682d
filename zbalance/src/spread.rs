//! Where a frame goes: which are taken at all, their hash, their queues, and what is sent of them.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use capture::{Reception, Sorting};
use packet::distribution::{Mode, Spreader, Target, VlanMap, address_hash, frame_hash};
use packet::hash::{SymmetricHash, queue};
use packet::{ETHERTYPE_VLAN, tunnel};
use shm::{FrameFlags, Meta, Producer};

use crate::filters::Filters;
use crate::input::Arrival;

/// How the frames of all inputs are spread.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// The mode (`-m`).
    pub mode: Mode,
    /// Queues of each set.
    pub sets: Vec<u32>,
    /// The hash, the same for all threads.
    pub hash: SymmetricHash,
    /// VLANs with a queue each, in the mode that has them.
    pub map: Option<VlanMap>,
    /// Send what is inside tunnels, without their headers.
    pub decapsulate: bool,
    /// Which frames are spread, and to which queues; a reload replaces it.
    pub filters: Arc<ArcSwap<Filters>>,
}

impl Distribution {
    /// Every frame goes to one queue of the only set, by its outermost addresses, and as it came.
    fn is_plain(&self) -> bool {
        self.mode == Mode::Ip && self.sets.len() == 1 && self.map.is_none() && !self.decapsulate
    }

    /// What the kernel may do of it with `sockets` sockets, when it is plain.
    pub fn sorting(&self, sockets: u32) -> Option<Sorting> {
        self.is_plain().then(|| Sorting { hash: self.hash, queues: self.sets[0], sockets })
    }
}

/// Spreads the frames of one input.
#[derive(Debug)]
pub struct Spread {
    distribution: Distribution,
    /// The present filters, looked up for each frame at the cost of one load.
    filters: Cache<Arc<ArcSwap<Filters>>, Arc<Filters>>,
    interface: u16,
    sets: Sets,
    /// Queues of the only set, when nothing but the addresses of a frame and filters decide over it.
    plain: Option<u32>,
    /// A frame that is not sent as it came.
    changed: Vec<u8>,
}

/// Where one frame goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    hash: u32,
    /// Queues, one bit each.
    pub(crate) targets: u64,
    /// Its EtherType becomes that of a VLAN tag.
    pub(crate) retag: bool,
}

impl Spread {
    /// Spreads the frames of the input with this number.
    pub fn new(distribution: Distribution, interface: u16) -> Self {
        let sets = Sets::new(distribution.mode, &distribution.sets);
        let filters = Cache::new(Arc::clone(&distribution.filters));
        let plain = distribution.is_plain().then(|| distribution.sets[0]);
        Self { distribution, filters, interface, sets, plain, changed: Vec::new() }
    }

    /// The way of a frame of `len` bytes that begins with `head`; `None` when a filter keeps it from all its
    /// queues.
    #[inline]
    pub(crate) fn way(&mut self, head: &[u8], len: usize) -> Option<Way> {
        let filters = self.filters.load();
        if !filters.takes(head, len) {
            return None;
        }
        let Distribution { mode, hash, map, .. } = &self.distribution;
        let (hash, retag) = match map {
            None => (frame_hash(*mode, hash, head), false),
            Some(map) => map.place(head).unwrap_or((u32::MAX, false)),
        };
        let wanted = self.sets.targets(hash, self.interface);
        let targets = filters.targets(wanted, head, len);
        (targets != 0 || wanted == 0).then_some(Way { hash, targets, retag })
    }

    /// Frames have to be looked at even when their queue is known: a filter decides over them, or somebody wants to
    /// know their times.
    #[inline]
    pub fn reads(&mut self, producer: &Producer) -> bool {
        producer.describes() || !self.filters.load().is_empty()
    }

    /// Sends a frame to its queues; false when the filters let none of them have it. `reads` is what [`Self::reads`]
    /// says, which need not be asked for every frame of a burst.
    #[inline]
    pub fn send(&mut self, arrival: Arrival<'_>, producer: &mut Producer, reads: bool) -> bool {
        match arrival {
            Arrival::Copied(frame) => {
                let mut meta = Meta { interface: self.interface, ..Meta::default() };
                if frame.truncated {
                    meta.flags |= FrameFlags::TRUNCATED;
                }
                if frame.checksum_incomplete {
                    meta.flags |= FrameFlags::CHECKSUM_INCOMPLETE;
                }
                // The usual case.
                if let Some(queues) = self.plain
                    && !reads
                {
                    let hash = address_hash(&self.distribution.hash, frame.data);
                    producer.send(frame.data, &meta, 1 << queue(hash, queues));
                    return true;
                }
                // By reference here and below: moving it reads at once what was written in parts, which the
                // processor does only after everything written before, frames that miss the cache too.
                let way = &self.way(frame.data, frame.data.len());
                let Some(way) = way else { return false };
                if producer.describes() {
                    (meta.timestamp, meta.hash) = (Some(frame.timestamp), Some(way.hash));
                }
                self.copy(frame.data, way, &meta, producer);
            }
            Arrival::InPlace(pieces, Reception { queue: Some(queue), .. }) if !reads => {
                // Neither the frame nor what stands before it is touched: both would have to come from the processor
                // that the kernel received on.
                let meta = Meta { interface: self.interface, ..Meta::default() };
                producer.send_lent(pieces, &meta, 1 << queue);
            }
            Arrival::InPlace(pieces, Reception { timestamp, .. }) => {
                let head = pieces.first().map_or(&[][..], |piece| producer.bytes(piece));
                let len = pieces.iter().map(|piece| piece.len as usize).sum();
                let way = &self.way(head, len);
                let Some(way) = way else { return false };
                if way.retag || self.distribution.decapsulate {
                    let whole: Vec<u8> =
                        pieces.iter().flat_map(|piece| producer.bytes(piece)).copied().collect();
                    self.copy(&whole, way, &self.meta(way, *timestamp), producer);
                } else {
                    let targets = producer.mirrored(way.targets);
                    producer.send_lent(pieces, &self.meta(way, *timestamp), targets);
                }
            }
        }
        true
    }

    /// What goes with a frame to its queues.
    #[inline]
    const fn meta(&self, way: &Way, timestamp: u64) -> Meta {
        let (timestamp, hash) = (Some(timestamp), Some(way.hash));
        Meta { timestamp, hash, flags: 0, interface: self.interface }
    }

    #[inline]
    fn copy(&mut self, frame: &[u8], way: &Way, meta: &Meta, producer: &mut Producer) {
        let bytes = if way.retag || self.distribution.decapsulate {
            self.change(frame, way.retag)
        } else {
            frame
        };
        producer.send(bytes, meta, producer.mirrored(way.targets));
    }

    /// What is sent of a frame that may not be sent as it came.
    #[cold]
    fn change<'a>(&'a mut self, frame: &'a [u8], retag: bool) -> &'a [u8] {
        if retag {
            self.changed.clear();
            self.changed.extend_from_slice(frame);
            self.changed[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        } else if let Some(bare) = tunnel::bare(frame) {
            bare.write(frame, &mut self.changed);
        } else {
            return frame;
        }
        &self.changed
    }
}

/// The queue sets, each with its place among all queues.
#[derive(Debug)]
struct Sets(Vec<(u32, u64, Spreader)>);

impl Sets {
    fn new(mode: Mode, sizes: &[u32]) -> Self {
        let mut first = 0;
        let set = |size: &u32| {
            let every = (u64::MAX >> (64 - size.clamp(&1, &64))) << first;
            let set = (first, every, Spreader::new(mode, *size));
            first += size;
            set
        };
        Self(sizes.iter().map(set).collect())
    }

    /// Queues of a frame, one bit each: one target in every set.
    #[inline]
    fn targets(&mut self, hash: u32, interface: u16) -> u64 {
        let mut targets = 0;
        for (first, every, spreader) in &mut self.0 {
            targets |= match spreader.target(hash, interface) {
                Target::One(queue) => 1 << (*first + queue),
                Target::Every => *every,
                Target::FirstAnd(queue) => 1 << *first | 1 << (*first + queue),
                Target::Nobody => 0,
            };
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_gets_each_frame_once() {
        let mut sets = Sets::new(Mode::Ip, &[2, 3]);
        for hash in (0..u32::MAX).step_by(99_999_989) {
            let targets = sets.targets(hash, 0);
            assert_eq!((targets & 0b11).count_ones(), 1);
            assert_eq!((targets >> 2).count_ones(), 1);
            assert!(targets < 1 << 5);
        }
        assert_eq!(Sets::new(Mode::All, &[2, 3]).targets(0, 0), 0b11111);
        assert_eq!(Sets::new(Mode::All, &[64]).targets(0, 0), u64::MAX);
        let mut all_rr = Sets::new(Mode::AllRoundRobin, &[3]);
        assert_eq!((all_rr.targets(0, 0), all_rr.targets(0, 0)), (0b011, 0b101));
    }
}
