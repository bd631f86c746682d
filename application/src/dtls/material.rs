//! What a registration brings for its DTLS sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use keys::SharedSecret;
use signalling::Addr;
use transports::Params;
use transports::dtls::Party;

/// Secret and parameters of one family of a DTLS registration. Keys are derived when a session
/// begins.
#[derive(Debug, Clone)]
pub struct Material {
    secret: SharedSecret,
    tag: [u8; 28],
    client: Option<SocketAddr>,
    unordered: bool,
}

impl Material {
    /// Takes what one family needs from the parameters of a registration.
    pub fn new(secret: &SharedSecret, params: &Params, v6: bool) -> Self {
        let params = match params {
            Params::Dtls(params) => Some(params),
            _ => None,
        };
        let source =
            params.and_then(|p| if v6 { p.src_addr6.as_ref() } else { p.src_addr4.as_ref() });
        Self {
            tag: keys::dtls::client_hello_random(secret),
            secret: secret.clone(),
            client: source.and_then(|source| address(source, v6)),
            unordered: params.is_some_and(|p| p.unordered()),
        }
    }

    /// What hellos of its sessions carry.
    pub const fn tag(&self) -> &[u8; 28] {
        &self.tag
    }

    /// Where the client says that it can be reached.
    pub const fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// Whose end of the tunnel a station has.
    pub const fn party(&self) -> Party {
        Party::Station { unordered: self.unordered }
    }

    /// Keys of a session that the station dials.
    pub fn dials(&self) -> ::dtls::Config {
        ::dtls::Config::client(&self.secret, unix_time())
    }

    /// Keys of a session that the client dials.
    pub fn listens(&self) -> ::dtls::Config {
        ::dtls::Config::server(&self.secret, unix_time())
    }
}

/// An address of the wanted family that can be dialled. Whoever registers chooses it, so it must
/// not name the station itself or a group.
fn address(source: &Addr, v6: bool) -> Option<SocketAddr> {
    let ip: IpAddr = match source.ip() {
        bytes if v6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        bytes if bytes.len() == 4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        bytes => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    let port = u16::try_from(source.port()).ok().filter(|port| *port != 0)?;
    let usable = ip.is_ipv6() == v6
        && ip.to_canonical() == ip
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != IpAddr::V4(Ipv4Addr::BROADCAST);
    usable.then(|| SocketAddr::new(ip, port))
}

/// Seconds since 1970.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_can_be_dialled_are_taken() {
        let at =
            |ip: &[u8], port, v6| address(&Addr { ip: Some(ip.to_vec()), port: Some(port) }, v6);
        let v4 = [203, 0, 113, 9];
        let v6: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let mapped = Ipv4Addr::from(v4).to_ipv6_mapped().octets();
        let expected = Some("203.0.113.9:4000".parse().unwrap());
        assert_eq!(at(&v4, 4000, false), expected);
        assert_eq!(at(&mapped, 4000, false), expected);
        assert_eq!(at(&v6.octets(), 4000, true), Some("[2001:db8::9]:4000".parse().unwrap()));
        for (ip, port, family) in [
            (&v4[..], 0, false),
            (&v4, 65_536, false),
            (&v4, 4000, true),
            (&mapped, 4000, true),
            (&v6.octets(), 4000, false),
            (&[], 4000, false),
            (&[1, 2, 3], 4000, true),
            (&[0; 4], 4000, false),
            (&[0; 16], 4000, true),
            (&[224, 0, 0, 1], 4000, false),
            (&[255; 4], 4000, false),
            (&[255; 16], 4000, true),
        ] {
            assert_eq!(at(ip, port, family), None, "{ip:?} {port} {family}");
        }
    }
}
