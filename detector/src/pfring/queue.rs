//! A queue of a ZC cluster. Either side may come first, and go and come back.

use crate::pfring::Naps;
use crate::source::{self, About, Burst, Each, FrameSource, SourceState};
use pfring::{BURST, Consumer, Library, system};
use shm::Packed;
use std::io;
use std::time::{Duration, Instant};

/// Pause between attempts to attach.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is looked whether the balancer is still the same.
const LOOK: Duration = Duration::from_secs(1);
/// Packets that are taken before the worker has its turn.
const ROUND: usize = 80;

/// The queue `queue` of `cluster`, which need not exist yet. With `either`, a queue of our own balancer is taken when
/// that serves the cluster; its value is whether to spin there.
pub(super) fn open(
    cluster: u32,
    queue: u32,
    either: Option<bool>,
) -> io::Result<Box<dyn FrameSource>> {
    let library = Library::load().map_err(io::Error::other)?;
    Ok(Box::new(ZcQueue {
        library,
        cluster,
        queue,
        either,
        own: None,
        attached: None,
        reason: None,
        next: Instant::now(),
        lost: 0,
    }))
}

/// The consumer, and what it was attached to.
struct Attached {
    consumer: Consumer,
    /// The balancer's entry, where the module shows one.
    balancer: Option<String>,
    /// What the queue had dropped before.
    dropped: u64,
    /// When it is looked for the balancer.
    look: Instant,
}

impl Attached {
    /// Packets that the queue has dropped since.
    fn lost(&self) -> u64 {
        let counted = self.consumer.statistics().map_or(self.dropped, |now| now.dropped);
        counted.saturating_sub(self.dropped)
    }
}

struct ZcQueue {
    library: &'static Library,
    cluster: u32,
    queue: u32,
    either: Option<bool>,
    /// The queue of our own balancer, once that is the one.
    own: Option<Box<dyn FrameSource>>,
    attached: Option<Attached>,
    /// Why it is not attached.
    reason: Option<String>,
    /// When to attach.
    next: Instant,
    /// Packets dropped by what it was attached to before.
    lost: u64,
}

impl ZcQueue {
    fn attach(&mut self) {
        let (cluster, queue) = (self.cluster, self.queue);
        let balancer = system::cluster(cluster);
        match Consumer::attach(self.library, cluster, queue) {
            Ok(consumer) => {
                let dropped = consumer.statistics().map_or(0, |now| now.dropped);
                let look = Instant::now() + LOOK;
                self.attached = Some(Attached { consumer, balancer, dropped, look });
                self.reason = None;
            }
            Err(error) => {
                self.reason = Some(error.to_string());
                self.next = Instant::now() + RETRY;
                if let Some(spin) = self.either
                    && shm::monitor(&telemetry::admin::ipc_dir(), cluster).is_ok()
                {
                    eprintln!("detector: {cluster}@{queue}: a queue of zbalance, not of PF_RING");
                    self.own = Some(source::queue(cluster, queue as usize, spin));
                }
            }
        }
    }

    /// Lets go of the queue, to attach anew.
    fn leave(&mut self, reason: String) {
        self.lost += self.attached.take().map_or(0, |attached| attached.lost());
        self.reason = Some(reason);
        self.next = Instant::now() + RETRY;
    }

    /// Lets go of a queue whose balancer is gone, or another one.
    fn check_balancer(&mut self) {
        let Some(Attached { balancer, look, .. }) = &mut self.attached else { return };
        if balancer.is_none() || Instant::now() < *look {
            return;
        }
        *look = Instant::now() + LOOK;
        if system::cluster(self.cluster) != *balancer {
            self.leave(format!("the balancer of cluster {} is gone", self.cluster));
            self.next = Instant::now();
        }
    }

    /// One round without waiting.
    fn round(&mut self, each: &mut Each<'_>) -> usize {
        let mut total = 0;
        while let Some(attached) = &mut self.attached {
            let count = match attached.consumer.burst(&mut |frames| each(frames, About::default()))
            {
                Ok(count) => count,
                Err(error) => {
                    self.leave(error.to_string());
                    break;
                }
            };
            total += count;
            if count < BURST || total >= ROUND {
                break;
            }
        }
        total
    }
}

impl FrameSource for ZcQueue {
    fn burst(&mut self, timeout: Duration, each: &mut Each<'_>) -> io::Result<Burst> {
        if let Some(own) = &mut self.own {
            return own.burst(timeout, each);
        }
        self.check_balancer();
        if self.attached.is_none() && Instant::now() >= self.next {
            self.attach();
        }
        let mut naps = Naps::within(timeout);
        loop {
            let count = self.round(each);
            if count > 0 || !naps.take() {
                return Ok(Burst::Frames(count));
            }
        }
    }

    fn dropped(&mut self) -> u64 {
        match (&mut self.own, &self.attached) {
            (Some(own), _) => own.dropped(),
            (None, Some(attached)) => self.lost + attached.lost(),
            (None, None) => self.lost,
        }
    }

    fn state(&self) -> SourceState {
        match (&self.own, &self.attached, &self.reason) {
            (Some(own), ..) => own.state(),
            (None, Some(_), _) => SourceState::Attached,
            (None, None, Some(reason)) => SourceState::Waiting(reason.clone()),
            (None, None, None) => SourceState::Starting,
        }
    }

    fn pack(self: Box<Self>) -> Option<Packed> {
        // A queue of the library stays with its process: the successor attaches when this one has let go.
        self.own?.pack()
    }
}
