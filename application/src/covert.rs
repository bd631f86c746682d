//! Which covert addresses a client may ask for (`spec/application.md` 7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use regex::Regex;

/// The policy of one configuration.
#[derive(Debug, Default)]
pub struct CovertPolicy {
    /// Patterns searched in the host part, unanchored and case-sensitive.
    pub blocked_domains: Vec<Regex>,
    /// Addresses that are refused.
    pub blocked: Vec<IpNet>,
    /// When not empty: the only addresses that are allowed; `blocked` is then not looked at.
    pub allowed: Vec<IpNet>,
    /// Refuse addresses that no interoperating client uses: loopback, link-local, multicast, …
    pub reject_special: bool,
}

/// What has to be done to admit a covert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A literal address.
    Literal(SocketAddr),
    /// A name to resolve, and the port.
    Name(String, u16),
}

/// Why a covert is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not `host:port`.
    #[error("malformed")]
    Malformed,
    /// The host matches a blocked pattern.
    #[error("blocked domain")]
    Domain,
    /// The address lies in a blocked subnet, or outside the allowed ones.
    #[error("blocked subnet")]
    Subnet,
    /// An address that would reach the station itself or its neighbourhood.
    #[error("special address")]
    Special,
    /// The name does not resolve.
    #[error("does not resolve")]
    Unresolved,
}

impl CovertPolicy {
    /// Reads a covert string and applies all that can be said without its address.
    ///
    /// # Errors
    /// When the text is malformed or its host is blocked.
    pub fn read(&self, covert: &str) -> Result<Target, Refused> {
        let (host, port) = split_host_port(covert).ok_or(Refused::Malformed)?;
        if self.blocked_domains.iter().any(|pattern| pattern.is_match(host)) {
            return Err(Refused::Domain);
        }
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Refused::Malformed);
        }
        let port: u16 = port.parse().map_err(|_| Refused::Malformed)?;
        if self.reject_special && (host.is_empty() || port == 0) {
            return Err(Refused::Special);
        }
        match host.parse::<IpAddr>() {
            Ok(address) => Ok(Target::Literal(SocketAddr::new(address, port))),
            // The reference dials an empty host as the unspecified address.
            Err(_) if host.is_empty() => {
                Ok(Target::Literal(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)))
            }
            Err(_) => Ok(Target::Name(host.to_owned(), port)),
        }
    }

    /// Applies the address lists.
    ///
    /// # Errors
    /// When the address may not be dialled.
    pub fn admit(&self, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        if !self.allowed.is_empty() {
            let listed = self.allowed.iter().any(|net| net.contains(&address));
            return if listed { Ok(()) } else { Err(Refused::Subnet) };
        }
        if self.reject_special && is_special(address) {
            return Err(Refused::Special);
        }
        if self.blocked.iter().any(|net| net.contains(&address)) {
            return Err(Refused::Subnet);
        }
        Ok(())
    }

    /// Reads, resolves and admits a covert; the result is the literal that will be dialled.
    ///
    /// # Errors
    /// When the covert is refused for any reason.
    pub async fn resolve(
        &self,
        covert: &str,
        resolver: &impl Resolver,
    ) -> Result<SocketAddr, Refused> {
        let target = match self.read(covert)? {
            Target::Literal(target) => target,
            Target::Name(host, port) => {
                let found = resolver.resolve(&host).await;
                let address = found.iter().find(|a| a.is_ipv4()).or(found.first());
                SocketAddr::new(*address.ok_or(Refused::Unresolved)?, port)
            }
        };
        self.admit(target.ip())?;
        Ok(target)
    }
}

/// Turns a host name into addresses.
pub trait Resolver: Send + Sync {
    /// Addresses of `host` in the resolver's order; empty when there are none in time.
    fn resolve(&self, host: &str) -> impl Future<Output = Vec<IpAddr>> + Send;
}

/// The system's resolver with a limit of time.
#[derive(Debug)]
pub struct SystemResolver {
    /// Longest time that one look-up may take, in milliseconds.
    limit_ms: AtomicU64,
}

impl SystemResolver {
    /// A resolver with this limit for each look-up.
    pub fn new(limit: Duration) -> Self {
        let resolver = Self { limit_ms: AtomicU64::new(0) };
        resolver.set_limit(limit);
        resolver
    }

    /// Changes the limit.
    pub fn set_limit(&self, limit: Duration) {
        let ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        self.limit_ms.store(ms, Ordering::Relaxed);
    }
}

impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str) -> Vec<IpAddr> {
        let limit = Duration::from_millis(self.limit_ms.load(Ordering::Relaxed));
        match tokio::time::timeout(limit, tokio::net::lookup_host((host, 0))).await {
            Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
            _ => Vec::new(),
        }
    }
}

/// Splits as Go's `net.SplitHostPort`: the last colon separates, IPv6 literals need brackets.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']')?;
        return (!inner.contains(['[', ']'])).then_some((inner, port));
    }
    (!host.contains([':', '[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
}

/// Addresses that reach the station itself, its neighbourhood or nobody (`spec/application.md` 7.4).
pub fn is_special(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_special_v4(v4),
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || segments[0] & 0xffc0 == 0xfe80
                || segments[0] & 0xffc0 == 0xfec0
                || segments[0] & 0xfe00 == 0xfc00
                || embedded_v4(v6).is_some_and(is_special_v4)
        }
    }
}

fn is_special_v4(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    a == 0 || a == 127 || (a == 169 && b == 254) || (a == 100 && b & 0xc0 == 64) || a >= 224
}

/// IPv4 address inside `64:ff9b::/96`, `2002::/16` or `::/96`.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = v6.octets();
    let tail =
        |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    let nat64 = octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    if nat64 || octets[..12] == [0; 12] {
        Some(tail(12))
    } else if octets[..2] == [0x20, 0x02] {
        Some(tail(2))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hosts;

    impl Resolver for Hosts {
        async fn resolve(&self, host: &str) -> Vec<IpAddr> {
            match host {
                "localhost" | "LOCALHOST" => vec!["127.0.0.1".parse().unwrap()],
                "both.example" => {
                    vec!["2001:db8::7".parse().unwrap(), "198.51.100.7".parse().unwrap()]
                }
                _ => Vec::new(),
            }
        }
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    fn check(policy: &CovertPolicy, covert: &str) -> Result<SocketAddr, Refused> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(policy.resolve(covert, &Hosts))
    }

    fn stock() -> CovertPolicy {
        CovertPolicy {
            blocked_domains: vec![Regex::new("localhost").unwrap()],
            blocked: nets(&[
                "127.0.0.1/32",
                "10.0.0.0/8",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "fc00::/7",
                "fe80::/16",
                "::1/128",
            ]),
            reject_special: true,
            ..Default::default()
        }
    }

    #[test]
    fn the_table_of_the_specification() {
        let policy = stock();
        for covert in ["198.51.100.7:9999", "[2001:db8:1::7]:9999", "[::ffff:198.51.100.7]:80"] {
            assert!(check(&policy, covert).is_ok(), "{covert}");
        }
        for covert in [
            "198.51.100.7",
            "",
            "198.51.100.7:",
            "198.51.100.7:http",
            "198.51.100.7:65536",
            "198.51.100.7:-1",
            "198.51.100.7:+80",
            "::1:80",
            "a:b:c",
            "http://1.2.3.4:80",
        ] {
            assert_eq!(check(&policy, covert), Err(Refused::Malformed), "{covert}");
        }
        for covert in [
            "10.1.2.3:80",
            "172.31.0.1:80",
            "192.168.1.1:80",
            "127.0.0.1:80",
            "[::1]:80",
            "[fe80::1]:80",
            "[::ffff:10.0.0.1]:80",
            "localhost:80",
            "localhost.:80",
            "xlocalhosty:80",
            "LOCALHOST:80",
            "127.1:80",
            "2130706433:80",
            "0x7f.0.0.1:80",
            "1.2.3.07:80",
            "127.0.0.2:80",
            "169.254.169.254:80",
            "100.64.0.1:80",
            "[fd00::1]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            ":80",
            "0.0.0.0:80",
            "[::]:80",
            "198.51.100.7:0",
            "[64:ff9b::7f00:1]:80",
            "[2002:7f00:1::]:80",
            "[::127.0.0.1]:80",
            "[fec0::1]:80",
        ] {
            assert!(check(&policy, covert).is_err(), "{covert}");
        }
    }

    #[test]
    fn the_first_ipv4_address_of_a_name_is_taken() {
        let target = check(&stock(), "both.example:443").unwrap();
        assert_eq!(target, "198.51.100.7:443".parse().unwrap());
    }

    #[test]
    fn an_allowlist_is_the_only_list() {
        let policy = CovertPolicy {
            allowed: nets(&["128.138.0.0/16", "2001:db8::/64", "127.0.0.0/8"]),
            ..stock()
        };
        assert!(check(&policy, "128.138.2.1:25").is_ok());
        assert!(check(&policy, "[2001:db8::1]:80").is_ok());
        assert!(check(&policy, "127.0.0.1:80").is_ok(), "an explicit allowlist admits");
        assert_eq!(check(&policy, "198.51.100.7:80"), Err(Refused::Subnet));
    }
}
