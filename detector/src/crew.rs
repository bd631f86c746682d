//! The worker threads: pinned, supervised, one per queue.

use crate::clock::{Clock, Millis};
use crate::counters::Counters;
use crate::fast_path::Tables;
use crate::log::{self, Level};
use crate::outlets::Outlets;
use crate::source::{Burst, FrameSource, SourceState};
use crate::worker::{Bounds, Shared, Worker};
use parking_lot::Mutex;
use shm::Packed;
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Longest wait for frames, which bounds how long a worker takes to stop.
const BURST_TIMEOUT: Duration = Duration::from_millis(5);
/// How often flows are cleaned, in milliseconds.
const CLEANING: u64 = 100;
/// First and longest pause before a worker is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A worker that fails this often within [`PATIENCE`] is given up.
const MAX_FAILURES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a worker's source.
pub type OpenSource = dyn Fn() -> io::Result<Box<dyn FrameSource>> + Send + Sync;

/// What is known of a worker while it runs.
#[derive(Debug)]
pub struct Post {
    /// Index of the worker.
    pub index: usize,
    /// Number of its queue and tun device.
    pub queue: usize,
    /// Its CPU.
    pub cpu: usize,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Times that it was started again.
    pub restarts: AtomicU64,
    /// State of its source.
    pub state: Mutex<SourceState>,
    /// Rises as long as its thread runs.
    pub beats: AtomicU64,
    /// Its thread has ended.
    pub ended: AtomicBool,
    /// Its queue, once it has ended for a successor.
    pub packed: Mutex<Option<Packed>>,
}

impl Post {
    /// The thread is alive.
    #[inline]
    fn beat(&self) {
        // One writer.
        self.beats.store(self.beats.load(Relaxed) + 1, Relaxed);
    }
}

/// Whether every worker has moved since the last time that all of them had: what the service manager's
/// watchdog is told.
pub fn all_move(posts: Vec<Arc<Post>>) -> impl FnMut() -> bool {
    let mut before = vec![0; posts.len()];
    move || {
        let now: Vec<u64> = posts.iter().map(|post| post.beats.load(Relaxed)).collect();
        let alive = now.iter().zip(&before).all(|(now, before)| now != before);
        if alive {
            before = now;
        }
        alive
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Its source has no more frames.
    Exhausted,
    /// It could not be kept alive.
    GivenUp,
}

/// All that a worker needs to start, and to start again.
pub struct Recipe {
    /// What is known of it.
    pub post: Arc<Post>,
    /// Opens its source.
    pub open: Box<OpenSource>,
    /// Makes its exits.
    pub outlets: Box<dyn Fn() -> Outlets + Send + Sync>,
    /// Sessions, filter list and counters.
    pub shared: Shared,
    /// The table of flows that pass in the kernel.
    pub fast_path: Tables,
    /// Bytes to skip at the start of every frame.
    pub tunnel_offset: usize,
    /// What it may hold.
    pub bounds: Bounds,
    /// Time of the process.
    pub clock: Clock,
    /// Ends every worker.
    pub stop: Arc<AtomicBool>,
    /// They end for a successor.
    pub handing: Arc<AtomicBool>,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipe").field("post", &self.post).finish_non_exhaustive()
    }
}

impl Recipe {
    /// Runs the worker until it is told to stop or its source ends. A panic, or a source that
    /// fails, costs the flows that it followed; sessions are not its own. `first` is its source
    /// when that is open already.
    pub fn supervise(&self, mut first: Option<Box<dyn FrameSource>>) -> End {
        let mut failures: Vec<Instant> = Vec::new();
        let mut backoff = BACKOFF.0;
        loop {
            let source = first.take();
            let started = Instant::now();
            let reason = match catch_unwind(AssertUnwindSafe(|| self.run(source))) {
                Ok(Ok(end)) => return end,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panic: {}", panic_text(&*panic)),
            };
            *self.post.state.lock() = SourceState::Waiting(reason.clone());
            self.post.restarts.fetch_add(1, Relaxed);
            failures.retain(|at| at.elapsed() < PATIENCE);
            failures.push(started);
            if failures.len() > MAX_FAILURES {
                self.say(Level::Error, format_args!("worker given up: {reason}"));
                return End::GivenUp;
            }
            self.say(Level::Error, format_args!("worker failed, starting it again: {reason}"));
            if started.elapsed() > PATIENCE {
                backoff = BACKOFF.0;
            }
            if self.sleep(backoff) {
                return End::Stopped;
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    fn say(&self, level: Level, text: std::fmt::Arguments<'_>) {
        log::line(self.post.queue, level, text);
    }

    /// Sleeps for `time`; true when it is told to stop meanwhile.
    fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if self.stop.load(Relaxed) {
                return true;
            }
            self.post.beat();
            std::thread::sleep(BURST_TIMEOUT);
        }
        self.stop.load(Relaxed)
    }

    fn run(&self, source: Option<Box<dyn FrameSource>>) -> io::Result<End> {
        let mut source = match source {
            Some(source) => source,
            None => (self.open)()?,
        };
        let mut worker =
            Worker::new(self.shared.clone(), self.tunnel_offset, self.bounds, (self.outlets)())
                .with_fast_path(Arc::clone(&self.fast_path));
        let earlier_drops = self.post.counters.source_drops.value();
        let mut time = Time::new(self.clock);
        let mut next_cleaning = time.last;
        while !self.stop.load(Relaxed) {
            time.fresh = false;
            self.post.beat();
            let burst = source.burst(BURST_TIMEOUT, &mut |frames, about| {
                let now = time.of(about.stamp);
                match about.incomplete {
                    0 => worker.packets(frames, now),
                    incomplete => worker.incomplete_packets(frames, incomplete, now),
                }
            });
            worker.finish();
            let end = burst? == Burst::Ended;
            let now = time.now();
            if now >= next_cleaning || end {
                next_cleaning = Millis(now.0 + CLEANING);
                worker.clean(now);
                self.post.counters.source_drops.set(earlier_drops + source.dropped());
                self.note(source.state());
            }
            if end {
                return Ok(End::Exhausted);
            }
        }
        if self.handing.load(Relaxed) {
            *self.post.packed.lock() = source.pack();
        }
        Ok(End::Stopped)
    }

    /// Keeps the state of the source, and says so when it changed.
    fn note(&self, now: SourceState) {
        let mut state = self.post.state.lock();
        if *state == now {
            return;
        }
        match (&*state, &now) {
            (_, SourceState::Attached) => self.say(Level::Debug, format_args!("source attached")),
            (SourceState::Waiting(_), SourceState::Waiting(_)) | (_, SourceState::Starting) => {}
            (_, SourceState::Waiting(reason)) => {
                self.say(Level::Warn, format_args!("source not there, trying again: {reason}"));
            }
        }
        *state = now;
    }
}

/// Time of the packets: read once per burst, or taken from the recording.
struct Time {
    clock: Clock,
    last: Millis,
    fresh: bool,
    first_stamp: Option<u64>,
}

impl Time {
    fn new(clock: Clock) -> Self {
        Self { clock, last: clock.now(), fresh: false, first_stamp: None }
    }

    #[inline(always)]
    fn of(&mut self, stamp: Option<u64>) -> Millis {
        match stamp {
            None => self.now(),
            Some(stamp) => self.recorded(stamp),
        }
    }

    /// A recording whose stamps go back does not turn time back.
    fn recorded(&mut self, stamp: u64) -> Millis {
        let first = *self.first_stamp.get_or_insert(stamp);
        self.last = self.last.max(Millis(stamp.saturating_sub(first) / 1_000_000));
        self.last
    }

    #[inline(always)]
    fn now(&mut self) -> Millis {
        if !self.fresh {
            self.fresh = true;
            self.last = self.last.max(self.clock.now());
        }
        self.last
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}

/// CPUs that this process may use.
pub fn allowed_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

/// Pins the calling thread to `cpu`.
///
/// # Errors
/// When the system refuses.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidates::Candidates;
    use crate::outlets::{Discard, Passage};
    use crate::source::{About, Each};
    use std::collections::VecDeque;
    use std::sync::mpsc::{Receiver, channel};

    /// A source whose bursts follow a script; an empty script is its end.
    struct Scripted(VecDeque<Act>);

    enum Act {
        Frame,
        Panic,
        Fail,
        /// Does not come back until the other end is dropped.
        Hang(Receiver<()>),
    }

    impl FrameSource for Scripted {
        fn burst(&mut self, _: Duration, each: &mut Each<'_>) -> io::Result<Burst> {
            match self.0.pop_front() {
                Some(Act::Frame) => {
                    each(&[&[0; 60]], About::default());
                    Ok(Burst::Frames(1))
                }
                Some(Act::Panic) => panic!("planted"),
                Some(Act::Fail) => Err(io::ErrorKind::BrokenPipe.into()),
                Some(Act::Hang(until)) => {
                    assert!(until.recv().is_err());
                    Ok(Burst::Frames(0))
                }
                None => Ok(Burst::Ended),
            }
        }

        fn dropped(&mut self) -> u64 {
            1
        }

        fn state(&self) -> SourceState {
            SourceState::Attached
        }
    }

    fn recipe(scripts: Vec<Vec<Act>>) -> Recipe {
        let scripts = Mutex::new(VecDeque::from(scripts));
        let counters = Arc::new(Counters::default());
        let shared = Shared {
            sessions: Arc::default(),
            filter: Arc::default(),
            counters: Arc::clone(&counters),
        };
        let sessions = Arc::clone(&shared.sessions);
        Recipe {
            post: Arc::new(Post {
                index: 0,
                queue: 0,
                cpu: 0,
                counters,
                restarts: 0.into(),
                state: Mutex::default(),
                beats: 0.into(),
                ended: false.into(),
                packed: Mutex::default(),
            }),
            open: Box::new(move || match scripts.lock().pop_front() {
                Some(script) => Ok(Box::new(Scripted(script.into())) as Box<dyn FrameSource>),
                None => Err(io::ErrorKind::NotFound.into()),
            }),
            outlets: Box::new(move || Outlets {
                worker: 0,
                queue: 0,
                sink: Arc::new(Discard),
                candidates: Arc::new(Candidates::new(Arc::default())),
                pending: Arc::default(),
                sessions: Arc::clone(&sessions),
                patient: false,
                passage: Passage::default(),
            }),
            shared,
            fast_path: Tables::default(),
            tunnel_offset: 0,
            bounds: Bounds::default(),
            clock: Clock::default(),
            stop: Arc::default(),
            handing: Arc::default(),
        }
    }

    #[test]
    fn a_worker_survives_panics_and_broken_sources() {
        use Act::{Fail, Frame, Panic};
        let recipe = recipe(vec![vec![Frame, Panic], vec![Frame, Frame, Fail], vec![Frame]]);
        assert_eq!(recipe.supervise(None), End::Exhausted);
        assert_eq!(recipe.post.counters.packets.value(), 4);
        assert_eq!(recipe.post.restarts.load(Relaxed), 2);
    }

    #[test]
    fn a_worker_stops_when_it_is_told_to_while_it_waits() {
        let recipe = recipe(vec![]);
        let stop = Arc::clone(&recipe.stop);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| recipe.supervise(None));
            while recipe.post.restarts.load(Relaxed) < 2 {
                std::thread::yield_now();
            }
            stop.store(true, Relaxed);
            assert_eq!(worker.join().unwrap(), End::Stopped);
        });
        assert!(matches!(&*recipe.post.state.lock(), SourceState::Waiting(_)));
    }

    /// The watchdog hears nothing while one of two workers hangs within its source, and hears again when
    /// that goes on.
    #[test]
    fn a_worker_that_hangs_is_no_proof_of_life() {
        let (hold, until) = channel();
        // Without sources, it tries again and again.
        let waiting = recipe(vec![]);
        let hanging = recipe(vec![vec![Act::Frame, Act::Hang(until), Act::Fail]]);
        let posts = [&waiting, &hanging].map(|recipe| Arc::clone(&recipe.post));
        let reaches = |post: &Post, beats: u64| {
            while post.beats.load(Relaxed) < beats {
                std::thread::yield_now();
            }
        };
        let moved = |post: &Post| reaches(post, post.beats.load(Relaxed) + 1);
        std::thread::scope(|scope| {
            let workers = [&waiting, &hanging].map(|one| scope.spawn(|| one.supervise(None)));
            // The second beat comes before the second burst, from which it does not come back.
            reaches(&posts[1], 2);
            let (mut one, mut both) = (all_move(posts[..1].to_vec()), all_move(posts.to_vec()));
            moved(&posts[0]);
            assert!(one() && both(), "both have moved since the start");
            for _ in 0..3 {
                moved(&posts[0]);
                assert!(one(), "this one works");
                assert!(!both(), "the other hangs");
            }
            drop(hold);
            moved(&posts[1]);
            moved(&posts[0]);
            assert!(both(), "it goes on");
            for recipe in [&waiting, &hanging] {
                recipe.stop.store(true, Relaxed);
            }
            for worker in workers {
                assert_eq!(worker.join().unwrap(), End::Stopped);
            }
        });
    }
}
