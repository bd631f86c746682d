//! Which packets are written: targets, flows and limits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::anonymize::{self, Key, Pseudonym};
use crate::arguments::Arguments;
use crate::frame::Packet;
use crate::geo::{Geo, Place};

/// Flows that are known at one time; later ones are not written.
const MAX_FLOWS: usize = 1 << 20;

/// A flow that is written.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Who the client is in the output.
    pub pseudonym: Pseudonym,
    /// Its network.
    pub network: IpNet,
    /// Where it is.
    pub place: Place,
    packets: u64,
}

/// What becomes of a packet.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// It is written; the client is its source when `upload`.
    Write {
        /// Its flow.
        flow: &'a Flow,
        /// From the client.
        upload: bool,
    },
    /// It is not.
    Leave,
    /// Neither is any other from now on.
    Stop,
}

/// Packets and flows of an AS or a country.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    packets: u64,
    flows: u64,
}

impl Used {
    const fn may(self, packets: u64, flows: u64, new: bool) -> bool {
        (packets == 0 || self.packets < packets) && (!new || flows == 0 || self.flows < flows)
    }
}

/// Counts of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets seen.
    pub seen: u64,
    /// Packets written.
    pub written: u64,
    /// Flows written.
    pub flows: u64,
    /// Flows that were too many to be known.
    pub overflowed: u64,
}

/// Decides, packet by packet.
#[derive(Debug)]
pub struct Selection {
    options: Arguments,
    key: Key,
    geo: Geo,
    flows: HashMap<(SocketAddr, SocketAddr, bool), Flow>,
    by_asn: HashMap<u32, Used>,
    by_country: HashMap<String, Used>,
    counts: Counts,
}

impl Selection {
    /// Selects as `options` say.
    pub fn new(options: Arguments, key: Key, geo: Geo) -> Self {
        let (flows, by_asn, by_country) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { options, key, geo, flows, by_asn, by_country, counts: Counts::default() }
    }

    /// Counts so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the packet comes from a client; `None` when it is not of a target.
    fn is_upload(&self, packet: &Packet) -> Option<bool> {
        let inside =
            |nets: &[IpNet], address: IpAddr| nets.iter().any(|net| net.contains(&address));
        let (source, destination) = (packet.source.ip(), packet.destination.ip());
        let except = &self.options.except;
        if inside(except, source) || inside(except, destination) {
            return None;
        }
        if self.options.v4 && source.is_ipv6() || self.options.v6 && source.is_ipv4() {
            return None;
        }
        match (inside(&self.options.targets, source), inside(&self.options.targets, destination)) {
            (true, _) => Some(false),
            (false, true) => Some(true),
            (false, false) => None,
        }
    }

    /// Decides over one packet.
    pub fn decide(&mut self, packet: &Packet) -> Verdict<'_> {
        self.counts.seen += 1;
        if self.options.lp > 0 && self.counts.written >= self.options.lp {
            return Verdict::Stop;
        }
        let Some(upload) = self.is_upload(packet) else { return Verdict::Leave };
        let (client, peer) = if upload {
            (packet.source, packet.destination)
        } else {
            (packet.destination, packet.source)
        };
        let key = (client, peer, packet.tcp);
        let new = !self.flows.contains_key(&key);
        if new {
            // A connection counts from its beginning.
            if packet.tcp && !packet.syn || !self.admit(client, peer, packet.tcp) {
                return Verdict::Leave;
            }
        }
        let Some(flow) = self.flows.get_mut(&key) else { return Verdict::Leave };
        let Arguments { ppf, lpa, lfa, lpc, lfc, .. } = self.options;
        let asn = self.by_asn.entry(flow.place.asn).or_default();
        let country = self.by_country.entry(flow.place.country.clone()).or_default();
        let within = (ppf == 0 || flow.packets < ppf)
            && asn.may(lpa, lfa, false)
            && country.may(lpc, lfc, false);
        if !within {
            return Verdict::Leave;
        }
        flow.packets += 1;
        asn.packets += 1;
        country.packets += 1;
        self.counts.written += 1;
        Verdict::Write { flow, upload }
    }

    /// Takes a flow in, if the limits let it.
    fn admit(&mut self, client: SocketAddr, peer: SocketAddr, tcp: bool) -> bool {
        let options = &self.options;
        if options.lf > 0 && self.counts.flows >= options.lf {
            return false;
        }
        if self.flows.len() >= MAX_FLOWS {
            self.counts.overflowed += 1;
            return false;
        }
        let place = self.geo.place(client.ip());
        if !options.asns.is_empty() && !options.asns.contains(&place.asn)
            || !options.ccs.is_empty() && !options.ccs.contains(&place.country)
        {
            return false;
        }
        let asn = self.by_asn.entry(place.asn).or_default();
        let country = self.by_country.entry(place.country.clone()).or_default();
        if !asn.may(options.lpa, options.lfa, true) || !country.may(options.lpc, options.lfc, true)
        {
            return false;
        }
        asn.flows += 1;
        country.flows += 1;
        self.counts.flows += 1;
        let network = anonymize::network(client.ip(), place.prefix_len);
        let pseudonym = self.key.pseudonym(client, peer, network);
        self.flows.insert((client, peer, tcp), Flow { pseudonym, network, place, packets: 0 });
        true
    }
}
