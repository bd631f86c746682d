//! The HTTP channel without HTTP: endpoints, order of checks, replies, and the client's address
//! (`spec/registrar.md` 7).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::channel::Channel;

/// Path of unidirectional registrations.
pub const REGISTER: &str = "/register";
/// Path of bidirectional registrations.
pub const REGISTER_BIDIRECTIONAL: &str = "/register-bidirectional";
/// Type of a bidirectional reply.
pub const REPLY_TYPE: &str = "application/octet-stream";

/// Smallest declared length of a request: a secret of 32 bytes and one more.
const MIN_LENGTH: u64 = 33;

/// The channel of a POST to exactly `path`, which carries no query.
pub fn endpoint(path: &str) -> Option<Channel> {
    match path {
        REGISTER => Some(Channel::Api),
        REGISTER_BIDIRECTIONAL => Some(Channel::BidirectionalApi),
        _ => None,
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The peer's address is none that a registration can carry.
    #[error("no usable client address")]
    NoAddress,
    /// The message names no client address, or none of 4 or 16 bytes, where the registrar sees none.
    #[error("no client address")]
    Unaddressed,
    /// More registrations of one client than are allowed.
    #[error("too many requests")]
    Rate,
    /// A method other than the one of the path.
    #[error("incorrect method")]
    Method,
    /// No declared length, or one below 33.
    #[error("Payload too small")]
    TooSmall,
    /// The body ended early or took too long.
    #[error("Failed to read request body")]
    Body,
    /// The body is longer than the limit.
    #[error("Payload too large")]
    TooLarge,
    /// The body is no `C2SWrapper`.
    #[error("Failed to decode protobuf body")]
    Decode,
    /// A bidirectional request without payload.
    #[error("no C2S body")]
    NoPayload,
    /// The seed selects no phantom (library versions 0 and 1).
    #[error("bad seed")]
    BadSeed,
    /// The generation has no phantom for a family that is asked for (later versions).
    #[error("no phantom")]
    NoPhantom,
    /// Anything else that keeps the registration from being processed.
    #[error("registration cannot be processed")]
    Failed,
    /// Another path.
    #[error("404 page not found")]
    NotFound,
}

impl Refusal {
    /// Status code.
    pub const fn status(self) -> u16 {
        match self {
            Self::NoAddress
            | Self::Unaddressed
            | Self::TooSmall
            | Self::Body
            | Self::Decode
            | Self::NoPayload
            | Self::BadSeed => 400,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::TooLarge => 413,
            Self::Rate => 429,
            Self::NoPhantom | Self::Failed => 500,
        }
    }

    /// Body with its final newline; `None` for replies without a body. A body goes out as
    /// `text/plain; charset=utf-8` with `X-Content-Type-Options: nosniff`.
    pub fn body(self) -> Option<String> {
        match self {
            Self::NoAddress | Self::Method | Self::Rate | Self::NoPhantom | Self::Failed => None,
            other => Some(format!("{other}\n")),
        }
    }
}

/// Checks 2 and 3 of the order of checks: method and declared length.
///
/// # Errors
/// The first [`Refusal`] that applies; `max` is the longest accepted body.
pub fn check(method: &str, content_length: Option<u64>, max: u64) -> Result<(), Refusal> {
    if method != "POST" {
        return Err(Refusal::Method);
    }
    match content_length {
        None => Err(Refusal::TooSmall),
        Some(length) if length < MIN_LENGTH => Err(Refusal::TooSmall),
        Some(length) if length > max => Err(Refusal::TooLarge),
        Some(_) => Ok(()),
    }
}

/// The client's address: that of the peer, or what the last `X-Forwarded-For` header says.
///
/// Without `trusted` the rule of the reference applies (last element; second to last when the peer
/// is this host's own proxy). With it, the rightmost element outside the list counts, and only when
/// the peer is in the list.
pub fn client_address(peer: IpAddr, forwarded: Option<&[u8]>, trusted: Option<&[IpNet]>) -> IpAddr {
    let Some(text) = forwarded.and_then(|bytes| std::str::from_utf8(bytes).ok()) else {
        return peer;
    };
    let parse = |element: &str| element.trim().parse::<IpAddr>().ok();
    if let Some(trusted) = trusted {
        let inside =
            |address: &IpAddr| trusted.iter().any(|net| net.contains(&address.to_canonical()));
        if !inside(&peer) {
            return peer;
        }
        return text.rsplit(',').map_while(parse).find(|address| !inside(address)).unwrap_or(peer);
    }
    let own_proxy = match peer.to_canonical() {
        IpAddr::V4(v4) => v4.octets() == [127, 0, 0, 1],
        IpAddr::V6(v6) => v6.is_loopback(),
    };
    let mut elements = text.rsplit(',');
    let last = elements.next();
    let candidate = if own_proxy { elements.next().or(last) } else { last };
    candidate.and_then(parse).unwrap_or(peer)
}

/// An address as a registration carries it: 16 bytes, IPv4 mapped.
pub fn registration_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checks_come_in_order() {
        assert_eq!(check("GET", None, 100), Err(Refusal::Method));
        assert_eq!(check("POST", None, 100), Err(Refusal::TooSmall));
        assert_eq!(check("POST", Some(32), 100), Err(Refusal::TooSmall));
        assert_eq!(check("POST", Some(101), 100), Err(Refusal::TooLarge));
        assert_eq!(check("POST", Some(100), 100), Ok(()));
        assert_eq!(endpoint("/register/"), None);
    }

    #[test]
    fn trusted_proxies_are_skipped_from_the_right_and_nobody_else_is_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let of = |peer: &str, header: &str| {
            client_address(peer.parse().unwrap(), Some(header.as_bytes()), Some(&trusted))
                .to_string()
        };
        assert_eq!(of("10.0.0.1", "1.1.1.1, 9.9.9.9, 10.0.0.2"), "9.9.9.9");
        assert_eq!(of("192.0.2.1", "9.9.9.9"), "192.0.2.1");
        assert_eq!(of("::1", "junk, 10.0.0.2"), "::1");
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in prop::collection::vec(any::<u8>(), 0..80)) {
            let peer = IpAddr::from([127, 0, 0, 1]);
            client_address(peer, Some(&header), None);
            client_address(peer, Some(&header), Some(&[IpNet::from(peer)]));
        }
    }
}
