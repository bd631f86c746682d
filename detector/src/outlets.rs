//! What a worker's wishes lead to: tun device, candidate queue, pending table, log.

use crate::candidates::Candidates;
use crate::clock::Millis;
use crate::log::{self, Level};
use crate::pending::{Outcome, Pending};
use crate::sessions::{PackedKey, Sessions};
use crate::worker::{Endpoints, Exits, TestString};
use capture::tun::{Batch, Sent, Tun};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where packets of sessions go.
pub trait PacketSink: Send + Sync {
    /// Takes one IP packet.
    ///
    /// # Errors
    /// When the packet is lost.
    fn send(&self, packet: &[u8]) -> io::Result<()>;

    /// The device that takes the packets of a burst together, where there is one.
    fn batches(&self) -> Option<&Tun> {
        None
    }
}

impl PacketSink for Tun {
    fn send(&self, packet: &[u8]) -> io::Result<()> {
        Self::send(self, packet)
    }

    fn batches(&self) -> Option<&Tun> {
        self.takes_batches().then_some(self)
    }
}

/// Takes packets where there is nobody to take them, as in a replay without a tun device.
#[derive(Debug, Clone, Copy)]
pub struct Discard;

impl PacketSink for Discard {
    fn send(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Packets of one burst on their way into a sink.
#[derive(Debug, Default)]
pub struct Passage {
    /// Where packets wait for the end of the burst, if the sink takes them together.
    batch: Option<Box<Batch>>,
    sent: Sent,
    /// The last packet was refused, so that the next refusal is no news.
    failing: bool,
}

impl Passage {
    /// A passage into `sink`.
    pub fn into(sink: &dyn PacketSink) -> Self {
        Self { batch: sink.batches().map(|tun| Box::new(tun.batch())), ..Self::default() }
    }

    /// Takes a packet, which is in the sink when [`finish`](Self::finish) returns.
    #[inline]
    pub fn push(&mut self, sink: &dyn PacketSink, packet: &[u8]) {
        if self.batch.as_mut().is_some_and(|batch| batch.push(packet)) {
            return;
        }
        self.flush(sink);
        if !self.batch.as_mut().is_some_and(|batch| batch.push(packet)) {
            self.sent.note(1, packet.len() as u64, sink.send(packet));
        }
    }

    fn flush(&mut self, sink: &dyn PacketSink) {
        if let (Some(batch), Some(tun)) = (&mut self.batch, sink.batches()) {
            self.sent.add(tun.flush(batch));
        }
    }

    /// What became of the packets, and whether the refusal of some is news.
    pub fn finish(&mut self, sink: &dyn PacketSink) -> (Sent, bool) {
        self.flush(sink);
        let sent = std::mem::take(&mut self.sent);
        let news = sent.lost > 0 && !self.failing;
        if sent.lost > 0 || sent.packets > 0 {
            self.failing = sent.lost > 0;
        }
        (sent, news)
    }
}

/// The exits of a real worker.
pub struct Outlets {
    /// Index of the worker.
    pub worker: usize,
    /// Number of its queue, for log lines.
    pub queue: usize,
    /// Its tun device.
    pub sink: Arc<dyn PacketSink>,
    /// Its candidates.
    pub candidates: Arc<Candidates>,
    /// Packets that wait for a session.
    pub pending: Arc<Pending>,
    /// Sessions of all workers.
    pub sessions: Arc<Sessions>,
    /// Wait for room in the candidate queue: a replay must not lose any.
    pub patient: bool,
    /// The way into the sink.
    pub passage: Passage,
}

impl std::fmt::Debug for Outlets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlets").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Exits for Outlets {
    #[inline]
    fn forward(&mut self, packet: &[u8]) {
        self.passage.push(&*self.sink, packet);
    }

    #[inline]
    fn finish(&mut self) -> Sent {
        let (sent, news) = self.passage.finish(&*self.sink);
        if let Some(error) = &sent.alone {
            let text =
                format_args!("live frames: {error}; acknowledgements go one by one from now on");
            log::line(self.queue, Level::Warn, text);
        }
        if let (true, Some(error)) = (news, &sent.error) {
            let text = format_args!("failed to send packet into tun: {error}");
            log::line(self.queue, Level::Warn, text);
        }
        sent
    }

    fn candidate(&mut self, flow: Endpoints, payload: &[u8]) -> bool {
        loop {
            if self.candidates.push(flow, payload) {
                return true;
            }
            if !self.patient {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn hold(&mut self, key: PackedKey, packet: &[u8], now: Millis) -> Outcome {
        self.pending.hold(&self.sessions, key, self.worker, packet, now)
    }

    fn test_string(&mut self, which: TestString, source: SocketAddr, destination: SocketAddr) {
        let text = match which {
            TestString::Tcp => "Validated traffic from",
            TestString::Udp => "Validated UDP traffic from",
        };
        let flow = log::flow(source, destination);
        log::line(self.queue, Level::Debug, format_args!("{text} {flow}"));
    }
}
