//! `C2SWrapper` as it comes in and as it is published (`spec/registrar.md` 5.4). The payload is
//! carried as the bytes the client sent, so that fields this station does not know survive.

use std::borrow::Cow;

use signalling::{C2sWrapper, ClientToStation, Message, RegistrationSource, raw};

/// Shortest shared secret that is published, in bytes.
pub const MIN_SECRET: usize = 8;
/// Fields of `ClientToStation` and of `RegistrationFlags` (`spec/signalling.md` 3.2).
const FLAGS: u32 = 24;
const PRESCANNED: u8 = 5;

/// A request that decodes.
#[derive(Debug, Clone)]
pub struct Wrapper<'a> {
    secret: Vec<u8>,
    source: Option<i32>,
    address: Option<Vec<u8>>,
    payload: Option<Payload<'a>>,
}

/// The client's registration, decoded and as sent.
#[derive(Debug, Clone)]
pub struct Payload<'a> {
    /// The fields this station knows.
    pub message: ClientToStation,
    bytes: Cow<'a, [u8]>,
}

/// The bytes are no `C2SWrapper`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a C2SWrapper")]
pub struct NotAWrapper;

/// The shared secret is shorter than [`MIN_SECRET`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shared secret undefined or insufficient length")]
pub struct ShortSecret;

impl<'a> Wrapper<'a> {
    /// Decodes a request body.
    ///
    /// # Errors
    /// [`NotAWrapper`].
    pub fn decode(body: &'a [u8]) -> Result<Self, NotAWrapper> {
        let wrapper = C2sWrapper::decode(body).map_err(|_| NotAWrapper)?;
        let bytes = raw::embedded(body, raw::REGISTRATION_PAYLOAD).map_err(|_| NotAWrapper)?;
        let payload = wrapper
            .registration_payload
            .zip(bytes)
            .map(|(message, bytes)| Payload { message, bytes });
        Ok(Self {
            secret: wrapper.shared_secret.unwrap_or_default(),
            source: wrapper.registration_source,
            address: wrapper.registration_address,
            payload,
        })
    }

    /// The shared secret; empty when absent.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The source that the client names.
    pub const fn source(&self) -> Option<i32> {
        self.source
    }

    /// The address that the client names, of any length.
    pub fn address(&self) -> Option<&[u8]> {
        self.address.as_deref()
    }

    /// The client's registration.
    pub const fn payload(&self) -> Option<&Payload<'a>> {
        self.payload.as_ref()
    }

    /// Replaces the payload's generation, in the decoded form and in the bytes.
    ///
    /// # Errors
    /// [`NotAWrapper`] when the bytes are malformed beyond what decoding noticed.
    pub fn set_generation(&mut self, generation: u32) -> Result<(), NotAWrapper> {
        if let Some(payload) = &mut self.payload {
            payload.message.decoy_list_generation = Some(generation);
            let field = raw::DECOY_LIST_GENERATION;
            let changed = raw::with_varint(&payload.bytes, field, u64::from(generation));
            payload.bytes = Cow::Owned(changed.map_err(|_| NotAWrapper)?);
        }
        Ok(())
    }

    /// Whether the message claims what only stations can know: that a detector heard it, or that its
    /// phantom was probed already.
    pub fn claims_station(&self) -> bool {
        let of_station = |source: i32| {
            source == RegistrationSource::Detector as i32
                || source == RegistrationSource::DetectorPrescan as i32
        };
        let flags = self.payload.as_ref().and_then(|payload| payload.message.flags.as_ref());
        self.source.is_some_and(of_station) || flags.is_some_and(|flags| flags.prescanned())
    }

    /// Takes those claims back: the source becomes the channel's, the phantom is to be probed.
    pub fn disclaim(&mut self) {
        self.source = None;
        let Some(payload) = &mut self.payload else { return };
        let Some(flags) = &mut payload.message.flags else { return };
        if flags.prescanned.take().is_some_and(|prescanned| prescanned) {
            // Embedded messages are merged, and of a scalar the last occurrence counts.
            raw::put_bytes(payload.bytes.to_mut(), FLAGS, &[PRESCANNED << 3, 0]);
        }
    }

    /// The message to publish. `channel` and `address` stand in for what the client left out;
    /// `response` is the serialized answer of a bidirectional registration.
    ///
    /// # Errors
    /// [`ShortSecret`].
    pub fn publication(
        &self,
        channel: RegistrationSource,
        address: Option<&[u8]>,
        response: Option<&[u8]>,
    ) -> Result<Vec<u8>, ShortSecret> {
        if self.secret.len() < MIN_SECRET {
            return Err(ShortSecret);
        }
        let payload = self.payload.as_ref().map(|p| &p.bytes[..]);
        let response_len = response.map_or(0, <[u8]>::len);
        let mut out = Vec::with_capacity(
            self.secret.len() + payload.map_or(0, <[u8]>::len) + response_len + 48,
        );
        raw::put_bytes(&mut out, 1, &self.secret);
        if let Some(payload) = payload {
            raw::put_bytes(&mut out, raw::REGISTRATION_PAYLOAD, payload);
        }
        let source = self.source.filter(|&s| s != 0).unwrap_or(channel as i32);
        // Negative numbers travel as 64-bit two's complement.
        raw::put_varint(&mut out, 4, i64::from(source).cast_unsigned());
        if let Some(address) = self.address.as_deref().or(address) {
            raw::put_bytes(&mut out, 6, address);
        }
        if let Some(response) = response {
            raw::put_bytes(&mut out, raw::REGISTRATION_RESPONSE, response);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(secret: usize, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        raw::put_bytes(&mut out, 1, &vec![7; secret]);
        raw::put_bytes(&mut out, 3, payload);
        out
    }

    #[test]
    fn unknown_fields_of_the_payload_survive_a_new_generation() {
        let body = body(32, &[0x10, 1, 0x28, 4, 0xe8, 4, 5]);
        let mut wrapper = Wrapper::decode(&body).unwrap();
        wrapper.set_generation(300).unwrap();
        assert_eq!(wrapper.payload().unwrap().message.decoy_list_generation, Some(300));
        let out = wrapper.publication(RegistrationSource::Api, Some(&[1, 2, 3, 4]), None).unwrap();
        let again = Wrapper::decode(&out).unwrap();
        assert_eq!(again.payload().unwrap().bytes[..], [0x10, 0xac, 2, 0x28, 4, 0xe8, 4, 5]);
        assert_eq!(again.source, Some(RegistrationSource::Api as i32));
        assert_eq!(again.address.as_deref(), Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn what_the_client_said_wins_and_an_unspecified_source_says_nothing() {
        for (said, published) in
            [(None, 2), (Some(0), 2), (Some(3), 3), (Some(77), 77), (Some(-1), -1)]
        {
            let wrapper = C2sWrapper {
                shared_secret: Some(vec![1; 8]),
                registration_source: said,
                registration_address: Some(Vec::new()),
                reg_resp_bytes: Some(vec![1]),
                ..C2sWrapper::default()
            };
            let body = wrapper.encode_to_vec();
            let wrapper = Wrapper::decode(&body).unwrap();
            let out = wrapper.publication(RegistrationSource::Api, Some(&[9]), None).unwrap();
            let out = C2sWrapper::decode(&out[..]).unwrap();
            assert_eq!(out.registration_source, Some(published));
            assert_eq!(out.registration_address, Some(Vec::new()), "present though empty");
            assert_eq!(out.reg_resp_bytes, None);
        }
    }

    #[test]
    fn claims_of_stations_can_be_taken_back() {
        for (source, prescanned, claims) in [
            (Some(1), None, true),
            (Some(3), Some(true), true),
            (Some(2), Some(true), true),
            (Some(2), Some(false), false),
            (None, None, false),
        ] {
            let flags = signalling::RegistrationFlags {
                prescanned,
                proxy_header: Some(true),
                ..Default::default()
            };
            let payload = ClientToStation { flags: Some(flags), ..Default::default() };
            let body = C2sWrapper {
                shared_secret: Some(vec![1; 8]),
                registration_payload: Some(payload),
                registration_source: source,
                ..C2sWrapper::default()
            }
            .encode_to_vec();
            let mut wrapper = Wrapper::decode(&body).unwrap();
            assert_eq!(wrapper.claims_station(), claims);
            wrapper.disclaim();
            assert!(!wrapper.claims_station());
            let out = wrapper.publication(RegistrationSource::Api, None, None).unwrap();
            let out = C2sWrapper::decode(&out[..]).unwrap();
            assert_eq!(out.registration_source, Some(RegistrationSource::Api as i32));
            let flags = out.registration_payload.unwrap().flags.unwrap();
            assert!(!flags.prescanned() && flags.proxy_header());
        }
    }

    #[test]
    fn a_short_secret_is_not_published() {
        let body = body(7, &[]);
        let wrapper = Wrapper::decode(&body).unwrap();
        assert_eq!(wrapper.publication(RegistrationSource::Api, None, None), Err(ShortSecret));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(mut wrapper) = Wrapper::decode(&bytes) {
                let _ = wrapper.set_generation(5);
                let _ = wrapper.publication(RegistrationSource::Api, None, Some(&bytes));
            }
        }
    }
}
