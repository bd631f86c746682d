//! Reading and writing ClientConf files with their required fields checked.

use crate::{ClientConf, raw};
use prost::Message;

/// Why a ClientConf was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientConfError {
    /// The bytes are no ClientConf message.
    #[error("not a ClientConf: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field that the schema requires is missing.
    #[error("proto: required field proto.DnsRegConf.{field} not set")]
    Required {
        /// Name of the first missing field.
        field: &'static str,
    },
}

/// Decodes a ClientConf and checks the required fields of `DnsRegConf`, which the generated types
/// would fill with defaults.
///
/// # Errors
/// When the bytes do not decode or a required field is missing.
pub fn decode(bytes: &[u8]) -> Result<ClientConf, ClientConfError> {
    let conf = ClientConf::decode(bytes)?;
    if conf.dns_reg_conf.is_some() {
        let content = raw::embedded(bytes, 6).ok().flatten().unwrap_or_default();
        for (number, field) in [(1, "dns_reg_method"), (3, "domain")] {
            let present = raw::fields(&content).flatten().any(|f| f.number == number);
            if !present {
                return Err(ClientConfError::Required { field });
            }
        }
    }
    Ok(conf)
}
