//! Which packets a tool sees, and how it gets them.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use filter::{CompileError, Compiler, LoadError, Program};
use shm::{AttachError, Consumer, ConsumerOptions, ConsumerState, Frame, Reads};
use telemetry::admin;
use telemetry::process::Exit;

use crate::cpu;

/// Longest wait for packets, which bounds how long an end is waited for.
const WAIT: Duration = Duration::from_millis(100);

/// Which packets are looked at.
#[derive(Debug, Clone, Args)]
pub struct View {
    /// Queue whose packets are seen; without it those of all queues, each packet once.
    #[arg(short = 'i', long, value_name = "QUEUE", value_parser = queue)]
    pub queue: Option<u16>,
    /// Queues of this set only.
    #[arg(long, value_name = "SET", conflicts_with = "queue")]
    pub set: Option<u8>,
    /// Cluster of the balancer; by default that of CJ_CLUSTER_ID.
    #[arg(short, long, value_name = "ID", default_value_t = default_cluster())]
    pub cluster: u32,
    /// Take the packets, as the only consumer of the queue, instead of looking at them through a mirror.
    #[arg(long, requires = "queue")]
    pub take: bool,
    /// Packets that match this expression only; see pcap-filter(7).
    #[arg(short = 'f', long, value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// CPU of this process.
    #[arg(short = 'g', long, value_name = "CPU")]
    pub core: Option<usize>,
    /// Never sleep, for fewer losses.
    #[arg(short, long)]
    pub active: bool,
    /// End after this many packets.
    #[arg(short = 'n', long, value_name = "PACKETS")]
    pub packets: Option<u64>,
    /// End after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
}

/// Why no packets are to be seen.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The balancer does not let us.
    #[error("cluster {cluster}: {cause}{others}")]
    Attach {
        /// The cluster.
        cluster: u32,
        /// Why.
        cause: AttachError,
        /// Which clusters there are.
        others: String,
    },
    /// There is no compiler of expressions.
    #[error("-f: {0}")]
    Library(#[from] LoadError),
    /// The expression is none.
    #[error("-f: {0}")]
    Expression(#[from] CompileError),
    /// The CPU is not to be had.
    #[error("-g {core}: {cause}; this process may use CPUs {allowed}")]
    Cpu {
        /// The CPU.
        core: usize,
        /// CPUs that it may use.
        allowed: String,
        /// Why.
        cause: io::Error,
    },
    /// No handler for signals.
    #[error("cannot start: {0}")]
    System(io::Error),
    /// What was seen cannot be told.
    #[error("{to}: {cause}")]
    Write {
        /// Where it should have gone.
        to: String,
        /// Why.
        cause: io::Error,
    },
}

impl ViewError {
    /// The exit code for it.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Attach { cause: AttachError::NotPermitted(_), .. } => Exit::NoPerm,
            Self::Attach { .. } | Self::Library(_) => Exit::Unavailable,
            Self::Expression(_) | Self::Cpu { .. } => Exit::Usage,
            Self::System(_) => Exit::OsErr,
            Self::Write { .. } => Exit::IoErr,
        }
    }
}

/// Packets seen and missed by one reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Packets that the filter let through.
    pub(crate) packets: u64,
    /// Packets that came faster than they were read, whatever the filter.
    pub(crate) dropped: u64,
}

/// An attached view.
#[derive(Debug)]
pub(crate) struct Watch {
    consumer: Consumer,
    program: Option<Program>,
    end: Option<Instant>,
    left: u64,
    tool: &'static str,
    seen: Seen,
    was_attached: bool,
}

impl View {
    /// Attaches.
    pub(crate) fn open(&self, tool: &'static str) -> Result<Watch, ViewError> {
        let program = match &self.filter {
            Some(expression) => Some(Compiler::load()?.compile(expression)?),
            None => None,
        };
        cpu::pin(self.core).map_err(|cause| ViewError::Cpu {
            core: self.core.unwrap_or_default(),
            allowed: cpu::allowed(),
            cause,
        })?;
        let dir = admin::ipc_dir();
        let reads = match (self.queue, self.set) {
            (Some(queue), _) if self.take => Reads::Queue(queue),
            (Some(queue), _) => Reads::MirrorOfQueue(queue),
            (None, Some(set)) => Reads::MirrorOfSet(set),
            (None, None) => Reads::MirrorOfAll,
        };
        let mut options = ConsumerOptions::sleeping(dir.clone(), self.cluster, reads);
        if self.active {
            options.spin = WAIT;
        }
        let consumer = Consumer::connect(options).map_err(|cause| {
            let missing = matches!(cause, AttachError::NoServer { .. });
            let others = if missing { clusters(&dir) } else { String::new() };
            ViewError::Attach { cluster: self.cluster, cause, others }
        })?;
        Ok(Watch {
            consumer,
            program,
            end: self.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            left: self.packets.unwrap_or(u64::MAX),
            tool,
            seen: Seen::default(),
            was_attached: true,
        })
    }
}

impl Watch {
    /// Hands the packets of one burst to `each`; false when it is time to end.
    pub(crate) fn burst(
        &mut self,
        stop: &AtomicBool,
        each: &mut dyn FnMut(&Frame<'_>) -> Result<(), ViewError>,
    ) -> Result<bool, ViewError> {
        let late = self.end.is_some_and(|end| Instant::now() >= end);
        if stop.load(Ordering::Relaxed) || late || self.left == 0 {
            self.consumer.release();
            return Ok(false);
        }
        for frame in self.consumer.receive(WAIT).iter() {
            let wanted =
                self.program.as_ref().is_none_or(|p| p.takes(frame.data, frame.data.len()));
            if wanted && self.left > 0 {
                self.left -= 1;
                self.seen.packets += 1;
                each(&frame)?;
            }
        }
        self.seen.dropped = self.consumer.statistics().dropped;
        let attached = self.consumer.state() != ConsumerState::Detached;
        if attached != self.was_attached {
            self.was_attached = attached;
            let text =
                if attached { "zbalance is back" } else { "zbalance has gone; waiting for it" };
            eprintln!("{}: {text}", self.tool);
        }
        Ok(true)
    }

    /// Packets so far.
    pub(crate) const fn seen(&self) -> Seen {
        self.seen
    }
}

/// The label of the station's own scripts.
fn default_cluster() -> u32 {
    std::env::var("CJ_CLUSTER_ID").ok().and_then(|text| text.parse().ok()).unwrap_or(98)
}

fn queue(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|queue| *queue < 64);
    number.ok_or_else(|| "expected the number of a queue, from 0 to 63".to_owned())
}

/// The clusters of `dir`, as a hint.
fn clusters(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("ingest-")?.strip_suffix(".sock")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    match numbers.as_slice() {
        [] => format!("; no zbalance has its socket in {} (CJ_IPC_DIR)", dir.display()),
        numbers => {
            format!("; in {} are clusters {}: choose with -c", dir.display(), numbers.join(", "))
        }
    }
}
