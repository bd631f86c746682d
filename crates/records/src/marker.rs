//! What must not be found.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A client or a secret that was planted; its text is a line of the file `markers`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Marker {
    /// Address of a client.
    Client(IpAddr),
    /// Bytes that nobody may see, and what they are.
    Secret(String, Vec<u8>),
    /// A registration's shared secret; its first eight bytes are the registration's name, which is no
    /// secret.
    Shared(Vec<u8>),
}

impl Marker {
    /// What a hit is called.
    pub fn what(&self) -> &str {
        match self {
            Self::Client(_) => "client address",
            Self::Secret(what, _) => what,
            Self::Shared(_) => "shared secret",
        }
    }

    /// Whether it is a client.
    pub const fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(address) => write!(f, "client {address}"),
            Self::Secret(what, bytes) => write!(f, "secret {} {what}", hex::encode(bytes)),
            Self::Shared(bytes) => write!(f, "shared {}", hex::encode(bytes)),
        }
    }
}

/// A line that is no marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no marker: expected `client ADDRESS`, `secret HEX NAME` or `shared HEX`")]
pub struct BadMarker(String);

impl FromStr for Marker {
    type Err = BadMarker;

    fn from_str(line: &str) -> Result<Self, BadMarker> {
        let bad = || BadMarker(line.to_owned());
        let (kind, rest) = line.split_once(' ').ok_or_else(bad)?;
        let bytes = |text: &str| hex::decode(text).map_err(|_| bad());
        match kind {
            "client" => rest.parse().map(Self::Client).map_err(|_| bad()),
            "secret" => {
                let (digits, what) = rest.split_once(' ').ok_or_else(bad)?;
                Ok(Self::Secret(what.to_owned(), bytes(digits)?))
            }
            "shared" => bytes(rest).map(Self::Shared),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for marker in [
            Marker::Client("10.10.1.2".parse().unwrap()),
            Marker::Client("fd10:1::2".parse().unwrap()),
            Marker::Secret("station key".to_owned(), vec![1, 2, 255]),
            Marker::Shared(vec![7; 32]),
        ] {
            assert_eq!(marker.to_string().parse(), Ok(marker));
        }
        for bad in ["", "client", "client x", "secret 01", "secret zz name", "shared 0", "key 01"] {
            assert!(bad.parse::<Marker>().is_err(), "{bad}");
        }
    }
}
