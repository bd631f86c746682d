//! The threads of the packet path: one for each worker, and those that look for tags.

use crate::arguments::Arguments;
use crate::assembly::Detector;
use crate::crew::{self, End, OpenSource, Post, Recipe};
use crate::daemon::Failure;
use crate::fast_path;
use crate::log::{self, Level};
use crate::outlets::{Outlets, Passage};
use crate::source::{self, FrameSource};
use crate::worker::Shared;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use telemetry::output::{Priority, Stream};
use telemetry::process::Exit;
use tokio::sync::mpsc;

/// Pause before a checker that failed is started again.
const PAUSE: Duration = Duration::from_millis(100);

impl Detector {
    /// Starts the threads that look for tags.
    pub(crate) fn start_checkers(&self) -> Vec<JoinHandle<()>> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.desk.posts.len();
        let count = self.desk.arguments.checkers.unwrap_or(workers.min(cpus)).max(1);
        (0..count)
            .filter_map(|index| {
                let checkers = Arc::clone(&self.checkers);
                let thread = std::thread::Builder::new().name(format!("checker-{index}"));
                let run = move || {
                    while catch_unwind(AssertUnwindSafe(|| checkers.run(index))).is_err() {
                        let text =
                            format_args!("detector: checker {index} failed, starting it again");
                        log::problem(Priority::Error, text);
                        std::thread::sleep(PAUSE);
                    }
                };
                thread.spawn(run).ok()
            })
            .collect()
    }

    /// Starts the thread that follows the balancer's fast path, where there is a balancer.
    pub(crate) fn follow_fast_path(&self) {
        let arguments = &self.desk.arguments;
        if arguments.source.is_some() || arguments.pf_ring.is_some() || self.tunnel_offset != 0 {
            return;
        }
        let cluster = arguments.cluster.unwrap_or_default();
        let (tables, stop) = (Arc::clone(&self.fast_path), Arc::clone(&self.stop));
        let follow = move || {
            fast_path::follow(&telemetry::admin::ipc_dir(), cluster, &tables, &stop);
        };
        // Without the thread every packet goes by a worker, as without the option.
        let _ = std::thread::Builder::new().name("fast-path".to_owned()).spawn(follow);
    }

    /// Starts the worker of `post` on `cpu`. `first` is its source when that is open already; how it
    /// ends is sent to `ends`.
    pub(crate) fn start_worker(
        &self,
        post: &Arc<Post>,
        cpu: usize,
        first: Option<Box<dyn FrameSource>>,
        ends: mpsc::UnboundedSender<(usize, End)>,
    ) -> Result<JoinHandle<()>, Failure> {
        let arguments = &self.desk.arguments;
        let open = opener(arguments, post.queue);
        let recipe = Recipe {
            post: Arc::clone(post),
            open,
            outlets: self.outlets(post),
            shared: Shared {
                sessions: Arc::clone(&self.desk.sessions),
                filter: Arc::clone(&self.desk.filter),
                counters: Arc::clone(&post.counters),
            },
            fast_path: Arc::clone(&self.fast_path),
            tunnel_offset: self.tunnel_offset,
            bounds: self.desk.fixed.bounds,
            clock: self.clock,
            stop: Arc::clone(&self.stop),
            handing: Arc::clone(&self.desk.handing),
        };
        let ended = Arc::clone(post);
        let pinned = arguments.recording().is_none();
        let (index, queue, allow) = (post.index, post.queue, arguments.allow_unpinned);
        log::plain(format_args!("Starting process {index}..."));
        // In the reference a worker without zero copy is one that has an interface of its own.
        let is_direct = arguments.source.is_some()
            || matches!(arguments.pf_ring, Some(crate::pfring::Input::Interface(_)));
        let (kind, tapdance) = match is_direct {
            false => ("zero-copy", "Zero-copy TapDance"),
            true => ("NON-zero-copy", "NON-zero-copy TapDance"),
        };
        let run = move || {
            if let (true, Err(error)) = (pinned, crew::pin(cpu)) {
                let text = format_args!("Error binding to core {cpu}: {error}");
                log::line(queue, if allow { Level::Warn } else { Level::Error }, text);
                if !allow {
                    let _ = ends.send((index, End::GivenUp));
                    return;
                }
            }
            let pid = std::process::id();
            log::reference(Stream::Out, format_args!(">>> Child proc {cpu} created"));
            log::plain(format_args!("Core {queue}: PID {pid}, lcore {cpu}"));
            log::reference(Stream::Out, format_args!(">>>> starting core {queue}"));
            let started = format_args!("{tapdance} child proc started on core {queue}!");
            log::reference(Stream::Out, started);
            log::line(queue, Level::Debug, "reset");
            log::line(queue, Level::Debug, format_args!("gre_offset: {}", recipe.tunnel_offset));
            log::line(queue, Level::Debug, format_args!("Initialized rust core {queue}"));
            let end = recipe.supervise(first);
            ended.ended.store(true, Ordering::Release);
            log::reference(
                Stream::Err,
                format_args!("PF_RING {kind} Tapdance child process shut down"),
            );
            let how = if end == End::GivenUp { "killed by signal 6" } else { "exited, status=0" };
            log::reference(Stream::Out, format_args!("...child proc {index} {how}"));
            // The receiver is gone when the daemon leaves for another reason.
            let _ = ends.send((index, end));
        };
        std::thread::Builder::new()
            .name(format!("worker-{queue}"))
            .spawn(run)
            .map_err(|error| Failure::new(Exit::OsErr, error))
    }

    /// A maker of exits; a worker that is started again gets new ones.
    fn outlets(&self, post: &Post) -> Box<dyn Fn() -> Outlets + Send + Sync> {
        let (worker, queue) = (post.index, post.queue);
        let sink = Arc::clone(&self.sinks[worker]);
        let candidates = Arc::clone(&self.desk.inlets[worker].candidates);
        let (pending, sessions) = (Arc::clone(&self.pending), Arc::clone(&self.desk.sessions));
        let patient = self.desk.arguments.recording().is_some();
        Box::new(move || Outlets {
            worker,
            queue,
            passage: Passage::into(&*sink),
            sink: Arc::clone(&sink),
            candidates: Arc::clone(&candidates),
            pending: Arc::clone(&pending),
            sessions: Arc::clone(&sessions),
            patient,
        })
    }
}

/// How the worker of `queue` opens its source.
fn opener(arguments: &Arguments, queue: usize) -> Box<OpenSource> {
    if let Some(input) = &arguments.pf_ring {
        return crate::pfring::opener(arguments, input, queue);
    }
    match &arguments.source {
        Some(name) => {
            let name = name.clone();
            Box::new(move || source::open(&name))
        }
        None => {
            let cluster = arguments.cluster.unwrap_or_default();
            // Looking without sleeping is only fair on a CPU of one's own.
            let spin = !arguments.allow_unpinned;
            Box::new(move || Ok(source::queue(cluster, queue, spin)))
        }
    }
}
