//! What a worker's wishes lead to: tun device, candidate queue, pending table, log.

use crate::candidates::Candidates;
use crate::clock::Millis;
use crate::log::{self, Level};
use crate::pending::{Outcome, Pending};
use crate::sessions::{PackedKey, Sessions};
use crate::worker::{Endpoints, Exits, TestString};
use capture::tun::Tun;
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
}

impl PacketSink for Tun {
    fn send(&self, packet: &[u8]) -> io::Result<()> {
        Self::send(self, packet)
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
    /// The last packet was refused, so that the next refusal is no news.
    pub failing: bool,
}

impl std::fmt::Debug for Outlets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlets").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Exits for Outlets {
    #[inline]
    fn forward(&mut self, packet: &[u8]) -> bool {
        match self.sink.send(packet) {
            Ok(()) => {
                self.failing = false;
                true
            }
            Err(error) => {
                if !self.failing {
                    self.failing = true;
                    let text = format_args!("failed to send packet into tun: {error}");
                    log::line(self.queue, Level::Warn, text);
                }
                false
            }
        }
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
