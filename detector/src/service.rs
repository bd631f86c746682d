//! The detector at work: it becomes ready, attends to signals and a successor, and leaves.

use crate::assembly::Detector;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::crew::{self, End, Post};
use crate::daemon::Failure;
use crate::log;
use crate::replay::{Progress, Summary};
use crate::report::{FIFO_DIR, Reporter};
use crate::sessions::Sessions;
use crate::source::SourceState;
use crate::status::Desk;
use crate::succession;
use handover::Host;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use telemetry::admin::{self, Identification};
use telemetry::output::{self, Priority, Stream};
use telemetry::process::{self, Exit, Signal, Signals};
use tokio::sync::mpsc;

/// How long readiness waits for the sources of packets.
const FIRST_SOURCES: Duration = Duration::from_millis(500);
/// How often is looked whether they are there.
const LOOK: Duration = Duration::from_millis(2);
/// How long the first packet waits for the first snapshot (`spec/channels.md` 1, rule 4).
const FIRST_SNAPSHOT: Duration = Duration::from_millis(500);
/// How often expired sessions are removed.
const SWEEP: Duration = Duration::from_millis(100);
/// How long what is published may take to leave at the end.
const LINGER: Duration = Duration::from_secs(1);

impl Detector {
    /// Runs it to its end.
    pub(crate) async fn run(mut self, cpus: Vec<usize>) -> Result<(), Failure> {
        let mut signals = Signals::install().map_err(|e| Failure::new(Exit::OsErr, e))?;
        let _admin = self.serve_admin();
        let replay = self.desk.arguments.recording().is_some();
        if !replay && !self.desk.watch.first_snapshot(FIRST_SNAPSHOT).await {
            let state = self.desk.watch.describe();
            log::plain(format_args!("session channel: {state}"));
        }
        let mut sources = match self.predecessor.take() {
            Some(channel) => succession::follow(&self.desk, channel)?,
            None => HashMap::new(),
        };
        let started = Instant::now();
        let checkers = self.start_checkers();
        let (ends_in, mut ends) = mpsc::unbounded_channel();
        let mut workers = Vec::new();
        for (post, cpu) in self.desk.posts.iter().zip(cpus) {
            let first = self.source.take().or_else(|| sources.remove(&post.queue));
            workers.push(self.start_worker(post, cpu, first, ends_in.clone())?);
        }
        drop(ends_in);
        self.follow_fast_path();
        let sweeper = tokio::spawn(sweep(Arc::clone(&self.desk.sessions), self.clock));
        let reporter = tokio::spawn(report(Arc::clone(&self.desk)));
        let desk = Arc::clone(&self.desk);
        let progress = self.desk.arguments.recording().and_then(|recording| {
            Progress::show(recording, move || desk.posts[0].counters.snapshot())
        });
        if !replay {
            self.sources_attached().await;
        }
        let guard = tokio::spawn(process::watchdog(crew::all_move(self.desk.posts.clone())));
        let mut superseded = self.wait_for_successor();
        if output::is_reference() {
            tokio::spawn(tell_of_broken_pipes());
        }
        process::ready("detecting");
        let outcome = self.attend(&mut signals, &mut ends, &mut superseded).await;
        process::stopping();
        guard.abort();
        log::reference(Stream::Err, "PF_RING Tapdance shutting down...");
        self.stop.store(true, Ordering::Relaxed);
        sweeper.abort();
        reporter.abort();
        self.finish(workers, checkers, replay).await;
        drop(progress);
        if replay {
            let counters = self.desk.posts[0].counters.snapshot();
            println!("{}", Summary { counters, seconds: started.elapsed().as_secs_f64() });
        }
        log::reference(Stream::Err, "PF_RING Tapdance done shutting down!");
        outcome
    }

    /// Waits until every worker has its source, so that being ready means seeing packets; a source
    /// that is not there yet holds the start up only for a moment.
    async fn sources_attached(&self) {
        let limit = Instant::now() + FIRST_SOURCES;
        let attached =
            || self.desk.posts.iter().all(|post| *post.state.lock() == SourceState::Attached);
        while !attached() && Instant::now() < limit {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The admin socket is a convenience; without it the detector does its work.
    fn serve_admin(&self) -> Option<tokio::task::JoinHandle<()>> {
        if self.desk.arguments.recording().is_some() {
            return None;
        }
        let offset = u32::try_from(self.desk.arguments.queue_offset).unwrap_or(u32::MAX);
        let path = admin::socket_path(&admin::ipc_dir(), "detector", offset);
        let configuration = std::fs::read(&self.desk.config).unwrap_or_default();
        let who = Identification::new("detector", env!("CARGO_PKG_VERSION"), &configuration);
        match admin::serve(&path, Arc::clone(&self.desk), who) {
            Ok(task) => Some(task),
            Err(error) => {
                log::problem(Priority::Warning, format_args!("detector: {error}"));
                None
            }
        }
    }

    /// Waits for a reason to leave.
    async fn attend(
        &self,
        signals: &mut Signals,
        ends: &mut mpsc::UnboundedReceiver<(usize, End)>,
        superseded: &mut mpsc::Receiver<std::io::Result<()>>,
    ) -> Result<(), Failure> {
        let broken = |error| {
            let text =
                format_args!("the successor broke off, and the workers have stopped: {error}");
            Failure::new(Exit::Software, text)
        };
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => self.reload(),
                    Signal::Interrupt | Signal::Terminate => return Ok(()),
                },
                () = self.desk.leave.notified() => return Ok(()),
                Some(given) = superseded.recv() => return given.map_err(broken),
                end = ends.recv(), if !self.desk.handing.load(Ordering::Relaxed) => match end {
                    Some((index, End::GivenUp)) => {
                        let text = format_args!("worker {index} could not be kept alive");
                        return Err(Failure::new(Exit::Software, text));
                    }
                    Some(_) => {}
                    None if self.desk.handing.load(Ordering::Relaxed) => {}
                    // All workers have come to the end of their source.
                    None => return Ok(()),
                },
            }
        }
    }

    /// Offers devices and queues to a successor, and the devices to the service manager. What comes out is how
    /// that went.
    fn wait_for_successor(&mut self) -> mpsc::Receiver<std::io::Result<()>> {
        let (tell, told) = mpsc::channel(1);
        if self.desk.arguments.recording().is_some() {
            return told;
        }
        let devices = std::mem::take(&mut self.devices);
        handover::store(&devices);
        let host = match Host::bind(&succession::socket(self.desk.arguments.queue_offset), devices)
        {
            Ok(host) => host,
            Err(error) => {
                let text = format_args!("detector: no upgrade without restart: {error}");
                log::problem(Priority::Warning, text);
                return told;
            }
        };
        let (desk, stop) = (Arc::clone(&self.desk), Arc::clone(&self.stop));
        let runtime = tokio::runtime::Handle::current();
        let wait = move || {
            let _context = runtime.enter();
            while let Ok((channel, pid)) = host.wait() {
                if let Ok(given) = succession::serve(&desk, &stop, channel, pid) {
                    // The receiver is gone when this process leaves for another reason.
                    let _ = tell.blocking_send(given);
                    return;
                }
            }
        };
        // A process without threads left does not hand over.
        let _ = std::thread::Builder::new().name("handover".to_owned()).spawn(wait);
        told
    }

    fn reload(&self) {
        for result in self.desk.reload_now() {
            if result.applied && result.error.is_empty() {
                log::plain(format_args!("reloaded {}", result.file));
            } else if result.applied {
                log::plain(format_args!("reloaded {}; {}", result.file, result.error));
            } else {
                let (file, error) = (&result.file, &result.error);
                let text = format_args!("detector: {file}: kept the old: {error}");
                log::problem(Priority::Error, text);
            }
        }
    }

    async fn finish(
        &self,
        workers: Vec<JoinHandle<()>>,
        checkers: Vec<JoinHandle<()>>,
        patient: bool,
    ) {
        let join = |threads: Vec<JoinHandle<()>>| {
            // Panics were caught inside the threads.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        };
        let _ = tokio::task::spawn_blocking(move || join(workers)).await;
        let end = Instant::now() + LINGER;
        while !self.checkers.is_idle() && (patient || Instant::now() < end) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.checkers.stop.store(true, Ordering::Relaxed);
        self.checkers.bell.ring_all();
        let _ = tokio::task::spawn_blocking(move || join(checkers)).await;
        if let Some(publisher) = &self.desk.publisher {
            while publisher.peers().iter().any(|peer| peer.queued > 0) && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// The reference's line about a reader that went away; nothing else comes of the signal.
async fn tell_of_broken_pipes() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut signals) = signal(SignalKind::pipe()) else { return };
    while signals.recv().await.is_some() {
        log::reference(Stream::Out, "received a SIGPIPE, ignoring");
    }
}

async fn sweep(sessions: Arc<Sessions>, clock: Clock) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        sessions.sweep(clock.now());
    }
}

async fn report(desk: Arc<Desk>) {
    let reporter = |post: &Arc<Post>| {
        let reporter = Reporter::new(post.queue, FIFO_DIR.as_ref());
        reporter.reset();
        (reporter, Arc::clone(&post.counters))
    };
    let mut reporters: Vec<(Reporter, Arc<Counters>)> = desk.posts.iter().map(reporter).collect();
    let mut ticks = tokio::time::interval(desk.arguments.period);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        for (reporter, counters) in &mut reporters {
            reporter.report(counters.snapshot(), desk.sessions.len());
        }
    }
}
