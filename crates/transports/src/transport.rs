//! The transports a station serves (`spec/transports.md` 1).

use signalling::TransportType;

/// A transport that registrations may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A 32-byte tag, then raw bytes.
    Min,
    /// obfs4 with a key pair per registration.
    Obfs4,
    /// DTLS with certificates derived from the shared secret.
    Dtls,
    /// A protocol-like prefix, an obfuscated tag, then raw bytes.
    Prefix,
}

/// A transport number that no station serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown transport")]
pub struct UnknownTransport(
    /// The number found in the registration.
    pub i32,
);

/// Protocol below a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 4] = [Self::Min, Self::Obfs4, Self::Dtls, Self::Prefix];

    /// The number in messages.
    pub const fn number(self) -> i32 {
        match self {
            Self::Min => TransportType::Min as i32,
            Self::Obfs4 => TransportType::Obfs4 as i32,
            Self::Dtls => TransportType::Dtls as i32,
            Self::Prefix => TransportType::Prefix as i32,
        }
    }

    /// The name in statistics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Min => "Min",
            Self::Obfs4 => "Obfs4",
            Self::Dtls => "DTLS",
            Self::Prefix => "Prefix",
        }
    }

    /// The station's own name, in debug lines.
    pub const fn station_name(self) -> &'static str {
        match self {
            Self::Min => "MinTransport",
            Self::Obfs4 => "obfs4",
            Self::Dtls => "dtls",
            Self::Prefix => "PrefixTransport",
        }
    }

    /// The tag in front of the log lines of an identified connection.
    pub const fn log_tag(self) -> &'static str {
        match self {
            Self::Min => "MIN",
            Self::Obfs4 => "OBFS4",
            Self::Dtls => "DTLS",
            Self::Prefix => "PREF",
        }
    }

    /// The protocol below.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Dtls => Protocol::Udp,
            _ => Protocol::Tcp,
        }
    }
}

impl TryFrom<i32> for Transport {
    type Error = UnknownTransport;

    fn try_from(number: i32) -> Result<Self, UnknownTransport> {
        Self::ALL.into_iter().find(|t| t.number() == number).ok_or(UnknownTransport(number))
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for transport in Transport::ALL {
            assert_eq!(Transport::try_from(transport.number()), Ok(transport));
        }
        for unknown in [0, 5, 50, 99, -1] {
            assert_eq!(Transport::try_from(unknown), Err(UnknownTransport(unknown)));
        }
    }
}
