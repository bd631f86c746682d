//! The key of a session.

use std::net::IpAddr;

use signalling::station;

/// IP protocol of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a packet of a session has in common with all others of it (`spec/detector.md` 12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// IP protocol.
    pub proto: Proto,
    /// Phantom address.
    pub phantom: IpAddr,
    /// Client address for an IPv4 phantom, `None` for an IPv6 phantom (any client).
    pub client: Option<std::net::Ipv4Addr>,
    /// Phantom port.
    pub dst_port: u16,
}

impl std::fmt::Debug for SessionKey {
    /// The reference's text form with the client hidden.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let proto = match self.proto {
            Proto::Tcp => 't',
            Proto::Udp => 'u',
        };
        write!(f, "{proto}-_-{}-:{}", self.phantom, self.dst_port)
    }
}

impl SessionKey {
    /// Key for `phantom` and `client`; `None` for an IPv4 phantom with a client that is not IPv4.
    pub fn new(proto: Proto, phantom: IpAddr, client: IpAddr, dst_port: u16) -> Option<Self> {
        let client = match (phantom, client.to_canonical()) {
            (IpAddr::V6(_), _) => None,
            (IpAddr::V4(_), IpAddr::V4(client)) => Some(client),
            (IpAddr::V4(_), IpAddr::V6(_)) => return None,
        };
        Some(Self { proto, phantom, client, dst_port })
    }

    /// Text key of the reference, client address included; for comparison in tests only.
    pub fn reference_text(&self) -> String {
        let proto = match self.proto {
            Proto::Tcp => 't',
            Proto::Udp => 'u',
        };
        let client = self.client.map_or_else(|| "_".to_owned(), |c| c.to_string());
        format!("{proto}-{client}-{}-:{}", self.phantom, self.dst_port)
    }

    /// The key as a message of the gRPC channel.
    pub fn to_message(&self) -> station::SessionKey {
        station::SessionKey {
            proto: match self.proto {
                Proto::Tcp => station::Proto::Tcp,
                Proto::Udp => station::Proto::Udp,
            }
            .into(),
            phantom: match self.phantom {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            },
            client: self.client.map(|c| c.octets().to_vec()).unwrap_or_default(),
            dst_port: self.dst_port.into(),
        }
    }

    /// Reads a message of the gRPC channel; `None` when it is not a key.
    pub fn from_message(message: &station::SessionKey) -> Option<Self> {
        let proto = match message.proto() {
            station::Proto::Tcp => Proto::Tcp,
            station::Proto::Udp => Proto::Udp,
            station::Proto::Unspecified => return None,
        };
        let phantom: IpAddr = match message.phantom.len() {
            4 => <[u8; 4]>::try_from(message.phantom.as_slice()).ok()?.into(),
            16 => <[u8; 16]>::try_from(message.phantom.as_slice()).ok()?.into(),
            _ => return None,
        };
        let client = match (phantom, message.client.len()) {
            (IpAddr::V4(_), 4) => Some(<[u8; 4]>::try_from(message.client.as_slice()).ok()?.into()),
            (IpAddr::V6(_), 0 | 4 | 16) => None,
            _ => return None,
        };
        Some(Self { proto, phantom, client, dst_port: u16::try_from(message.dst_port).ok()? })
    }
}
