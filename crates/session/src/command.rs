//! `StationToDetector` messages: what the application publishes on Redis and how a detector reads
//! them (`spec/detector.md` 11, `spec/application.md` 10).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use signalling::{IpProto, Message, StationOperations, StationToDetector};

use crate::{Proto, SessionKey};

/// A message that a detector acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Insert or extend a session.
    Upsert(SessionKey, Duration),
    /// Empty the table.
    Clear,
}

/// Why a message has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a `StationToDetector`.
    #[error("malformed")]
    Malformed,
    /// `proto` is neither Tcp nor Udp.
    #[error("unrecognized proto")]
    UnrecognizedProto,
    /// `phantom_ip` is no address.
    #[error("invalid phantom")]
    InvalidPhantom,
    /// `client_ip` is no address.
    #[error("invalid client")]
    InvalidClient,
    /// IPv4 phantom with an IPv6 client.
    #[error("mixed v4 and v6")]
    MixedFamilies,
    /// `operation` is Unknown or absent.
    #[error("unknown operation")]
    UnknownOperation,
}

/// Reads one message. Clear is looked at before anything else, so that the bare form works.
///
/// # Errors
/// When the message has no effect, with the first reason in the order of `spec/detector.md` 11.
pub fn decode(payload: &[u8]) -> Result<Command, Refused> {
    let message = StationToDetector::decode(payload).map_err(|_| Refused::Malformed)?;
    if message.operation() == StationOperations::Clear {
        return Ok(Command::Clear);
    }
    let proto = match message.proto() {
        IpProto::Tcp => Proto::Tcp,
        IpProto::Udp => Proto::Udp,
        IpProto::Unk => return Err(Refused::UnrecognizedProto),
    };
    let phantom: IpAddr = message.phantom_ip().parse().map_err(|_| Refused::InvalidPhantom)?;
    let client = match (phantom, message.client_ip()) {
        (IpAddr::V6(_), "") => IpAddr::V6(Ipv6Addr::LOCALHOST),
        (_, text) => text.parse().map_err(|_| Refused::InvalidClient)?,
    };
    let dst_port = message.dst_port() as u16;
    if phantom.is_ipv4() && client.is_ipv6() {
        return Err(Refused::MixedFamilies);
    }
    let key = SessionKey::new(proto, phantom, client, dst_port).ok_or(Refused::MixedFamilies)?;
    match message.operation() {
        StationOperations::New | StationOperations::Update => {
            Ok(Command::Upsert(key, Duration::from_nanos(message.timeout_ns())))
        }
        _ => Err(Refused::UnknownOperation),
    }
}

/// Encodes New or Update for a session whose registrant is `client` (`::` when unknown).
pub fn encode(
    operation: StationOperations,
    key: &SessionKey,
    client: IpAddr,
    timeout: Duration,
) -> Vec<u8> {
    StationToDetector {
        phantom_ip: Some(key.phantom.to_string()),
        client_ip: Some(client.to_canonical().to_string()),
        timeout_ns: Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)),
        operation: Some(operation.into()),
        dst_port: Some(key.dst_port.into()),
        src_port: None,
        proto: Some(
            match key.proto {
                Proto::Tcp => IpProto::Tcp,
                Proto::Udp => IpProto::Udp,
            }
            .into(),
        ),
    }
    .encode_to_vec()
}

/// Encodes a Clear that every detector honours (`spec/application.md` 10.4).
pub fn encode_clear() -> Vec<u8> {
    StationToDetector {
        phantom_ip: Some("::".to_owned()),
        client_ip: Some("::".to_owned()),
        operation: Some(StationOperations::Clear.into()),
        proto: Some(IpProto::Tcp.into()),
        ..Default::default()
    }
    .encode_to_vec()
}
