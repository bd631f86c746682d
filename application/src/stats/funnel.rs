//! How far registrations come: by channel and transport, and by what is known of where they are from.
//!
//! Beside each count stands the number of distinct clients behind it, counted no further than the
//! privacy floor, so that whoever shows the counts can leave out what tells of a few clients alone.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use parking_lot::Mutex;
use signalling::station::{FunnelStatus, OriginStatus};

use crate::registration::Registration;

/// Countries, networks or subnets that are kept apart; later ones are not.
const MAX_ROWS: usize = 4096;

/// Counts of one row.
#[derive(Debug, Default)]
struct Row {
    clients: BTreeSet<u64>,
    registered: u64,
    valid: u64,
    connected: u64,
    up: u64,
    down: u64,
}

impl Row {
    fn add(&mut self, step: Step, floor: usize) {
        match step {
            Step::Registered => self.registered += 1,
            Step::Valid(client) => {
                self.valid += 1;
                if let Some(client) = client.filter(|_| self.clients.len() < floor) {
                    self.clients.insert(client);
                }
            }
            Step::Connected => self.connected += 1,
            Step::Ended(up, down) => {
                self.up += up;
                self.down += down;
            }
        }
    }
}

/// What happened to a registration.
#[derive(Debug, Clone, Copy)]
enum Step {
    Registered,
    /// Of the client with this hash.
    Valid(Option<u64>),
    Connected,
    Ended(u64, u64),
}

#[derive(Debug, Default)]
struct Rows {
    channels: BTreeMap<(i32, &'static str), Row>,
    countries: BTreeMap<[u8; 2], Row>,
    networks: BTreeMap<u32, Row>,
    subnets: BTreeMap<IpAddr, Row>,
}

/// The counts since the start.
#[derive(Debug)]
pub struct Funnel {
    floor: usize,
    /// Keyed at random, so that a hash says nothing about an address outside this process.
    hasher: RandomState,
    rows: Mutex<Rows>,
}

impl Default for Funnel {
    fn default() -> Self {
        Self::new(telemetry::metrics::floor().unwrap_or(telemetry::metrics::DEFAULT_FLOOR))
    }
}

impl Funnel {
    /// Counts distinct clients up to `floor`.
    pub fn new(floor: u32) -> Self {
        Self { floor: floor as usize, hasher: RandomState::new(), rows: Mutex::default() }
    }

    /// A registration is new.
    pub fn registered(&self, registration: &Registration) {
        self.count(registration, Step::Registered);
    }

    /// A registration became valid.
    pub fn valid(&self, registration: &Registration) {
        let client = registration.client.to_canonical();
        // An address that nobody knows is nobody's.
        let client =
            (!client.is_unspecified()).then(|| self.hasher.hash_one(network(client, 32, 64)));
        self.count(registration, Step::Valid(client));
    }

    /// A connection of a registration reached its covert.
    pub fn connected(&self, registration: &Registration) {
        self.count(registration, Step::Connected);
    }

    /// A tunnel of a registration ended and had carried this many bytes.
    pub fn ended(&self, registration: &Registration, up: u64, down: u64) {
        self.count(registration, Step::Ended(up, down));
    }

    fn count(&self, registration: &Registration, step: Step) {
        let mut rows = self.rows.lock();
        let floor = self.floor;
        let kind = (registration.source, registration.transport.as_str());
        add(&mut rows.channels, kind, step, floor);
        if let Some(country) = registration.origin.country {
            add(&mut rows.countries, country, step, floor);
        }
        if registration.origin.asn != 0 {
            add(&mut rows.networks, registration.origin.asn, step, floor);
        }
        let subnet = network(registration.phantom, 24, 48);
        add(&mut rows.subnets, subnet, step, floor);
    }

    /// By channel and transport.
    pub fn channels(&self) -> Vec<FunnelStatus> {
        let rows = self.rows.lock();
        let status = |((source, transport), row): (&(i32, &'static str), &Row)| FunnelStatus {
            channel: signalling::names::source(*source),
            transport: (*transport).to_owned(),
            clients: row.clients.len() as u64,
            registered: row.registered,
            valid: row.valid,
            connected: row.connected,
            up_bytes: row.up,
            down_bytes: row.down,
        };
        rows.channels.iter().map(status).collect()
    }

    /// By country code.
    pub fn countries(&self) -> Vec<OriginStatus> {
        let name = |code: &[u8; 2]| String::from_utf8_lossy(code).into_owned();
        origins(&self.rows.lock().countries, name)
    }

    /// By autonomous system number.
    pub fn networks(&self) -> Vec<OriginStatus> {
        origins(&self.rows.lock().networks, ToString::to_string)
    }

    /// By subnet of the phantom: 24 bits of an IPv4 address, 48 of an IPv6 address.
    pub fn phantom_subnets(&self) -> Vec<OriginStatus> {
        let name = |subnet: &IpAddr| format!("{subnet}/{}", if subnet.is_ipv4() { 24 } else { 48 });
        origins(&self.rows.lock().subnets, name)
    }
}

fn add<K: Ord>(rows: &mut BTreeMap<K, Row>, key: K, step: Step, floor: usize) {
    if rows.len() < MAX_ROWS || rows.contains_key(&key) {
        rows.entry(key).or_default().add(step, floor);
    }
}

fn origins<K>(rows: &BTreeMap<K, Row>, name: impl Fn(&K) -> String) -> Vec<OriginStatus> {
    let status = |(key, row): (&K, &Row)| OriginStatus {
        origin: name(key),
        clients: row.clients.len() as u64,
        valid: row.valid,
        connected: row.connected,
        up_bytes: row.up,
        down_bytes: row.down,
    };
    rows.iter().map(status).collect()
}

/// The first bits of an address, `v4` or `v6` of them, the rest zero.
fn network(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & (u32::MAX << (32 - v4))).into(),
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & (u128::MAX << (128 - v6))).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geoip::Origin;
    use crate::registration::Parts;
    use crate::store::tests::parts;

    fn registration(client: &str) -> Registration {
        let origin = Origin { country: Some(*b"ZZ"), asn: 64500 };
        Registration::new(Parts { client: client.parse().unwrap(), origin, ..parts(1, 1) })
    }

    #[test]
    fn clients_are_counted_once_and_up_to_the_floor() {
        let funnel = Funnel::new(3);
        for client in ["192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "::"] {
            funnel.registered(&registration(client));
            funnel.valid(&registration(client));
        }
        let row = &funnel.channels()[0];
        assert_eq!((row.registered, row.valid, row.clients), (5, 5, 2));
        for host in 1..100 {
            funnel.valid(&registration(&format!("198.51.100.{host}")));
        }
        funnel.connected(&registration("192.0.2.1"));
        funnel.ended(&registration("192.0.2.1"), 7, 9);
        let row = &funnel.networks()[0];
        assert_eq!((row.origin.as_str(), row.clients, row.valid), ("64500", 3, 104));
        assert_eq!((row.connected, row.up_bytes, row.down_bytes), (1, 7, 9));
        assert_eq!(funnel.countries()[0].origin, "ZZ");
        assert!(funnel.phantom_subnets()[0].origin.ends_with(".0/24"));
    }

    #[test]
    fn the_number_of_rows_is_bounded() {
        let funnel = Funnel::new(10);
        for asn in 1..=MAX_ROWS as u32 + 5 {
            let mut registration = registration("192.0.2.1");
            registration.origin.asn = asn;
            funnel.valid(&registration);
        }
        assert_eq!(funnel.networks().len(), MAX_ROWS);
    }
}
