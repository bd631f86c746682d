//! The message that is shared.

use signalling::RegistrationSource;
use signalling::raw::{self, Malformed, Value};

use crate::screen::{FLAGS, PRESCANNED};

/// Fields of `C2SWrapper` (`spec/signalling.md` 3.1).
const SECRET: u32 = 1;
const SOURCE: u32 = 4;
const ADDRESS: u32 = 6;

/// The registration of `message` as other stations are to hear of it: secret, payload with
/// `flags.prescanned`, source DetectorPrescan, address as received. Fields of the payload that this
/// station does not know stay.
///
/// # Errors
/// When the message cannot be read.
pub fn body(message: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (mut secret, mut address) = (None, None);
    for field in raw::fields(message) {
        let field = field?;
        match (field.number, field.value) {
            (SECRET, Value::Bytes(bytes)) => secret = Some(bytes),
            (ADDRESS, Value::Bytes(bytes)) => address = Some(bytes),
            _ => {}
        }
    }
    let payload = raw::embedded(message, raw::REGISTRATION_PAYLOAD)?.unwrap_or_default();
    let flags = raw::embedded(&payload, FLAGS)?.unwrap_or_default();
    let flags = raw::with_varint(&flags, PRESCANNED, 1)?;
    let mut out = Vec::with_capacity(message.len() + 16);
    if let Some(secret) = secret {
        raw::put_bytes(&mut out, SECRET, secret);
    }
    raw::put_bytes(&mut out, raw::REGISTRATION_PAYLOAD, &with_flags(&payload, &flags)?);
    raw::put_varint(&mut out, SOURCE, RegistrationSource::DetectorPrescan as u64);
    if let Some(address) = address {
        raw::put_bytes(&mut out, ADDRESS, address);
    }
    Ok(out)
}

/// `payload` with these flags, at the place of the former ones or where their number belongs.
fn with_flags(payload: &[u8], flags: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(payload.len() + flags.len() + 4);
    let mut written = false;
    for field in raw::fields(payload) {
        let field = field?;
        if field.number >= FLAGS && !written {
            raw::put_bytes(&mut out, FLAGS, flags);
            written = true;
        }
        if field.number != FLAGS {
            out.extend_from_slice(field.whole);
        }
    }
    if !written {
        raw::put_bytes(&mut out, FLAGS, flags);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use signalling::{C2sWrapper, ClientToStation, Message, RegistrationFlags};

    #[test]
    fn flags_are_made_or_completed() {
        for before in [
            None,
            Some(RegistrationFlags::default()),
            Some(RegistrationFlags { prescanned: Some(false), ..Default::default() }),
            Some(RegistrationFlags { upload_only: Some(true), ..Default::default() }),
        ] {
            let upload = before.as_ref().and_then(|flags| flags.upload_only);
            let mut wrapper = C2sWrapper {
                shared_secret: Some(vec![1; 32]),
                registration_payload: Some(ClientToStation {
                    v4_support: Some(true),
                    flags: before,
                    padding: Some(vec![0; 3]),
                    ..Default::default()
                }),
                registration_source: Some(1),
                decoy_address: Some(vec![1, 2, 3, 4]),
                ..Default::default()
            };
            let shared = C2sWrapper::decode(&body(&wrapper.encode_to_vec()).unwrap()[..]).unwrap();
            let payload = wrapper.registration_payload.as_mut().unwrap();
            payload.flags = Some(RegistrationFlags {
                upload_only: upload,
                prescanned: Some(true),
                ..Default::default()
            });
            (wrapper.registration_source, wrapper.decoy_address) = (Some(3), None);
            assert_eq!(shared, wrapper);
        }
    }

    #[test]
    fn unknown_fields_stay_and_nonsense_is_refused() {
        // Generation 7, unknown field 77 = 5, flags behind it.
        let payload = hex::decode("1007e80405c201022001").unwrap();
        let mut wrapper = Vec::new();
        raw::put_bytes(&mut wrapper, SECRET, &[9; 8]);
        raw::put_bytes(&mut wrapper, raw::REGISTRATION_PAYLOAD, &payload);
        let shared = body(&wrapper).unwrap();
        let payload = raw::embedded(&shared, raw::REGISTRATION_PAYLOAD).unwrap().unwrap();
        assert_eq!(hex::encode(payload), "1007c20104200128 01e80405".replace(' ', ""));
        assert!(body(&wrapper[..wrapper.len() - 1]).is_err());
    }
}
