//! The balancer's control side: attaches consumers, watches them, tells about them.

mod door;
mod fast_path;
mod holder;
mod layout;
mod socket;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use self::fast_path::Offer;
use self::holder::Holder;
pub use self::layout::{Region, ServerOptions};
use self::socket::{listen, take_lock, timespec, write_pid};
use crate::abi::{self, Header, state};
use crate::clock::coarse_now;
use crate::error::ServerError;
use crate::frames::{CELL, OwnedFrames};
use crate::producer::{Command, Producer, Share, bits};
use crate::status::{MirrorStatus, QueueCounters, QueueStatus};

/// Age of the heartbeat from which a consumer with a full ring counts as hung.
const HUNG_AFTER_NS: u64 = 2_000_000_000;

/// Something that happened to a queue or a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A consumer attached.
    Attached {
        /// Global queue id.
        queue: u32,
        /// Its process id; 0 from another PID namespace.
        pid: u32,
        /// How many consumers the queue has had.
        generation: u64,
    },
    /// The consumer went away; what it held was taken back.
    Detached {
        /// Global queue id.
        queue: u32,
        /// Its process id.
        pid: u32,
        /// It broke the rules of the ring and was sent away.
        corrupt: bool,
    },
    /// The consumer has a full ring and gave no sign of life for two seconds. Said once.
    Hung {
        /// Global queue id.
        queue: u32,
        /// Its process id.
        pid: u32,
    },
    /// A hung consumer reads again.
    Recovered {
        /// Global queue id.
        queue: u32,
        /// Its process id.
        pid: u32,
    },
    /// Somebody sees the packets of queues from now on.
    Mirrored {
        /// Its process id; 0 from another PID namespace.
        pid: u32,
        /// Global ids of the queues.
        queues: Vec<u32>,
    },
    /// The reader of a mirror went away.
    MirrorEnded {
        /// Its process id.
        pid: u32,
        /// It broke the rules of the ring and was sent away.
        corrupt: bool,
    },
    /// Somebody was refused, with the text that it was given.
    Refused {
        /// Its process id.
        pid: u32,
        /// Why.
        text: String,
    },
}

/// What a consumer did not read before its queue was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    /// Global queue id.
    pub queue: u32,
    /// The consumer's process id; 0 from another PID namespace.
    pub pid: u32,
    /// Descriptors, of which a long packet has several.
    pub descriptors: u64,
}

#[derive(Debug, Default)]
struct Slot {
    holder: Option<Holder>,
    generation: u64,
    /// Packets that earlier consumers processed.
    processed: u64,
}

#[derive(Debug)]
struct Thread {
    counters: Arc<[QueueCounters]>,
    commands: Sender<Command>,
    pending: Arc<AtomicBool>,
}

/// The control socket and everything behind it.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    instance: [u8; 16],
    /// Held as long as the server lives; the kernel lets go when the last holder dies.
    lock: std::fs::File,
    path: PathBuf,
    listener: OwnedFd,
    frames: Arc<OwnedFrames>,
    frames_len: u64,
    /// The queues, then the mirrors.
    slots: Vec<Slot>,
    threads: Vec<Thread>,
    strangers: Vec<(OwnedFd, Instant)>,
    monitors: Vec<OwnedFd>,
    fast_path: Offer,
    draining: bool,
    /// A successor has the control socket.
    left: bool,
}

/// What makes a process the balancer of its cluster: its lock and its control socket.
#[derive(Debug)]
pub struct Claim {
    /// The lock file, locked.
    pub lock: OwnedFd,
    /// The listening socket.
    pub listener: OwnedFd,
}

impl Server {
    /// Makes the frames region and the control socket; returns one producer per ingest thread.
    ///
    /// `instance` is a random number that tells this start of the balancer from others.
    ///
    /// # Errors
    /// [`ServerError::InUse`] when a living balancer holds the cluster; what a dead one left behind
    /// is replaced.
    pub fn bind(
        options: ServerOptions,
        instance: [u8; 16],
    ) -> Result<(Self, Vec<Producer>), ServerError> {
        Self::succeed(options, instance, None, None)
    }

    /// As [`Server::bind`], with the `claim` of a predecessor, whose lock covers both processes and whose
    /// control socket goes on with the connections that wait in it; and with a `region` that was made for
    /// the same options.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn succeed(
        options: ServerOptions,
        instance: [u8; 16],
        claim: Option<Claim>,
        region: Option<Region>,
    ) -> Result<(Self, Vec<Producer>), ServerError> {
        let queues = options.queues();
        if queues == 0 || queues > abi::MAX_QUEUES {
            return Err(ServerError::TooManyQueues(queues));
        }
        let rings = queues + options.mirrors();
        let per_thread = options.frames_per_producer();
        let frames_len = options.frames_len();
        let first_cell = per_thread * u64::from(options.producers) * u64::from(options.frame_size);
        header_of(&options, instance, 0, frames_len).check()?;
        let path = crate::socket_path(&options.dir, options.cluster);
        let (lock, listener) = match claim {
            Some(Claim { lock, listener }) => {
                let mut lock = std::fs::File::from(lock);
                // The number only makes messages better.
                let _ = write_pid(&mut lock);
                (lock, listener)
            }
            None => (take_lock(&options)?, listen(&path, options.group)?),
        };
        let region = match region {
            Some(region) if region.frames.len() as u64 == frames_len => region,
            _ => Region::new(&options)?,
        };
        let frames = region.frames;
        let mut threads = Vec::new();
        let mut producers = Vec::new();
        for index in 0..options.producers {
            let counters: Arc<[QueueCounters]> =
                (0..rings).map(|_| QueueCounters::default()).collect();
            let (commands, inbox) = std::sync::mpsc::channel();
            let pending = Arc::new(AtomicBool::new(false));
            let share = Share {
                index,
                first_frame: u64::from(index) * per_thread,
                cells: first_cell + u64::from(index) * per_thread * CELL,
                frames: u32::try_from(per_thread).unwrap_or(u32::MAX),
                spare: options.working_set,
                frame_size: options.frame_size,
                head_room: options.head_room,
            };
            producers.push(Producer::new(
                frames.clone(),
                share,
                counters.clone(),
                inbox,
                pending.clone(),
            ));
            threads.push(Thread { counters, commands, pending });
        }
        let server = Self {
            instance,
            lock,
            path,
            listener,
            frames,
            frames_len,
            slots: (0..rings).map(|_| Slot::default()).collect(),
            threads,
            strangers: Vec::new(),
            monitors: Vec::new(),
            fast_path: Offer::default(),
            draining: false,
            left: false,
            options,
        };
        Ok((server, producers))
    }

    /// Copies of what makes this process the balancer, for a successor.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn claim(&self) -> std::io::Result<Claim> {
        let (lock, listener) = (self.lock.as_fd(), self.listener.as_fd());
        Ok(Claim { lock: lock.try_clone_to_owned()?, listener: listener.try_clone_to_owned()? })
    }

    /// Leaves the control socket to a successor, or takes it back: consumers that come now are the
    /// successor's.
    pub fn leave(&mut self, left: bool) {
        self.left = left;
    }

    /// Gives this table of the kernel fast path to detectors that ask for it from now on. Flows pass into the
    /// network namespace of this process.
    pub fn offer_fast_path(&mut self, table: OwnedFd) {
        self.fast_path.table = Some(table);
    }

    /// The control socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of shared memory for frames.
    pub const fn frames_len(&self) -> u64 {
        self.frames_len
    }

    /// Serves the control socket for at most `timeout` and reports what happened.
    ///
    /// `snapshot` makes the JSON text that a monitor gets for each datagram it sends.
    pub fn poll(
        &mut self,
        timeout: Duration,
        snapshot: &mut dyn FnMut(&[QueueStatus]) -> String,
    ) -> Vec<Event> {
        self.wait(timeout);
        let mut events = Vec::new();
        self.reap(&mut events);
        self.watch(&mut events);
        self.accept();
        self.greet(&mut events);
        self.answer_monitors(snapshot);
        events
    }

    /// State and counters of every queue.
    pub fn queues(&self) -> Vec<QueueStatus> {
        (0..self.options.queues()).map(|q| self.status(q)).collect()
    }

    /// The mirrors that have a reader.
    pub fn mirrors(&self) -> Vec<MirrorStatus> {
        let read = |(ring, slot): (usize, &Slot)| {
            let holder = slot.holder.as_ref()?;
            let status = self.status(ring);
            Some(MirrorStatus {
                pid: holder.peer.pid,
                queues: bits(holder.watched).map(|queue| queue as u32).collect(),
                enqueued: status.enqueued,
                dropped: status.dropped(),
            })
        };
        self.slots.iter().enumerate().skip(self.options.queues()).filter_map(read).collect()
    }

    /// Lets consumers read what is queued, for at most `limit` and as long as one of those that have something
    /// to read does so within every `pause`; then closes the queues. Returns what was left unread.
    ///
    /// Call it when the producers send no more.
    pub fn drain(&mut self, limit: Duration, pause: Duration) -> Vec<Unread> {
        self.draining = true;
        self.set_state(state::DRAINING);
        let (begun, mut left) = (Instant::now(), self.unread());
        let mut moved = begun;
        while !left.is_empty() && begun.elapsed() < limit && moved.elapsed() < pause {
            std::thread::sleep(Duration::from_millis(1));
            let now = self.unread();
            if now != left {
                (left, moved) = (now, Instant::now());
            }
        }
        self.set_state(state::CLOSED);
        left
    }

    /// What consumers of queues have not read; nobody waits for who only looks on.
    fn unread(&self) -> Vec<Unread> {
        let of = |(queue, slot): (usize, &Slot)| {
            let holder = slot.holder.as_ref().filter(|holder| !holder.is_drained())?;
            let (queue, pid) = (queue as u32, holder.peer.pid);
            Some(Unread { queue, pid, descriptors: holder.backlog() })
        };
        self.slots[..self.options.queues()].iter().enumerate().filter_map(of).collect()
    }

    fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.slots.iter().filter_map(|s| s.holder.as_ref())
    }

    fn set_state(&self, state: u32) {
        for holder in self.holders() {
            holder.map.state().store(state, Ordering::SeqCst);
            holder.map.wake();
        }
    }

    /// Sleeps until something happens on any descriptor.
    fn wait(&self, timeout: Duration) {
        let mut fds = Vec::new();
        if !self.left {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for holder in self.holders() {
            fds.push(PollFd::new(&holder.socket, PollFlags::IN));
            if let Some(pidfd) = &holder.peer.pidfd {
                fds.push(PollFd::new(pidfd, PollFlags::IN));
            }
        }
        let others = self.strangers.iter().map(|s| &s.0).chain(&self.monitors);
        let others = others.chain(&self.fast_path.connections);
        fds.extend(others.map(|fd| PollFd::new(fd, PollFlags::IN)));
        // An interruption or failure only means that we look at everything earlier.
        let _ = rustix::event::poll(&mut fds, timespec(timeout).as_ref());
    }

    /// Detaches consumers that are gone or broke the rules.
    fn reap(&mut self, events: &mut Vec<Event>) {
        self.fast_path.reap();
        for queue in 0..self.slots.len() {
            if let Some(holder) = &mut self.slots[queue].holder {
                holder.notice_succession();
            }
            let corrupt =
                self.threads.iter().any(|t| t.counters[queue].corrupt.load(Ordering::Relaxed));
            let gone = self.slots[queue].holder.as_ref().is_some_and(Holder::is_gone);
            if gone || corrupt {
                self.detach(queue, corrupt, events);
            }
        }
    }

    fn detach(&mut self, queue: usize, corrupt: bool, events: &mut Vec<Event>) {
        for thread in &self.threads {
            thread.counters[queue].corrupt.store(false, Ordering::Relaxed);
        }
        self.command(|| Command::Detach(queue));
        // As far as it is possible, before its own number goes away.
        let processed = self.status(queue).processed;
        let slot = &mut self.slots[queue];
        if let Some(holder) = slot.holder.take() {
            holder.map.state().store(state::CLOSED, Ordering::SeqCst);
            holder.map.wake();
            slot.processed = processed;
            let pid = holder.peer.pid;
            events.push(if queue < self.options.queues() {
                Event::Detached { queue: queue as u32, pid, corrupt }
            } else {
                Event::MirrorEnded { pid, corrupt }
            });
        }
    }

    fn command(&self, make: impl Fn() -> Command) {
        for thread in &self.threads {
            // A producer that is gone needs no commands.
            let _ = thread.commands.send(make());
            thread.pending.store(true, Ordering::SeqCst);
        }
    }

    /// Notices consumers that hang and those that go on.
    fn watch(&mut self, events: &mut Vec<Event>) {
        let now = coarse_now();
        let slots = u64::from(self.options.slots);
        for (queue, slot) in self.slots[..self.options.queues()].iter_mut().enumerate() {
            let Some(holder) = &mut slot.holder else {
                continue;
            };
            let full = self
                .threads
                .iter()
                .any(|t| t.counters[queue].outstanding.load(Ordering::Relaxed) >= slots)
                || holder.backlog() >= slots;
            let hung = full && holder.heartbeat_age(now) > HUNG_AFTER_NS;
            if hung != holder.hung {
                holder.hung = hung;
                let (queue, pid) = (queue as u32, holder.peer.pid);
                events.push(if hung {
                    Event::Hung { queue, pid }
                } else {
                    Event::Recovered { queue, pid }
                });
            }
        }
    }

    fn status(&self, queue: usize) -> QueueStatus {
        let slot = &self.slots[queue];
        let sum = |read: fn(&QueueCounters) -> &std::sync::atomic::AtomicU64| {
            self.threads
                .iter()
                .map(|t| read(&t.counters[queue]).load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let enqueued = sum(|c| &c.enqueued);
        let holder = slot.holder.as_ref();
        // The consumer writes this number; believe it only as far as it is possible.
        let processed =
            slot.processed.saturating_add(holder.map_or(0, Holder::processed)).min(enqueued);
        QueueStatus {
            queue: queue as u32,
            set: self.options.set_of(queue),
            consumer: holder.map(|h| h.peer.pid),
            generation: slot.generation,
            enqueued,
            dropped_full: sum(|c| &c.dropped_full),
            dropped_quota: sum(|c| &c.dropped_quota),
            no_consumer: sum(|c| &c.no_consumer),
            no_frame: sum(|c| &c.no_frame),
            outstanding: sum(|c| &c.outstanding),
            processed,
            bad_returns: sum(|c| &c.bad_returns),
            wakes: holder.map_or(0, |h| h.map.wakes().load(Ordering::Relaxed)),
            heartbeat_age_ms: holder.map(|h| h.heartbeat_age(coarse_now()) / 1_000_000),
            hung: holder.is_some_and(|h| h.hung),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.set_state(state::CLOSED);
        if !self.left {
            // The lock still keeps successors away, so the file is ours.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn header_of(options: &ServerOptions, instance: [u8; 16], queue: u32, frames_len: u64) -> Header {
    Header {
        instance,
        cluster: options.cluster,
        queue,
        producers: options.producers,
        slots: options.slots_of(queue as usize),
        frames_len,
        frame_size: options.frame_size,
        head_room: options.head_room,
        link_type: 1,
        features: 0,
    }
}
