//! Where a worker's frames come from.

use crate::triage::GROUP;
use shm::{Consumer, ConsumerOptions, ConsumerState, FrameFlags, Packed};
use std::time::{Duration, Instant};

/// What a burst brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burst {
    /// This many frames, possibly none within the time given.
    Frames(usize),
    /// There will be no more.
    Ended,
}

/// What is known of frames that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct About {
    /// When they were captured, in nanoseconds, where that is not now.
    pub stamp: Option<u64>,
    /// Those of the first 32 whose layer-4 checksum was never computed, one bit each, the first one's the lowest.
    pub incomplete: u32,
}

/// Takes frames that lie side by side.
pub type Each<'a> = dyn FnMut(&[&[u8]], About) + 'a;

/// Something that hands out captured Ethernet frames.
pub trait FrameSource: Send {
    /// Waits at most `timeout` for frames and hands them to `each`, as many at a time as lie side by
    /// side.
    ///
    /// # Errors
    /// When the source has failed; it may be opened anew.
    fn burst(&mut self, timeout: Duration, each: &mut Each<'_>) -> std::io::Result<Burst>;

    /// Frames that were dropped before they reached this source's reader, since it was opened.
    fn dropped(&mut self) -> u64;

    /// One word and its reason, for the operator.
    fn state(&self) -> SourceState;

    /// Gives the source away to a successor of this process; `None` for one that cannot be.
    fn pack(self: Box<Self>) -> Option<Packed> {
        None
    }
}

/// The queue `queue` of `cluster`, which need not exist yet. With `spin` it is looked at for a
/// moment before the worker sleeps, which a processor that is shared with others does not allow.
pub fn queue(cluster: u32, queue: usize, spin: bool) -> Box<dyn FrameSource> {
    let queue = u16::try_from(queue).unwrap_or(u16::MAX);
    let mut options = ConsumerOptions::new(telemetry::admin::ipc_dir(), cluster, queue);
    if !spin {
        options.spin = Duration::ZERO;
    }
    Box::new(Queue(Consumer::detached(options)))
}

/// The same queue, as a predecessor gave it away; when that is not possible it is attached anew.
pub fn unpacked(
    cluster: u32,
    queue_number: usize,
    spin: bool,
    packed: Packed,
) -> Box<dyn FrameSource> {
    let number = u16::try_from(queue_number).unwrap_or(u16::MAX);
    let mut options = ConsumerOptions::new(telemetry::admin::ipc_dir(), cluster, number);
    if !spin {
        options.spin = Duration::ZERO;
    }
    match Consumer::unpack(options, packed) {
        Ok(consumer) => Box::new(Queue(consumer)),
        Err(error) => {
            eprintln!("detector: queue {queue_number} is attached anew: {error}");
            queue(cluster, queue_number, spin)
        }
    }
}

/// Opens the source that `-i` names.
///
/// # Errors
/// When it does not exist or may not be opened.
pub fn open(name: &str) -> std::io::Result<Box<dyn FrameSource>> {
    let source = capture::open(name).map_err(std::io::Error::other)?;
    let recording = name.starts_with("pcap:");
    Ok(Box::new(Captured { source, recording, down: None, next_attempt: Instant::now() }))
}

/// Whether frames can come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SourceState {
    /// Not opened yet.
    #[default]
    Starting,
    /// They can.
    Attached,
    /// They cannot; it is tried again. With the reason.
    Waiting(String),
}

/// A queue of zbalance.
#[derive(Debug)]
pub struct Queue(Consumer);

impl FrameSource for Queue {
    fn burst(&mut self, timeout: Duration, each: &mut Each<'_>) -> std::io::Result<Burst> {
        let burst = self.0.receive(timeout);
        let count = burst.len();
        let mut frames = burst.iter();
        let mut group: [&[u8]; GROUP] = [&[]; GROUP];
        loop {
            let (mut filled, mut incomplete) = (0, 0);
            for (slot, frame) in group.iter_mut().zip(&mut frames) {
                *slot = frame.data;
                let is = frame.flags.has(FrameFlags::CHECKSUM_INCOMPLETE);
                incomplete |= u32::from(is) << filled;
                filled += 1;
            }
            if filled == 0 {
                return Ok(Burst::Frames(count));
            }
            each(&group[..filled], About { stamp: None, incomplete });
        }
    }

    fn dropped(&mut self) -> u64 {
        let statistics = self.0.statistics();
        statistics.dropped + statistics.errors
    }

    fn state(&self) -> SourceState {
        match (self.0.state(), self.0.last_error()) {
            (ConsumerState::Attached { .. }, _) => SourceState::Attached,
            (ConsumerState::Detached, Some(error)) => SourceState::Waiting(error.to_string()),
            (ConsumerState::Detached, None) => SourceState::Starting,
        }
    }

    fn pack(self: Box<Self>) -> Option<Packed> {
        self.0.pack()
    }
}

/// Frames of one call: enough to make it cheap, few enough to look at the clock often.
const BURST: usize = 64;

/// Pause between attempts to go on after an interface went away.
const RESUME: Duration = Duration::from_millis(500);

/// An interface or a recording that is read without zbalance.
struct Captured {
    source: Box<dyn capture::Source>,
    recording: bool,
    /// Why nothing comes at present.
    down: Option<String>,
    next_attempt: Instant,
}

impl Captured {
    /// Goes on with an interface that is there again; the open socket is used, so it takes no
    /// privilege.
    fn resume(&mut self, timeout: Duration) {
        if Instant::now() < self.next_attempt {
            std::thread::sleep(timeout);
            return;
        }
        self.next_attempt = Instant::now() + RESUME;
        match self.source.resume() {
            Ok(()) => self.down = None,
            Err(error) => self.down = Some(error.to_string()),
        }
    }
}

impl FrameSource for Captured {
    fn burst(&mut self, timeout: Duration, each: &mut Each<'_>) -> std::io::Result<Burst> {
        let recording = self.recording;
        if self.down.is_some() {
            self.resume(timeout);
            return Ok(Burst::Frames(0));
        }
        let mut hand = |frame: capture::Frame<'_>| {
            let stamp = recording.then_some(frame.timestamp);
            each(&[frame.data], About { stamp, incomplete: frame.checksum_incomplete.into() });
        };
        match self.source.burst(BURST, timeout, &mut hand) {
            Ok(capture::Burst::Frames(count)) => Ok(Burst::Frames(count)),
            Ok(capture::Burst::Ended) => Ok(Burst::Ended),
            // Opened anew, a recording would be replayed twice.
            Err(error) if recording => {
                eprintln!("detector: the recording ends here: {error}");
                Ok(Burst::Ended)
            }
            Err(error) => {
                self.down = Some(error.to_string());
                self.next_attempt = Instant::now() + RESUME;
                Ok(Burst::Frames(0))
            }
        }
    }

    fn dropped(&mut self) -> u64 {
        self.source.statistics().dropped
    }

    fn state(&self) -> SourceState {
        match &self.down {
            Some(reason) => SourceState::Waiting(reason.clone()),
            None => SourceState::Attached,
        }
    }
}
