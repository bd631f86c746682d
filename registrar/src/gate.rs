//! What a request has to pass before it is looked at; a reload replaces it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::buckets::{Buckets, Rate};

/// The rules at the door of HTTP and gRPC.
#[derive(Debug)]
pub struct Gate(ArcSwap<Rules>);

/// Those in force.
#[derive(Debug)]
pub struct Rules {
    /// Proxies whose header is believed; `None` for the reference's rule.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Longest accepted body in bytes.
    pub max_body: usize,
    /// Registrations of one client; `None` for any number.
    pub clients: Option<Arc<Buckets>>,
}

impl Gate {
    /// The rules of a configuration.
    pub fn new(registrar: &conf::Registrar) -> Self {
        let rate = rate(registrar);
        Self(ArcSwap::from_pointee(Rules {
            trusted_proxies: registrar.trusted_proxies.clone(),
            max_body: registrar.max_body_bytes,
            clients: rate.map(|rate| Arc::new(Buckets::new(rate))),
        }))
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.load_full()
    }

    /// Takes the rules of `registrar`. Buckets whose rate stays keep what they know.
    pub fn adopt(&self, registrar: &conf::Registrar) {
        let (old, rate) = (self.rules(), rate(registrar));
        let kept = old.clients.as_ref().filter(|buckets| Some(buckets.rate()) == rate).cloned();
        self.0.store(Arc::new(Rules {
            trusted_proxies: registrar.trusted_proxies.clone(),
            max_body: registrar.max_body_bytes,
            clients: kept.or_else(|| rate.map(|rate| Arc::new(Buckets::new(rate)))),
        }));
    }
}

/// Registrations of one client, which is an IPv4 address or an IPv6 network of 64 bits.
fn rate(registrar: &conf::Registrar) -> Option<Rate> {
    let (per_second, burst) = (registrar.client_rate, registrar.client_burst);
    (per_second > 0).then_some(Rate { per_second, burst, v4: 32, v6: 64 })
}
