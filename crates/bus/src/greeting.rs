//! The 64-byte greeting both sides send first (RFC 37).

/// Length of a greeting in bytes.
pub const GREETING_LEN: usize = 64;

const MECHANISM_AT: usize = 12;
const MECHANISM_LEN: usize = 20;

/// Security mechanism of a connection. Both sides must name the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mechanism {
    /// No authentication, no encryption.
    #[default]
    Null,
    /// Both sides prove a key, everything is sealed (RFC 26).
    Curve,
}

impl Mechanism {
    /// The name as it stands in a greeting.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Curve => "CURVE",
        }
    }
}

/// A decoded greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Minor protocol version; 3.1 knows subscription and heartbeat commands.
    pub minor: u8,
    /// Security mechanism.
    pub mechanism: Mechanism,
}

/// Why a peer's greeting is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// The first byte is not `ff` or the tenth not `7f`.
    #[error("peer does not speak ZMTP (its first bytes are not a greeting)")]
    Signature,
    /// The major version is below 3.
    #[error("peer speaks ZMTP {0}, version 3 is needed (libzmq 4 or newer)")]
    Version(u8),
    /// The peer wants another mechanism.
    #[error("peer requires mechanism {found}, this side is configured for {expected}")]
    Mechanism {
        /// Name the peer announced, printable characters only.
        found: String,
        /// Name this side announces.
        expected: &'static str,
    },
}

impl Greeting {
    /// The bytes of this greeting.
    pub fn encode(self) -> [u8; GREETING_LEN] {
        let mut out = [0; GREETING_LEN];
        out[0] = 0xff;
        out[8] = 1;
        out[9] = 0x7f;
        out[10] = 3;
        out[11] = self.minor;
        let name = self.mechanism.name().as_bytes();
        out[MECHANISM_AT..MECHANISM_AT + name.len()].copy_from_slice(name);
        out
    }

    /// Reads a peer's greeting, given the mechanism this side speaks. Bytes 1 to 8 and everything
    /// after the mechanism are ignored, as peers of different ages differ there.
    ///
    /// # Errors
    /// [`GreetingError`] when the peer cannot be talked to.
    pub fn decode(bytes: &[u8; GREETING_LEN], own: Mechanism) -> Result<Self, GreetingError> {
        Self::check_start(bytes)?;
        if bytes[10] < 3 {
            return Err(GreetingError::Version(bytes[10]));
        }
        let field = &bytes[MECHANISM_AT..MECHANISM_AT + MECHANISM_LEN];
        let name = field.split(|&b| b == 0).next().unwrap_or_default();
        if name != own.name().as_bytes() {
            let found = name.escape_ascii().to_string();
            return Err(GreetingError::Mechanism { found, expected: own.name() });
        }
        Ok(Self { minor: if bytes[10] > 3 { 1 } else { bytes[11] }, mechanism: own })
    }

    /// Checks as much of a greeting as has arrived, so that a peer of another protocol is refused
    /// at its first byte rather than by a timeout.
    ///
    /// # Errors
    /// [`GreetingError::Signature`].
    pub fn check_start(bytes: &[u8]) -> Result<(), GreetingError> {
        let wrong = |at: usize, want: u8| bytes.get(at).is_some_and(|&b| b != want);
        if wrong(0, 0xff) || wrong(9, 0x7f) { Err(GreetingError::Signature) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_both_mechanisms_when_they_differ() {
        let mut bytes = Greeting { minor: 1, mechanism: Mechanism::Null }.encode();
        bytes[12..17].copy_from_slice(b"CURVE");
        let error = Greeting::decode(&bytes, Mechanism::Null).unwrap_err().to_string();
        assert_eq!(error, "peer requires mechanism CURVE, this side is configured for NULL");
    }

    #[test]
    fn ignores_the_bytes_that_differ_between_peers() {
        let mut bytes = Greeting { minor: 0, mechanism: Mechanism::Null }.encode();
        bytes[1..9].fill(7);
        bytes[32..].fill(1);
        let greeting = Greeting::decode(&bytes, Mechanism::Null).unwrap();
        assert_eq!(greeting.minor, 0);
    }

    #[test]
    fn refuses_other_protocols_at_their_first_byte() {
        assert_eq!(Greeting::check_start(b"GET /"), Err(GreetingError::Signature));
        assert_eq!(Greeting::check_start(&[0xff, 0, 0]), Ok(()));
    }
}
