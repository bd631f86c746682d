//! What a client sends (`spec/registrar.md` 11.1, `spec/detector.md` 9).

use signalling::{
    Any, C2sWrapper, ClientToStation, Message, RegistrationFlags, RegistrationSource, TransportType,
};

/// A registration as a client wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// Library version to claim.
    pub version: u32,
    /// `host:port` the station is to connect to.
    pub covert: String,
    /// Generation of the client's ClientConf.
    pub generation: u32,
    /// An IPv4 phantom is wanted.
    pub v4: bool,
    /// An IPv6 phantom is wanted.
    pub v6: bool,
    /// Transport.
    pub transport: TransportType,
    /// Parameters of the transport, with an empty type URL.
    pub params: Option<Any>,
    /// The covert gets a PROXY header.
    pub proxy_header: bool,
    /// The registrar must leave phantom and parameters alone.
    pub disable_overrides: bool,
}

impl Registration {
    /// The serialized payload. Its padding makes `length + 16` a multiple of 3, because the tag of
    /// a decoy registration carries three bytes in four.
    pub fn payload(&self) -> Vec<u8> {
        let mut message = ClientToStation {
            client_lib_version: Some(self.version),
            covert_address: Some(self.covert.clone()),
            decoy_list_generation: Some(self.generation),
            v6_support: Some(self.v6),
            v4_support: Some(self.v4),
            transport: Some(self.transport as i32),
            flags: Some(RegistrationFlags {
                upload_only: Some(false),
                proxy_header: Some(self.proxy_header),
                use_til: Some(true),
                ..RegistrationFlags::default()
            }),
            transport_params: self.params.clone(),
            disable_registrar_overrides: Some(self.disable_overrides),
            ..ClientToStation::default()
        };
        while !(message.encoded_len() + 16).is_multiple_of(3) {
            message.padding.get_or_insert_default().push(0);
        }
        message.encode_to_vec()
    }

    /// The body of an API request.
    pub fn wrapper(
        &self,
        secret: &[u8],
        source: RegistrationSource,
        address: Option<Vec<u8>>,
    ) -> Vec<u8> {
        let payload = self.payload();
        let mut out = Vec::with_capacity(payload.len() + secret.len() + 32);
        signalling::raw::put_bytes(&mut out, 1, secret);
        signalling::raw::put_bytes(&mut out, signalling::raw::REGISTRATION_PAYLOAD, &payload);
        let rest = C2sWrapper {
            registration_source: Some(source as i32),
            registration_address: address,
            ..C2sWrapper::default()
        };
        out.extend_from_slice(&rest.encode_to_vec());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_padded_to_the_stego_code() {
        for n in 0..40 {
            let registration = Registration {
                version: 4,
                covert: format!("{}:443", "x".repeat(n)),
                generation: 1164,
                v4: true,
                v6: false,
                transport: TransportType::Min,
                params: Some(Any::default()),
                proxy_header: false,
                disable_overrides: false,
            };
            let payload = registration.payload();
            assert_eq!((payload.len() + 16) % 3, 0);
            let message = ClientToStation::decode(&payload[..]).unwrap();
            assert!(message.padding.unwrap_or_default().len() <= 6);
            assert_eq!(message.flags.unwrap().use_til, Some(true));
            assert_eq!(message.transport_params, Some(Any::default()));
            let body = registration.wrapper(&[5; 32], RegistrationSource::Api, None);
            let wrapper = C2sWrapper::decode(&body[..]).unwrap();
            assert_eq!(wrapper.registration_payload.unwrap().encode_to_vec(), payload);
            assert_eq!(wrapper.registration_source, Some(2));
        }
    }
}
