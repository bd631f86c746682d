//! Transport parameters inside `google.protobuf.Any` (`spec/signalling.md` 5).

use crate::{Any, DtlsTransportParams, GenericTransportParams, PrefixTransportParams};
use prost::Message;

/// What every type URL starts with.
const URL_ROOT: &str = "type.googleapis.com/proto.";

/// Why transport parameters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// The type URL names another message.
    #[error("incorrect non-empty TypeUrl: {got} != {expected}")]
    TypeUrl {
        /// The URL found, after the rewrite of the old package name.
        got: String,
        /// The URL of the message that the transport takes.
        expected: String,
    },
    /// The value is not a message of that type.
    #[error("transport parameters do not decode: {0}")]
    Value(#[from] prost::DecodeError),
}

/// A message that a transport takes as its parameters.
pub trait TransportParams: Message + Default {
    /// Message name without the package.
    const NAME: &'static str;
}

impl TransportParams for GenericTransportParams {
    const NAME: &'static str = "GenericTransportParams";
}

impl TransportParams for PrefixTransportParams {
    const NAME: &'static str = "PrefixTransportParams";
}

impl TransportParams for DtlsTransportParams {
    const NAME: &'static str = "DTLSTransportParams";
}

/// Decodes the parameters that `any` carries. An empty type URL is always accepted, and the
/// package name of old clients (`tapdance.`) stands for today's.
///
/// # Errors
/// When a type URL names another message, or the value does not decode.
pub fn unpack<T: TransportParams>(any: &Any) -> Result<T, ParamsError> {
    if !any.type_url.is_empty() {
        let got = any.type_url.replace("tapdance.", "proto.");
        let expected = format!("{URL_ROOT}{}", T::NAME);
        if got != expected {
            return Err(ParamsError::TypeUrl { got, expected });
        }
    }
    Ok(T::decode(any.value.as_slice())?)
}

/// Packs `params` with an empty type URL, which every released client and station accepts.
pub fn pack<T: TransportParams>(params: &T) -> Any {
    Any { type_url: String::new(), value: params.encode_to_vec() }
}

/// Packs `params` with the full type URL, as reference registrars answer.
pub fn pack_with_url<T: TransportParams>(params: &T) -> Any {
    Any { type_url: format!("{URL_ROOT}{}", T::NAME), value: params.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_way_rule() {
        let value = vec![0x68, 1];
        let with = |url: &str| Any { type_url: url.to_owned(), value: value.clone() };
        for url in [
            "",
            "type.googleapis.com/proto.GenericTransportParams",
            "type.googleapis.com/tapdance.GenericTransportParams",
        ] {
            let params: GenericTransportParams = unpack(&with(url)).unwrap();
            assert_eq!(params.randomize_dst_port, Some(true));
        }
        let error = unpack::<GenericTransportParams>(&with("proto.GenericTransportParams"));
        assert_eq!(
            error.unwrap_err().to_string(),
            "incorrect non-empty TypeUrl: proto.GenericTransportParams != \
             type.googleapis.com/proto.GenericTransportParams"
        );
        assert!(
            unpack::<PrefixTransportParams>(&with(
                "type.googleapis.com/proto.GenericTransportParams"
            ))
            .is_err()
        );
    }

    #[test]
    fn packing_and_unpacking_agree() {
        let params = PrefixTransportParams { prefix_id: Some(-1), ..Default::default() };
        assert_eq!(unpack::<PrefixTransportParams>(&pack(&params)).unwrap(), params);
        assert_eq!(unpack::<PrefixTransportParams>(&pack_with_url(&params)).unwrap(), params);
    }
}
