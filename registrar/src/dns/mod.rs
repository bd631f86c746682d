//! The DNS registrar over sockets (`spec/registrar.md` 9): UDP, and TCP on the same port.

mod listen;
mod tcp;
mod udp;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use conf::RegistrarLogLevel as Level;
use parking_lot::Mutex;
use registration::channel::Channel;
use registration::dns::{Drops, Inquiry, Over, Parts, PartsLimits, Read, Responder, Unanswered};
use registration::message::Wrapper;
use signalling::{DnsResponse, Message as _, RegistrationSource, raw};
use tokio::net::{TcpListener, UdpSocket};

use crate::buckets::{Buckets, Rate};
use crate::log;
use crate::metrics::Counter;
use crate::processor::Processor;
use crate::stop::Stopped;

pub use listen::{ListenError, Listeners};

/// Tables of parts, so that workers do not wait for each other.
const SHARDS: usize = 16;
/// Errors that one network gets: enough for any resolver, too little to flood somebody with.
const ERRORS: Rate = Rate { per_second: 100, burst: 400, v4: 24, v6: 48 };
/// Bytes that parts and replies of one registration take at most, with everything around them.
const BYTES_PER_ID: usize = 2048;
/// Field of a `DnsResponse` that carries the bidirectional response.
const BIDIRECTIONAL_RESPONSE: u32 = 3;

/// What answers queries.
#[derive(Debug)]
pub struct DnsService {
    processor: Arc<Processor>,
    responder: Responder,
    /// Registrations in progress, by a hash of their id that strangers cannot steer.
    shards: Vec<Mutex<Parts>>,
    hasher: RandomState,
    errors: Buckets,
    start: Instant,
}

impl DnsService {
    /// A service that keeps at most `pending` registrations.
    pub fn new(processor: Arc<Processor>, responder: Responder, pending: usize) -> Self {
        let ids = pending.div_ceil(SHARDS).max(1);
        let limits = PartsLimits { ids, bytes: ids * BYTES_PER_ID, ..PartsLimits::default() };
        Self {
            processor,
            responder,
            shards: (0..SHARDS).map(|_| Mutex::new(Parts::new(limits))).collect(),
            hasher: RandomState::new(),
            errors: Buckets::new(ERRORS),
            start: Instant::now(),
        }
    }

    /// The reply to one query of `peer`; `None` for none.
    pub fn answer(&self, query: &[u8], over: Over, peer: IpAddr) -> Option<Vec<u8>> {
        let metrics = &self.processor.metrics;
        metrics.add(match over {
            Over::Udp => Counter::DnsUdp,
            Over::Tcp => Counter::DnsTcp,
        });
        match self.responder.read(query, over) {
            Read::Inquiry(inquiry) => self.inquire(&inquiry),
            Read::Error(_, reply) => {
                metrics.add(Counter::DnsErrors);
                // A connection shows that its peer is where it says.
                if over == Over::Udp && !self.errors.take(peer) {
                    metrics.add(Counter::DnsErrorsLimited);
                    return None;
                }
                Some(reply)
            }
            Read::Nothing(why) => {
                metrics.add(match why {
                    Unanswered::Response | Unanswered::Amplification => Counter::DnsResponses,
                    Unanswered::Frame => Counter::DnsFrames,
                    Unanswered::Sealed => Counter::DnsSealed,
                    Unanswered::Message => Counter::DnsMessages,
                });
                None
            }
        }
    }

    fn inquire(&self, inquiry: &Inquiry) -> Option<Vec<u8>> {
        let shard = self.hasher.hash_one(inquiry.payload.id()) as usize % SHARDS;
        let now = self.start.elapsed();
        // The lock is held while the registration is processed, which takes some ten microseconds, so
        // that a copy of the last part cannot publish it twice.
        let mut parts = self.shards[shard].lock();
        let before = parts.drops();
        let plaintext = inquiry.payload.offer(&mut parts, now, |whole| self.register(whole));
        let after = parts.drops();
        drop(parts);
        self.count(before, after);
        inquiry.answer(&plaintext?)
    }

    fn count(&self, before: Drops, after: Drops) {
        let metrics = &self.processor.metrics;
        metrics.add_many(Counter::DnsPartsExpired, after.expired - before.expired);
        metrics.add_many(Counter::DnsPartsEvicted, after.evicted - before.evicted);
        metrics.add_many(Counter::DnsPartsMalformed, after.malformed - before.malformed);
        let contradicting = after.contradicting - before.contradicting;
        metrics.add_many(Counter::DnsPartsContradicting, contradicting);
    }

    /// The `DnsResponse` to a whole registration; `None` when it is none. Success and the outdated flag
    /// are always written.
    fn register(&self, whole: &[u8]) -> Option<Vec<u8>> {
        self.processor.metrics.add(Counter::DnsRequests);
        let wrapper = Wrapper::decode(whole).ok()?;
        let outdated = crate::pipeline::is_outdated(&wrapper, &self.processor.snapshot.load());
        let bidirectional = wrapper.source() == Some(RegistrationSource::BidirectionalDns as i32);
        let channel = if bidirectional { Channel::BidirectionalDns } else { Channel::Dns };
        let published = self.processor.register(wrapper, channel, None);
        let mut reply = DnsResponse {
            success: Some(published.is_ok()),
            clientconf_outdated: Some(outdated),
            bidirectional_response: None,
        }
        .encode_to_vec();
        if let Ok(response) = published
            && let Some(response) = response.response
        {
            raw::put_bytes(&mut reply, BIDIRECTIONAL_RESPONSE, &response);
        }
        Some(reply)
    }

    /// Registrations that are in progress or kept for retries.
    pub fn pending(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Serves `listeners` with `workers` tasks for UDP, until it is told to stop. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the runtime does not take the sockets.
    pub fn serve(
        self: &Arc<Self>,
        listeners: Listeners,
        workers: usize,
        stopped: &Stopped,
    ) -> std::io::Result<()> {
        let Listeners { udp, tcp } = listeners;
        let udp = Arc::new(UdpSocket::from_std(udp)?);
        let tcp = Arc::new(TcpListener::from_std(tcp)?);
        for _ in 0..workers.max(1) {
            let (service, socket) = (Arc::clone(self), Arc::clone(&udp));
            let stopped = stopped.clone();
            supervise(move || work(Arc::clone(&service), Arc::clone(&socket), stopped.clone()));
        }
        let (service, stopped) = (Arc::clone(self), stopped.clone());
        supervise(move || accept(Arc::clone(&service), Arc::clone(&tcp), stopped.clone()));
        Ok(())
    }

    fn processor(&self) -> &Processor {
        &self.processor
    }
}

async fn work(service: Arc<DnsService>, socket: Arc<UdpSocket>, mut stopped: Stopped) {
    tokio::select! {
        () = udp::work(service, socket) => {}
        () = stopped.wait() => {}
    }
}

async fn accept(service: Arc<DnsService>, listener: Arc<TcpListener>, mut stopped: Stopped) {
    tokio::select! {
        () = tcp::serve(service, listener) => {}
        () = stopped.wait() => {}
    }
}

/// Runs a task for ever: one that panics is reported and begun again.
fn supervise<F>(task: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            if tokio::spawn(task()).await.is_ok() {
                return;
            }
            log::line(Level::Error, "a DNS worker failed and is started again", &[]);
        }
    });
}

/// Where a service listens, for log lines.
impl std::fmt::Display for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address() {
            Some(address) => SocketAddr::fmt(&address, f),
            None => f.write_str("unknown"),
        }
    }
}
