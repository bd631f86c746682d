//! Who comes to the control socket, and what they get.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::holder::Holder;
use super::socket::{receive, send};
use super::{Event, Server, Slot, header_of};
use crate::abi::{DESCRIBED, MAX_QUEUES, RETURNS_IN_ORDER};
use crate::clock::coarse_now;
use crate::handshake::{ABI, ANY_QUEUE, ANY_SET, Answer, Hello, MAX_MESSAGE, Refusal, Role};
use crate::peer::Peer;
use crate::producer::{Command, bits};
use crate::queue::{QueueMap, Ring};
use crate::status::QueueStatus;

/// Connections that have not said what they are, at most.
const MAX_STRANGERS: usize = 32;
/// Monitors at most, and connections for the fast path.
const MAX_MONITORS: usize = 32;
/// Time in which a connection must say HELLO.
const HELLO_LIMIT: Duration = Duration::from_secs(1);

/// The number of a ring, the queues that it shows, and its region with the file of that.
type Ready = (usize, u64, (Arc<QueueMap>, OwnedFd));

impl Server {
    pub(super) fn accept(&mut self) {
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
    pub(super) fn greet(&mut self, events: &mut Vec<Event>) {
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
            Role::FastPath if self.fast_path.connections.len() < MAX_MONITORS => {
                return self.fast_path.admit(socket);
            }
            Role::FastPath => return,
            _ if self.draining => {
                Err(Answer::refuse(Refusal::Draining, 0, "zbalance is stopping".into()))
            }
            Role::Consumer => self.attach(&hello, events).map(|made| (hello.queue.into(), 0, made)),
            Role::Mirror => self.mirror(&hello, events),
        };
        match result {
            Err(refusal) => {
                // The peer may be gone already; then nobody needs the answer.
                let _ = send(socket.as_fd(), &refusal.encode(), &[]);
                if let Answer::Refused { text, .. } = refusal {
                    events.push(Event::Refused { pid, text });
                }
            }
            Ok((ring, watched, made)) => self.admit((socket, peer), ring, watched, made, events),
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
        self.check(hello, queue)?;
        if let Some(holder) = &self.slots[queue].holder {
            if !holder.is_gone() {
                let pid = holder.peer.pid;
                let text = format!("queue {queue} is held by process {pid}");
                return Err(Answer::refuse(Refusal::Busy, pid, text));
            }
            self.detach(queue, false, events);
        }
        self.make(queue, hello)
    }

    /// Finds a mirror without reader for the queues of `hello`, which are one bit each in the answer.
    fn mirror(&mut self, hello: &Hello, events: &mut Vec<Event>) -> Result<Ready, Answer> {
        let queues = self.options.queues();
        let watched = if hello.queue == ANY_QUEUE {
            (0..queues)
                .filter(|q| hello.set == ANY_SET || self.options.set_of(*q) == hello.set.into())
                .fold(0, |all, queue| all | 1 << queue)
        } else {
            self.check(hello, hello.queue.into())?;
            1 << hello.queue
        };
        let cluster = self.options.cluster;
        if watched == 0 {
            let sets = self.options.sets.len();
            let text =
                format!("set {} of cluster {cluster} does not exist; it has {sets}", hello.set);
            return Err(Answer::refuse(Refusal::NoSuchQueue, 0, text));
        }
        let is_free = |slot: &Slot| slot.holder.as_ref().is_none_or(Holder::is_gone);
        let Some(mirror) = (queues..self.slots.len()).find(|m| is_free(&self.slots[*m])) else {
            let readers = self.slots[queues..].iter().filter_map(|slot| slot.holder.as_ref());
            let pids: Vec<String> = readers.map(|holder| holder.peer.pid.to_string()).collect();
            let text = match pids.as_slice() {
                [] => {
                    format!("{queues} queues leave no number for a mirror; {} do", MAX_QUEUES - 1)
                }
                pids => format!("the mirrors of cluster {cluster} are read by {}", pids.join(", ")),
            };
            return Err(Answer::refuse(Refusal::Busy, 0, text));
        };
        if self.slots[mirror].holder.is_some() {
            self.detach(mirror, false, events);
        }
        Ok((mirror, watched, self.make(mirror, hello)?))
    }

    /// Refuses a queue that does not exist or is not of the set.
    fn check(&self, hello: &Hello, queue: usize) -> Result<(), Answer> {
        let queues = self.options.queues();
        if queue >= queues {
            let text = format!(
                "queue {queue} of cluster {} does not exist; it has queues 0 to {}",
                self.options.cluster,
                queues - 1
            );
            return Err(Answer::refuse(Refusal::NoSuchQueue, 0, text));
        }
        let set = self.options.set_of(queue);
        if hello.set != ANY_SET && u32::from(hello.set) != set {
            let text = format!("queue {queue} belongs to set {set}, not {}", hello.set);
            return Err(Answer::refuse(Refusal::NoSuchQueue, 0, text));
        }
        Ok(())
    }

    /// Makes the region of a ring for its next reader.
    fn make(&self, ring: usize, hello: &Hello) -> Result<(Arc<QueueMap>, OwnedFd), Answer> {
        let mut header = header_of(&self.options, self.instance, ring as u32, self.frames_len);
        if hello.in_order {
            header.features |= RETURNS_IN_ORDER;
        }
        if hello.described || hello.role == Role::Mirror {
            header.features |= DESCRIBED;
        }
        let (fd, map) = QueueMap::create(header, self.slots[ring].generation + 1)
            .map_err(|e| Answer::refuse(Refusal::Busy, 0, format!("no memory for queue: {e}")))?;
        map.consumer_heartbeat().store(coarse_now(), Ordering::Relaxed);
        Ok((map, fd))
    }

    fn admit(
        &mut self,
        (socket, peer): (OwnedFd, Peer),
        index: usize,
        watched: u64,
        (map, fd): (Arc<QueueMap>, OwnedFd),
        events: &mut Vec<Event>,
    ) {
        let generation = self.slots[index].generation + 1;
        let welcome = Answer::Welcome {
            producers: self.options.producers,
            slots: self.options.slots_of(index),
            generation,
        };
        let fds = [self.frames.fd.as_fd(), fd.as_fd()];
        if send(socket.as_fd(), &welcome.encode(), &fds).is_err() {
            return;
        }
        let rings = (0..self.options.producers).map(|p| Ring::new(map.clone(), p)).collect();
        self.slots[index].generation = generation;
        let pid = peer.pid;
        if index < self.options.queues() {
            events.push(Event::Attached { queue: index as u32, pid, generation });
            self.command(|| Command::Attach(index, map.clone()));
        } else {
            let queues = bits(watched).map(|queue| queue as u32).collect();
            events.push(Event::Mirrored { pid, queues });
            self.command(|| Command::Mirror(index, map.clone(), watched));
        }
        self.slots[index].holder = Some(Holder { socket, peer, map, rings, hung: false, watched });
    }

    pub(super) fn answer_monitors(&mut self, snapshot: &mut dyn FnMut(&[QueueStatus]) -> String) {
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
}
