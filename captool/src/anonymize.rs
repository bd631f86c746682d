//! Another address, port and flow label for a client, the same for every packet of a flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use ipnet::IpNet;
use sha2::Sha256;

/// Longest prefixes of a client's address that are kept, whatever the database says.
const LONGEST: (u8, u8) = (24, 64);

/// The random key of one run.
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(_)")
    }
}

/// Who a client is in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pseudonym {
    /// Address within the client's network.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Flow label, of which IPv6 uses 20 bits.
    pub flow_label: u32,
}

/// The client's network, no longer than what may be told of it.
pub fn network(client: IpAddr, prefix_len: u8) -> IpNet {
    let longest = if client.is_ipv4() { LONGEST.0 } else { LONGEST.1 };
    // The length is within the address.
    IpNet::new_assert(client, prefix_len.min(longest)).trunc()
}

impl Key {
    /// A key that nobody has seen.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// This key.
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The pseudonym of `client` towards `peer`, within `network` of the client.
    pub fn pseudonym(&self, client: SocketAddr, peer: SocketAddr, network: IpNet) -> Pseudonym {
        let hash = self.hash(&message(client, peer));
        let address = match (network.network(), network.hostmask()) {
            (IpAddr::V4(base), IpAddr::V4(host)) => {
                let random = u32::from_be_bytes([hash[2], hash[3], hash[4], hash[5]]);
                Ipv4Addr::from_bits(base.to_bits() | random & host.to_bits()).into()
            }
            (IpAddr::V6(base), IpAddr::V6(host)) => {
                let mut random = [0; 16];
                random.copy_from_slice(&hash[2..18]);
                let random = u128::from_be_bytes(random);
                Ipv6Addr::from_bits(base.to_bits() | random & host.to_bits()).into()
            }
            (base, _) => base,
        };
        Pseudonym {
            address,
            port: u16::from_be_bytes([hash[0], hash[1]]),
            flow_label: u32::from_be_bytes([hash[18], hash[19], hash[20], hash[21]]) & 0xf_ffff,
        }
    }

    fn hash(&self, message: &str) -> [u8; 32] {
        // A key of any length is good for HMAC.
        #[allow(clippy::expect_used)]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("32 bytes");
        mac.update(message.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// What is hashed: both ends, the client first, IPv6 in brackets.
fn message(client: SocketAddr, peer: SocketAddr) -> String {
    format!("{client}->{peer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let file = vectors::load("ops_captool_anonymize.json");
        let mut tally = vectors::Tally::new("ops_captool_anonymize.json");
        for case in file["cases"].as_array().unwrap() {
            let text = |name: &str| case[name].as_str().unwrap();
            let end = |address: &str, port: &str| {
                SocketAddr::new(text(address).parse().unwrap(), case[port].as_u64().unwrap() as u16)
            };
            let (source, destination) = (end("src", "sport"), end("dst", "dport"));
            let upload = case["upload"].as_bool().unwrap();
            let (client, peer) = if upload { (source, destination) } else { (destination, source) };
            assert_eq!(message(client, peer), text("message"));
            let key = Key::new(vectors::hex(&case["seed"]).try_into().unwrap());
            assert_eq!(key.hash(text("message")), *vectors::hex(&case["hmac"]));
            let prefix: IpNet = text("subnet").parse().unwrap();
            let network = network(client.ip(), prefix.prefix_len());
            let pseudonym = key.pseudonym(client, peer, network);
            assert_eq!(pseudonym.address, text("new_addr").parse::<IpAddr>().unwrap());
            assert_eq!(u64::from(pseudonym.port), case["new_port"].as_u64().unwrap());
            assert_eq!(u64::from(pseudonym.flow_label), case["flow_label"].as_u64().unwrap());
            tally.pass();
        }
        tally.finish();
    }

    #[test]
    fn a_prefix_that_is_the_client_itself_is_not_kept() {
        let of = |client: &str, len| network(client.parse().unwrap(), len).to_string();
        assert_eq!(of("192.0.2.77", 32), "192.0.2.0/24");
        assert_eq!(of("192.0.2.77", 8), "192.0.0.0/8");
        assert_eq!(of("2001:db8:1:2:3::4", 128), "2001:db8:1:2::/64");
    }
}
