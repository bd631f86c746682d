//! The messages that a client sends (`spec/detector.md` 9, `spec/registrar.md` 11.1).

use std::net::{IpAddr, SocketAddr};

use signalling::params::pack;
use signalling::{
    Addr, Any, C2sWrapper, ClientToStation, DtlsTransportParams, GenericTransportParams, Message,
    PrefixTransportParams, RegistrationFlags, RegistrationSource,
};

use crate::dtls::Sources;
use crate::options::{ClientConf, Options, Transport};

/// Size of an AEAD tag: payloads are padded so that payload and tag are a multiple of 3.
const GCM_TAG: usize = 16;

/// Transport parameters for `prefix_id`, the resolved prefix of Prefix, and `sources`, where a
/// client of DTLS can be reached.
pub(crate) fn transport_params(options: &Options, prefix_id: i32, sources: &Sources) -> Any {
    let randomize_dst_port = Some(options.randomize_port);
    match options.transport {
        Transport::Min | Transport::Obfs4 => pack(&GenericTransportParams { randomize_dst_port }),
        Transport::Prefix(_) => pack(&PrefixTransportParams {
            prefix_id: Some(prefix_id),
            custom_flush_policy: Some(options.flush_policy),
            randomize_dst_port,
            ..Default::default()
        }),
        Transport::Dtls { unordered } => pack(&DtlsTransportParams {
            src_addr4: sources.v4.map(address),
            src_addr6: sources.v6.map(address),
            randomize_dst_port,
            unordered: Some(unordered),
        }),
    }
}

fn address(at: SocketAddr) -> Addr {
    let ip = match at.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    Addr { ip: Some(ip), port: Some(u32::from(at.port())) }
}

/// The registration itself.
pub(crate) fn payload(
    options: &Options,
    conf: &ClientConf,
    prefix_id: i32,
    sources: &Sources,
) -> ClientToStation {
    let transport = transports::Transport::from(options.transport);
    ClientToStation {
        decoy_list_generation: Some(conf.generation),
        client_lib_version: Some(options.version),
        disable_registrar_overrides: Some(options.disable_overrides),
        transport: Some(transport.number()),
        transport_params: Some(transport_params(options, prefix_id, sources)),
        covert_address: Some(options.covert.clone()),
        v6_support: Some(options.families.v6),
        v4_support: Some(options.families.v4),
        flags: Some(RegistrationFlags {
            upload_only: Some(false),
            proxy_header: Some(options.proxy_header),
            use_til: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Adds the padding that clients send on every channel.
pub(crate) fn padded(mut payload: ClientToStation) -> ClientToStation {
    while !(payload.encoded_len() + GCM_TAG).is_multiple_of(3) {
        payload.padding.get_or_insert_default().push(0);
    }
    payload
}

/// The message of a registration that is no decoy's; `address` is the client's, in 4 or 16 bytes.
pub(crate) fn wrapper(
    secret: &[u8],
    payload: ClientToStation,
    source: RegistrationSource,
    address: Option<Vec<u8>>,
) -> Vec<u8> {
    C2sWrapper {
        shared_secret: Some(secret.to_vec()),
        registration_payload: Some(padded(payload)),
        registration_source: Some(source.into()),
        registration_address: address,
        ..Default::default()
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_evens_the_size_out() {
        for len in 0..12 {
            let covert_address = Some("x".repeat(len));
            let padded = padded(ClientToStation { covert_address, ..Default::default() });
            assert!((padded.encoded_len() + GCM_TAG).is_multiple_of(3));
            assert!(padded.padding.unwrap_or_default().iter().all(|b| *b == 0));
        }
    }
}
