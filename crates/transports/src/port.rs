//! Destination port of a registration (`spec/core.md` 6, `spec/transports.md` 2.4).

use crate::params::Params;
use crate::prefix::PrefixTable;
use crate::transport::Transport;
use keys::{ClientVersion, ConjureSeed, OBFS4_PORTS, PORTS};

/// The port of everything that does not ask for another.
pub const DEFAULT_PORT: u16 = 443;

/// Why a transport names no port; the registration is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The parameters belong to another transport.
    #[error("bad parameters provided")]
    BadParams,
    /// Prefix without parameters, or with those of another transport.
    #[error("bad parameters provided: incorrect type")]
    IncorrectType,
    /// The prefix id is not in the table.
    #[error("unknown / unsupported prefix")]
    UnknownPrefix,
    /// The client's version does not know Prefix.
    #[error("client couldn't support this transport")]
    Version,
}

/// The station's decision: 443 for clients below version 3 and for phantoms without random ports,
/// otherwise what the transport asks for. A `dst_port` in a registrar's response replaces either.
///
/// # Errors
/// When the registration has to be rejected.
pub fn destination_port(
    transport: Transport,
    version: ClientVersion,
    phantom_random_port: bool,
    params: &Params,
    seed: &ConjureSeed,
    prefixes: &PrefixTable,
) -> Result<u16, PortError> {
    if !version.randomizes_port() || !phantom_random_port {
        return Ok(DEFAULT_PORT);
    }
    requested_port(transport, version, params, seed, prefixes)
}

/// What the transport itself asks for. Registrars use it without the station's version rule.
///
/// # Errors
/// When the parameters do not fit the transport.
pub fn requested_port(
    transport: Transport,
    version: ClientVersion,
    params: &Params,
    seed: &ConjureSeed,
    prefixes: &PrefixTable,
) -> Result<u16, PortError> {
    let range = match transport {
        Transport::Obfs4 => OBFS4_PORTS,
        _ => PORTS,
    };
    let (randomize, fixed) = match (transport, params) {
        (Transport::Min | Transport::Obfs4, _) if !version.randomizes_port() => {
            (false, DEFAULT_PORT)
        }
        (Transport::Prefix, _) if !version.randomizes_port() => return Err(PortError::Version),
        (Transport::Min | Transport::Obfs4 | Transport::Dtls, Params::None) => {
            (false, DEFAULT_PORT)
        }
        (Transport::Min | Transport::Obfs4, Params::Generic { randomize_dst_port }) => {
            (*randomize_dst_port, DEFAULT_PORT)
        }
        (Transport::Dtls, Params::Dtls(dtls)) => (dtls.randomize_dst_port(), DEFAULT_PORT),
        (Transport::Prefix, Params::Prefix { id, randomize_dst_port }) => {
            let prefix = prefixes.by_id(*id).ok_or(PortError::UnknownPrefix)?;
            (*randomize_dst_port, prefix.default_port)
        }
        (Transport::Prefix, _) => return Err(PortError::IncorrectType),
        _ => return Err(PortError::BadParams),
    };
    Ok(if randomize { seed.port(range) } else { fixed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys::SharedSecret;

    #[test]
    fn phantoms_without_random_ports_and_old_clients_use_443() {
        let table = PrefixTable::default();
        let seed = SharedSecret::new(b"s").session_keys(ClientVersion(4)).seed;
        let ssh = Params::Prefix { id: 9, randomize_dst_port: false };
        let port = |version, flag, params| {
            destination_port(Transport::Prefix, ClientVersion(version), flag, params, &seed, &table)
        };
        assert_eq!(port(4, true, &ssh), Ok(22));
        assert_eq!(port(4, false, &ssh), Ok(443));
        assert_eq!(port(2, true, &ssh), Ok(443));
        assert_eq!(port(4, false, &Params::None), Ok(443));
        assert_eq!(port(4, true, &Params::None), Err(PortError::IncorrectType));
    }
}
