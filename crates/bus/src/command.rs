//! Commands of ZMTP 3.1 that a publisher and a subscriber exchange.

use bytes::{BufMut, Bytes, BytesMut};

/// One metadata property of a `READY` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Name, compared without regard to case.
    pub name: Bytes,
    /// Value.
    pub value: Bytes,
}

/// A decoded command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End of the NULL handshake, with metadata.
    Ready(Vec<Property>),
    /// The peer refuses the handshake; the reason as sent.
    Error(Bytes),
    /// Subscribe to a topic prefix.
    Subscribe(Bytes),
    /// Withdraw a subscription.
    Cancel(Bytes),
    /// Sign of life is asked for.
    Ping {
        /// Tenths of a second after which the sender may be considered gone; 0 for never.
        ttl: u16,
        /// Bytes to return in the answer, at most 16.
        context: Bytes,
    },
    /// Sign of life.
    Pong(Bytes),
    /// A command this side does not know; to be ignored.
    Unknown(Bytes),
}

/// Largest number of metadata properties read from a peer.
const MAX_PROPERTIES: usize = 32;

impl Command {
    /// Reads the body of a command frame; `None` when it is malformed.
    pub fn decode(body: &Bytes) -> Option<Self> {
        let (name, data) = short_string(body)?;
        Some(match &name[..] {
            b"READY" => Self::Ready(properties(data)?),
            b"ERROR" => Self::Error(short_string(&data)?.0),
            b"SUBSCRIBE" => Self::Subscribe(data),
            b"CANCEL" => Self::Cancel(data),
            b"PING" => {
                let ttl = u16::from_be_bytes(data.get(..2)?.try_into().ok()?);
                let context = data.slice(2..);
                if context.len() > 16 {
                    return None;
                }
                Self::Ping { ttl, context }
            }
            b"PONG" => Self::Pong(data),
            _ => Self::Unknown(name),
        })
    }

    /// The body of a command frame.
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        let mut name = |name: &[u8]| {
            out.put_u8(u8::try_from(name.len()).unwrap_or(0));
            out.put_slice(name);
        };
        match self {
            Self::Ready(properties) => {
                name(b"READY");
                for Property { name, value } in properties {
                    out.put_u8(u8::try_from(name.len()).unwrap_or(0));
                    out.put_slice(name);
                    out.put_u32(u32::try_from(value.len()).unwrap_or(0));
                    out.put_slice(value);
                }
            }
            Self::Error(reason) => {
                name(b"ERROR");
                name(reason);
            }
            Self::Subscribe(topic) => {
                name(b"SUBSCRIBE");
                out.put_slice(topic);
            }
            Self::Cancel(topic) => {
                name(b"CANCEL");
                out.put_slice(topic);
            }
            Self::Ping { ttl, context } => {
                name(b"PING");
                out.put_u16(*ttl);
                out.put_slice(context);
            }
            Self::Pong(context) => {
                name(b"PONG");
                out.put_slice(context);
            }
            Self::Unknown(other) => name(other),
        }
        out
    }

    /// The metadata that announces `socket_type`, without a command around it.
    pub(crate) fn metadata(socket_type: &'static str) -> BytesMut {
        Self::ready(socket_type).encode().split_off(b"\x05READY".len())
    }

    /// A `READY` command that announces `socket_type`.
    pub fn ready(socket_type: &'static str) -> Self {
        Self::Ready(vec![Property {
            name: Bytes::from_static(b"Socket-Type"),
            value: Bytes::from_static(socket_type.as_bytes()),
        }])
    }
}

/// A length byte, that many bytes, and what follows them.
fn short_string(bytes: &Bytes) -> Option<(Bytes, Bytes)> {
    let len = usize::from(*bytes.first()?);
    (bytes.len() > len).then(|| (bytes.slice(1..=len), bytes.slice(1 + len..)))
}

/// Reads metadata; `None` when it is malformed.
pub(crate) fn properties(mut data: Bytes) -> Option<Vec<Property>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        if found.len() == MAX_PROPERTIES {
            return None;
        }
        let (name, rest) = short_string(&data)?;
        let len = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        let end = usize::try_from(len).ok()?.checked_add(4)?;
        let value = (rest.len() >= end).then(|| rest.slice(4..end))?;
        data = rest.slice(end..);
        found.push(Property { name, value });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn command() -> impl Strategy<Value = Command> {
        let property = (bytes(20), bytes(300)).prop_map(|(name, value)| Property { name, value });
        prop_oneof![
            prop::collection::vec(property, 0..5).prop_map(Command::Ready),
            bytes(200).prop_map(Command::Error),
            bytes(50).prop_map(Command::Subscribe),
            bytes(50).prop_map(Command::Cancel),
            (any::<u16>(), bytes(16)).prop_map(|(ttl, context)| Command::Ping { ttl, context }),
            bytes(16).prop_map(Command::Pong),
        ]
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(command in command()) {
            prop_assert_eq!(Command::decode(&command.encode().freeze()), Some(command));
        }

        #[test]
        fn any_bytes_are_a_command_or_refused(body in bytes(80)) {
            let _ = Command::decode(&body);
        }
    }

    #[test]
    fn refuses_truncated_metadata_and_long_contexts() {
        assert_eq!(Command::decode(&Bytes::from_static(b"\x05READY\x01a\0\0\0\x05b")), None);
        assert_eq!(Command::decode(&Bytes::from_static(b"\x04PING\0\x000123456789abcdefX")), None);
        assert_eq!(Command::decode(&Bytes::from_static(b"\x04PING\0")), None);
    }
}
