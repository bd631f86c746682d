//! What all channels share: the snapshot, the rules, the publisher, the counters.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bus::{NatsPublisher, Publisher};
use bytes::Bytes;
use conf::RegistrarLogLevel as Level;
use registration::channel::Channel;
use registration::http::Refusal;
use registration::message::Wrapper;

use crate::log;
use crate::metrics::{Counter, Metrics};
use crate::pipeline;
use crate::snapshot::{Rules, Snapshot};

/// Completes and publishes registrations.
#[derive(Debug)]
pub struct Processor {
    /// What requests are answered from; replaced on reload.
    pub snapshot: ArcSwap<Snapshot>,
    /// Rules of the configuration; replaced on reload.
    pub rules: ArcSwap<Rules>,
    /// Where accepted registrations go.
    pub publisher: Arc<Publisher>,
    /// And over NATS, for a fleet.
    pub nats: Option<NatsPublisher>,
    /// Counters.
    pub metrics: Metrics,
}

/// A registration that was published.
#[derive(Debug)]
pub struct Published {
    /// Serialized `RegistrationResponse` of a bidirectional registration, without ClientConf.
    pub response: Option<Vec<u8>>,
    /// The client is due the ClientConf of this snapshot.
    pub newer: Option<Arc<Snapshot>>,
}

impl Processor {
    /// Completes and publishes `wrapper`; `address` is the client's, where the channel knows one.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with; nothing is published then.
    pub fn register(
        &self,
        mut wrapper: Wrapper<'_>,
        channel: Channel,
        address: Option<&[u8]>,
    ) -> Result<Published, Refusal> {
        if wrapper.claims_station() && !self.is_sharer(address) {
            self.metrics.add(Counter::ClaimsRefused);
            wrapper.disclaim();
        }
        let snapshot = self.snapshot.load_full();
        let due = channel.delivers_client_conf() && pipeline::is_outdated(&wrapper, &snapshot);
        if due {
            self.metrics.add(Counter::ConfUpdated);
        }
        let debug = log::enabled(Level::Debug);
        let id = debug.then(|| secret_prefix(wrapper.secret()));
        let rng = &mut rand::rng();
        let rules = self.rules.load();
        let result = pipeline::process(wrapper, channel, address, &snapshot, &rules, rng);
        let accepted = match result {
            Ok(accepted) => accepted,
            Err(refusal) => {
                // Strangers cause these: they are counted, and told one by one only on request.
                self.refused(refusal, channel);
                return Err(refusal);
            }
        };
        self.metrics.processed(channel);
        let message = Bytes::from(accepted.publication);
        if let Some(nats) = &self.nats {
            // What does not fit is dropped and counted there.
            nats.publish(message.clone());
        }
        self.publisher.publish(message);
        if let Some(id) = id {
            log::line(
                Level::Debug,
                "registration successful",
                &[("registration_source", &channel.source().as_str_name()), ("reg_id", &id)],
            );
        }
        Ok(Published { response: accepted.response, newer: due.then_some(snapshot) })
    }

    /// Whether the peer at `address`, of 16 bytes, may claim what only stations can know.
    fn is_sharer(&self, address: Option<&[u8]>) -> bool {
        let rules = self.rules.load();
        let Some(sharers) = &rules.sharers else { return true };
        let address = address.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let address = address.map(|bytes| IpAddr::from(bytes).to_canonical());
        address.is_some_and(|address| sharers.iter().any(|net| net.contains(&address)))
    }

    /// Counts a refused request of `channel`.
    pub fn refused(&self, refusal: Refusal, channel: Channel) {
        self.metrics.add(Counter::Refused);
        if log::enabled(Level::Debug) {
            log::line(
                Level::Debug,
                &format!("registration failed: {refusal}"),
                &[("registration_source", &channel.source().as_str_name())],
            );
        }
    }
}

/// Enough of a secret to find its lines, too little to use it.
fn secret_prefix(secret: &[u8]) -> String {
    secret.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}
