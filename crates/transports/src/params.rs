//! Transport parameters of a registration (`spec/transports.md` 2.3).

use crate::prefix::PrefixTable;
use crate::transport::Transport;
use keys::ClientVersion;
use signalling::params::unpack;
use signalling::{Any, DtlsTransportParams, GenericTransportParams, PrefixTransportParams};

/// Why the parameters reject a registration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// The message does not decode, or is another one.
    #[error(transparent)]
    Decode(#[from] signalling::params::ParamsError),
    /// The client's version does not know the transport.
    #[error("client couldn't support this transport")]
    Version,
    /// The prefix id is not in the station's table.
    #[error("unknown / unsupported prefix: {0}")]
    Prefix(i32),
}

/// Parsed parameters.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Params {
    /// The registration carries none.
    #[default]
    None,
    /// Min and obfs4.
    Generic {
        /// Ask for a port chosen by the seed.
        randomize_dst_port: bool,
    },
    /// Prefix.
    Prefix {
        /// Id in the prefix table.
        id: i32,
        /// Ask for a port chosen by the seed.
        randomize_dst_port: bool,
    },
    /// DTLS.
    Dtls(Box<DtlsTransportParams>),
}

impl Params {
    /// Parses what a registration carries for `transport`.
    ///
    /// # Errors
    /// When the station has to drop the registration.
    pub fn parse(
        transport: Transport,
        version: ClientVersion,
        any: Option<&Any>,
        prefixes: &PrefixTable,
    ) -> Result<Self, ParamsError> {
        let Some(any) = any else {
            return Ok(match transport {
                Transport::Dtls => Self::Dtls(Box::default()),
                _ => Self::None,
            });
        };
        match transport {
            Transport::Min | Transport::Obfs4 if !version.randomizes_port() => {
                Ok(Self::Generic { randomize_dst_port: false })
            }
            Transport::Min | Transport::Obfs4 => {
                let params: GenericTransportParams = unpack(any)?;
                Ok(Self::Generic { randomize_dst_port: params.randomize_dst_port() })
            }
            Transport::Prefix if !version.randomizes_port() => Err(ParamsError::Version),
            Transport::Prefix => {
                let params: PrefixTransportParams = unpack(any)?;
                let id = params.prefix_id();
                prefixes.by_id(id).ok_or(ParamsError::Prefix(id))?;
                Ok(Self::Prefix { id, randomize_dst_port: params.randomize_dst_port() })
            }
            Transport::Dtls => Ok(Self::Dtls(Box::new(unpack(any)?))),
        }
    }

    /// The prefix id, when these are parameters of Prefix.
    pub const fn prefix_id(&self) -> Option<i32> {
        match self {
            Self::Prefix { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// Names of the options in "proxy closed" statistics: the prefix, or nothing.
    pub fn names(&self, prefixes: &PrefixTable) -> Option<Vec<String>> {
        let id = self.prefix_id()?;
        Some(vec![prefixes.by_id(id).map_or_else(|| "other".to_owned(), |p| p.name.clone())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signalling::params::{pack, pack_with_url};

    fn parse(transport: Transport, version: u32, any: Option<&Any>) -> Result<Params, String> {
        let table = PrefixTable::default();
        Params::parse(transport, ClientVersion(version), any, &table).map_err(|e| e.to_string())
    }

    #[test]
    fn per_transport_and_version() {
        let generic = pack(&GenericTransportParams { randomize_dst_port: Some(true) });
        let on = Params::Generic { randomize_dst_port: true };
        let off = Params::Generic { randomize_dst_port: false };
        assert_eq!(parse(Transport::Min, 3, Some(&generic)), Ok(on));
        assert_eq!(parse(Transport::Min, 2, Some(&generic)), Ok(off.clone()));
        let junk = Any { type_url: "junk".into(), value: vec![0xff] };
        assert_eq!(parse(Transport::Obfs4, 0, Some(&junk)), Ok(off), "not even decoded");
        assert!(parse(Transport::Obfs4, 4, Some(&junk)).is_err());
        assert_eq!(parse(Transport::Prefix, 4, None), Ok(Params::None));
        assert_eq!(parse(Transport::Dtls, 4, None), Ok(Params::Dtls(Box::default())));

        let prefix = |id| PrefixTransportParams { prefix_id: Some(id), ..Default::default() };
        let of = |id| Params::Prefix { id, randomize_dst_port: false };
        assert_eq!(parse(Transport::Prefix, 3, Some(&pack_with_url(&prefix(9)))), Ok(of(9)));
        assert_eq!(
            parse(Transport::Prefix, 2, Some(&pack(&prefix(9)))).unwrap_err(),
            "client couldn't support this transport"
        );
        for id in [-1, 10] {
            assert_eq!(
                parse(Transport::Prefix, 4, Some(&pack(&prefix(id)))).unwrap_err(),
                format!("unknown / unsupported prefix: {id}")
            );
        }
        assert_eq!(
            parse(Transport::Prefix, 4, Some(&generic)),
            Ok(Params::Prefix { id: 0, randomize_dst_port: true }),
            "without a URL, Generic reads as Prefix with id 0"
        );
    }

    #[test]
    fn option_names() {
        let table = PrefixTable::default();
        let names = |id| Params::Prefix { id, randomize_dst_port: true }.names(&table);
        assert_eq!(names(9), Some(vec!["OpenSSH2".to_owned()]));
        assert_eq!(names(77), Some(vec!["other".to_owned()]));
        assert_eq!(Params::None.names(&table), None);
    }
}
