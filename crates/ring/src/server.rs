//! The balancer's control side: attaches consumers, watches them, tells about them.

use std::io::{Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::abi::{self, Header, ring, state};
use crate::clock::coarse_now;
use crate::error::ServerError;
use crate::frames::OwnedFrames;
use crate::handshake::{ABI, ANY_SET, Answer, Hello, MAX_MESSAGE, Refusal, Role};
use crate::lending::Memory;
use crate::peer::Peer;
use crate::producer::{Command, Producer, Share};
use crate::queue::{QueueMap, Ring};
use crate::status::{QueueCounters, QueueStatus};

/// Connections that have not said what they are, at most.
const MAX_STRANGERS: usize = 32;
/// Monitors at most.
const MAX_MONITORS: usize = 32;
/// Time in which a connection must say HELLO.
const HELLO_LIMIT: Duration = Duration::from_secs(1);
/// Age of the heartbeat from which a consumer with a full ring counts as hung.
const HUNG_AFTER_NS: u64 = 2_000_000_000;
/// Time that a predecessor which was killed may take to disappear.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

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

    /// Frames that one ingest thread needs: a stalled consumer must never starve the input, so every
    /// queue may hold a full ring (`spec/ingest.md` 10.4).
    fn frames_per_producer(&self) -> u64 {
        self.queues() as u64 * u64::from(self.slots)
            + u64::from(self.working_set.max(64).next_multiple_of(2))
    }

    fn set_of(&self, queue: usize) -> u32 {
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

/// Something that happened to a queue.
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
    /// Somebody was refused, with the text that it was given.
    Refused {
        /// Its process id.
        pid: u32,
        /// Why.
        text: String,
    },
}

/// A consumer that holds a queue.
#[derive(Debug)]
struct Holder {
    socket: OwnedFd,
    peer: Peer,
    map: Arc<QueueMap>,
    rings: Vec<Ring>,
    hung: bool,
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
    slots: Vec<Slot>,
    threads: Vec<Thread>,
    strangers: Vec<(OwnedFd, Instant)>,
    monitors: Vec<OwnedFd>,
    draining: bool,
    /// A successor has the control socket.
    left: bool,
}

/// The frames of a balancer that is yet to be: for sources that need their memory before there are queues.
#[derive(Debug)]
pub struct Region {
    frames: Arc<OwnedFrames>,
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
        let bytes = per_thread * u64::from(options.producers) * u64::from(options.frame_size);
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
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
        let per_thread = options.frames_per_producer();
        let frames_len = per_thread * u64::from(options.producers) * u64::from(options.frame_size);
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
                (0..queues).map(|_| QueueCounters::default()).collect();
            let (commands, inbox) = std::sync::mpsc::channel();
            let pending = Arc::new(AtomicBool::new(false));
            let share = Share {
                index,
                first_frame: u64::from(index) * per_thread,
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
            slots: (0..queues).map(|_| Slot::default()).collect(),
            threads,
            strangers: Vec::new(),
            monitors: Vec::new(),
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
        (0..self.slots.len()).map(|q| self.status(q)).collect()
    }

    /// Lets consumers read what is queued, for at most `limit`, then closes the queues.
    ///
    /// Call it when the producers send no more.
    pub fn drain(&mut self, limit: Duration) {
        self.draining = true;
        self.set_state(state::DRAINING);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !self.holders().all(Holder::is_drained) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.set_state(state::CLOSED);
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
        fds.extend(others.map(|fd| PollFd::new(fd, PollFlags::IN)));
        // An interruption or failure only means that we look at everything earlier.
        let _ = rustix::event::poll(&mut fds, timespec(timeout).as_ref());
    }

    /// Detaches consumers that are gone or broke the rules.
    fn reap(&mut self, events: &mut Vec<Event>) {
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
            events.push(Event::Detached { queue: queue as u32, pid: holder.peer.pid, corrupt });
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
        for (queue, slot) in self.slots.iter_mut().enumerate() {
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

    fn accept(&mut self) {
        if self.left {
            return;
        }
        while let Ok(socket) =
            rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            if self.strangers.len() >= MAX_STRANGERS {
                self.strangers.remove(0);
            }
            self.strangers.push((socket, Instant::now() + HELLO_LIMIT));
        }
    }

    /// Hears what new connections want.
    fn greet(&mut self, events: &mut Vec<Event>) {
        for (socket, deadline) in std::mem::take(&mut self.strangers) {
            let mut buffer = [0; MAX_MESSAGE];
            match receive(socket.as_fd(), &mut buffer) {
                Ok(len) => self.hello(socket, &buffer[..len], events),
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    self.strangers.push((socket, deadline));
                }
                Err(_) => {}
            }
        }
    }

    fn hello(&mut self, socket: OwnedFd, message: &[u8], events: &mut Vec<Event>) {
        let (Some(hello), Ok(peer)) = (Hello::decode(message), Peer::of(socket.as_fd())) else {
            return;
        };
        let pid = peer.pid;
        let result = match hello.role {
            _ if !peer.is_permitted(self.options.group) => Err(Answer::refuse(
                Refusal::NotPermitted,
                0,
                format!("user {} may not attach", peer.uid),
            )),
            _ if hello.min_abi > ABI || hello.abi < ABI => Err(Answer::refuse(
                Refusal::Version,
                0,
                format!("this zbalance speaks version {ABI}"),
            )),
            Role::Monitor if self.monitors.len() < MAX_MONITORS => {
                if send(socket.as_fd(), &Answer::Monitor.encode(), &[]).is_ok() {
                    self.monitors.push(socket);
                }
                return;
            }
            Role::Monitor => return,
            Role::Consumer => self.attach(&hello, events),
        };
        match result {
            Err(refusal) => {
                // The peer may be gone already; then nobody needs the answer.
                let _ = send(socket.as_fd(), &refusal.encode(), &[]);
                if let Answer::Refused { text, .. } = refusal {
                    events.push(Event::Refused { pid, text });
                }
            }
            Ok((map, fd)) => self.admit(socket, peer, hello.queue, (map, fd), events),
        }
    }

    /// Checks that the queue is to be had and makes a fresh region for it: a previous consumer may
    /// be alive and still have the old one mapped.
    fn attach(
        &mut self,
        hello: &Hello,
        events: &mut Vec<Event>,
    ) -> Result<(Arc<QueueMap>, OwnedFd), Answer> {
        let queue = usize::from(hello.queue);
        if self.draining {
            return Err(Answer::refuse(Refusal::Draining, 0, "zbalance is stopping".into()));
        }
        if queue >= self.slots.len() {
            let text = format!(
                "queue {queue} of cluster {} does not exist; it has queues 0 to {}",
                self.options.cluster,
                self.slots.len() - 1
            );
            return Err(Answer::refuse(Refusal::NoSuchQueue, 0, text));
        }
        let set = self.options.set_of(queue);
        if hello.set != ANY_SET && u32::from(hello.set) != set {
            let text = format!("queue {queue} belongs to set {set}, not {}", hello.set);
            return Err(Answer::refuse(Refusal::NoSuchQueue, 0, text));
        }
        if let Some(holder) = &self.slots[queue].holder {
            if !holder.is_gone() {
                let pid = holder.peer.pid;
                let text = format!("queue {queue} is held by process {pid}");
                return Err(Answer::refuse(Refusal::Busy, pid, text));
            }
            self.detach(queue, false, events);
        }
        let header = header_of(&self.options, self.instance, queue as u32, self.frames_len);
        let (fd, map) = QueueMap::create(header, self.slots[queue].generation + 1)
            .map_err(|e| Answer::refuse(Refusal::Busy, 0, format!("no memory for queue: {e}")))?;
        map.consumer_heartbeat().store(coarse_now(), Ordering::Relaxed);
        Ok((map, fd))
    }

    fn admit(
        &mut self,
        socket: OwnedFd,
        peer: Peer,
        queue: u16,
        (map, fd): (Arc<QueueMap>, OwnedFd),
        events: &mut Vec<Event>,
    ) {
        let index = usize::from(queue);
        let generation = self.slots[index].generation + 1;
        let welcome = Answer::Welcome {
            producers: self.options.producers,
            slots: self.options.slots,
            generation,
        };
        let fds = [self.frames.fd.as_fd(), fd.as_fd()];
        if send(socket.as_fd(), &welcome.encode(), &fds).is_err() {
            return;
        }
        let rings = (0..self.options.producers).map(|p| Ring::new(map.clone(), p)).collect();
        self.slots[index].generation = generation;
        events.push(Event::Attached { queue: u32::from(queue), pid: peer.pid, generation });
        self.command(|| Command::Attach(index, map.clone()));
        self.slots[index].holder = Some(Holder { socket, peer, map, rings, hung: false });
    }

    fn answer_monitors(&mut self, snapshot: &mut dyn FnMut(&[QueueStatus]) -> String) {
        let mut text = None;
        for socket in std::mem::take(&mut self.monitors) {
            let mut request = [0; MAX_MESSAGE];
            let keep = match receive(socket.as_fd(), &mut request) {
                Err(Errno::AGAIN) => true,
                Err(_) => false,
                Ok(_) => {
                    let text = text.get_or_insert_with(|| snapshot(&self.queues()));
                    send(socket.as_fd(), text.as_bytes(), &[]).is_ok()
                }
            };
            if keep {
                self.monitors.push(socket);
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

impl Holder {
    /// The connection has ended. It ends with the last process that has it.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let polled = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default()));
        polled.is_ok_and(|n| n > 0)
    }

    /// A process that ends while its connection lives has given the queue to a successor, of which only
    /// the connection is known.
    fn notice_succession(&mut self) {
        let Some(pidfd) = &self.peer.pidfd else { return };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        let polled = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default()));
        if polled.is_ok_and(|n| n > 0) && !self.is_gone() {
            (self.peer.pid, self.peer.pidfd) = (0, None);
        }
    }

    fn processed(&self) -> u64 {
        self.rings
            .iter()
            .map(|r| r.word(ring::PROCESSED).load(Ordering::Relaxed))
            .fold(0, u64::saturating_add)
    }

    /// Descriptors published and not consumed, the most in any ring.
    fn backlog(&self) -> u64 {
        self.rings
            .iter()
            .map(|r| {
                let consumed = r.word(ring::CONS).load(Ordering::Acquire);
                r.word(ring::PROD).load(Ordering::Relaxed).saturating_sub(consumed)
            })
            .max()
            .unwrap_or(0)
    }

    fn is_drained(&self) -> bool {
        self.backlog() == 0 || self.is_gone()
    }

    fn heartbeat_age(&self, now: u64) -> u64 {
        now.saturating_sub(self.map.consumer_heartbeat().load(Ordering::Relaxed))
    }
}

fn header_of(options: &ServerOptions, instance: [u8; 16], queue: u32, frames_len: u64) -> Header {
    Header {
        instance,
        cluster: options.cluster,
        queue,
        producers: options.producers,
        slots: options.slots,
        frames_len,
        frame_size: options.frame_size,
        head_room: options.head_room,
        link_type: 1,
        features: 0,
    }
}

/// Locks the cluster. The lock dies with its holder, however it dies; a killed predecessor gets a
/// moment to disappear.
fn take_lock(options: &ServerOptions) -> Result<std::fs::File, ServerError> {
    let path = options.dir.join(format!("ingest-{}.lock", options.cluster));
    let failed = |source| ServerError::Socket { path: path.clone(), source };
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while let Err(errno) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if errno != Errno::AGAIN {
            return Err(failed(errno.into()));
        }
        if Instant::now() >= deadline {
            let mut text = String::new();
            // The number only makes the message better.
            let _ = file.read_to_string(&mut text);
            return Err(ServerError::InUse {
                cluster: options.cluster,
                pid: text.trim().parse().unwrap_or(0),
                path,
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    write_pid(&mut file).map_err(failed)?;
    Ok(file)
}

fn write_pid(file: &mut std::fs::File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn listen(path: &Path, group: Option<u32>) -> Result<OwnedFd, ServerError> {
    let failed = |source: std::io::Error| ServerError::Socket { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let bind = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 64)?;
        Ok(socket)
    };
    let socket = bind().map_err(|e| failed(e.into()))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(failed)?;
    }
    Ok(socket)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    match rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)? {
        (0, _) => Err(Errno::CONNRESET),
        (len, _) => Ok(len),
    }
}

fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [std::io::IoSlice::new(message)];
    rustix::net::sendmsg(
        socket,
        &parts,
        &mut ancillary,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}

fn timespec(duration: Duration) -> Option<rustix::event::Timespec> {
    rustix::event::Timespec::try_from(duration).ok()
}
