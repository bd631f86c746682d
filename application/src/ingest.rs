//! From the sources of registrations to the workers (`spec/application.md` 4 and 5).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use bus::{Publisher, Subscriber};
use bytes::Bytes;
use telemetry::log::Logger;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bound::Bound;
use crate::covert::Resolver;
use crate::liveness::Dialer;
use crate::pipeline::Pipeline;
use crate::screen::Screen;
use crate::sources::Source;
use crate::stats::{BUS_QUEUE, Stats};
use crate::throttle::Throttle;

/// Hands what may be believed of every message of one source to the fan-in socket, to which
/// external tools subscribe. `address` is the source's.
pub async fn forward(
    mut source: Source,
    address: String,
    screen: Screen,
    fan_in: Arc<Publisher>,
    log: Logger,
) {
    let throttle = Throttle::default();
    loop {
        let message = source.recv().await;
        let said = match screen.apply(message) {
            Ok((message, refusal)) => {
                fan_in.publish(message);
                refusal.map(|refusal| format!("response of the registrar refused: {refusal}"))
            }
            Err(error) => Some(format!("message dropped: {error}")),
        };
        let Some(text) = said else { continue };
        match throttle.take(Instant::now()) {
            Some(0) => log.error(format_args!("source {address}: {text}")),
            Some(n) => log.error(format_args!("source {address}: {text} ({n} more before)")),
            None => {}
        }
    }
}

/// Queue between the ingest subscriber and the workers; full means that the newest is dropped.
#[derive(Debug)]
pub struct IngestQueue {
    queue: mpsc::Sender<Bytes>,
    stats: Arc<Stats>,
}

impl IngestQueue {
    /// A queue and its reading end.
    pub fn new(stats: Arc<Stats>) -> (Self, mpsc::Receiver<Bytes>) {
        let (queue, messages) = mpsc::channel(BUS_QUEUE);
        (Self { queue, stats }, messages)
    }

    /// Offers one message; false when it was dropped.
    pub fn offer(&self, message: Bytes) -> bool {
        self.stats.ingest.received.count();
        if self.queue.try_send(message).is_ok() {
            self.stats.ingest.waiting.up();
            true
        } else {
            self.stats.ingest.dropped.count();
            false
        }
    }
}

/// Reads the ingest subscriber for ever.
pub async fn subscribe(mut subscriber: Subscriber, queue: IngestQueue, log: Logger) {
    loop {
        let message = subscriber.recv().await;
        if !queue.offer(message) {
            log.warn("ingest full, dropping zmq message");
        }
    }
}

/// Places for registrations that wait: one for each worker, and a tenth more.
pub fn places(workers: usize) -> Bound {
    Bound::new(workers + workers / 10)
}

/// Takes each message to its end, or gives it to a worker where it has to wait for a name or a
/// probe. When all are busy the newest is dropped: a registration that
/// has waited long is of no use to its client any more.
pub async fn distribute<D: Dialer, R: Resolver + 'static>(
    mut messages: mpsc::Receiver<Bytes>,
    workers: Arc<Bound>,
    pipeline: Arc<Pipeline<D, R>>,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { break };
                let stats = &pipeline.stats.ingest;
                stats.waiting.down();
                stats.offered.count();
                let Ok(permit) = workers.try_enter() else {
                    stats.busy.count();
                    pipeline.log.trace("dropping registration");
                    continue;
                };
                // Most need no worker. A message that makes it panic costs itself and nothing else.
                let begun = catch_unwind(AssertUnwindSafe(|| pipeline.begin(&message)));
                if let Ok(Some(waiting)) = begun {
                    let pipeline = Arc::clone(&pipeline);
                    running.spawn(async move {
                        pipeline.finish(waiting).await;
                        drop(permit);
                    });
                }
            }
            // So does one that makes its worker panic.
            Some(_) = running.join_next() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::{Hosts, message, pipeline};
    use signalling::Message;

    /// More messages at once than there are workers: those that need none are all taken.
    #[tokio::test]
    async fn a_burst_needs_no_workers() {
        let pipeline = Arc::new(pipeline(Hosts));
        let (queue, messages) = IngestQueue::new(Arc::clone(&pipeline.stats));
        for seed in 0..100 {
            assert!(queue.offer(message(seed, "198.51.100.2:80").encode_to_vec().into()));
        }
        for seed in 100..103 {
            assert!(queue.offer(message(seed, "never.example:80").encode_to_vec().into()));
        }
        drop(queue);
        let distributing =
            tokio::spawn(distribute(messages, Arc::new(places(2)), Arc::clone(&pipeline)));
        while pipeline.stats.ingest.offered.total() < 103 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pipeline.stats.registrations.new.total(), 100);
        assert_eq!(pipeline.stats.ingest.busy.total(), 1, "two workers wait for a name");
        distributing.abort();
    }
}
