//! What of a message may be believed, by the source that it came from: the response of a registrar
//! (`spec/registrar.md` 10.5) and the flag that its phantom was probed already
//! (`spec/application.md` 25).

use std::sync::Arc;

use bytes::Bytes;
use conf::{ConnectSocket, SigningKey};
use registration::verifying::{NotAKey, ResponseVerifier};
use signalling::raw::{self, Malformed, Value};
use signalling::{Message, RegistrationResponse, RegistrationSource};

use crate::stats::Window;

/// Fields of `C2SWrapper`, of `ClientToStation` and of `RegistrationFlags`
/// (`spec/signalling.md` 3).
const SOURCE: u32 = 4;
const SIGNED_BYTES: u32 = 9;
const SIGNATURE: u32 = 10;
pub(crate) const FLAGS: u32 = 24;
pub(crate) const PRESCANNED: u32 = 5;

/// Payload that, appended to a message, unsets the flag: of a scalar the last occurrence counts, and
/// embedded messages are merged.
const NOT_PRESCANNED: [u8; 7] = [0x1a, 5, 0xc2, 1, 2, 0x28, 0];

/// What screens have decided.
#[derive(Debug, Default)]
pub struct Counters {
    /// Responses that a configured key signed.
    pub verified: Window,
    /// Responses that were to be verified and could not.
    pub refused: Window,
    /// Responses taken out because the source's are never believed.
    pub stripped: Window,
    /// Prescanned flags that were not believed.
    pub prescans: Window,
    /// Messages that are no protobuf.
    pub malformed: Window,
}

/// Why a response is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no signature.
    #[error("it is not signed; is the registrar in CURVE mode?")]
    Unsigned,
    /// The signature is of another key, or over something else.
    #[error(
        "no configured key made its signature; compare signing_pubkey with what the registrar prints"
    )]
    Signature,
    /// What was signed is no response.
    #[error("what was signed is no RegistrationResponse")]
    Content,
}

/// From which messages the flag `prescanned` is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prescanned {
    /// All of them.
    Any,
    /// Those of stations that share registrations.
    Shared,
    /// Those that are not a client's own words, which the detector passes on.
    Local,
    /// None.
    Nobody,
}

#[derive(Debug)]
enum Responses {
    Trust,
    Verify(Vec<ResponseVerifier>),
    Strip,
}

/// Decides over the messages of one source.
#[derive(Debug)]
pub struct Screen {
    prescanned: Prescanned,
    responses: Responses,
    counters: Arc<Counters>,
}

impl Screen {
    /// The screen of `source`; `any` believes every prescanned flag, as the reference does.
    ///
    /// # Errors
    /// [`NotAKey`] when a signing key is none.
    pub fn new(
        source: &ConnectSocket,
        any: bool,
        counters: Arc<Counters>,
    ) -> Result<Self, NotAKey> {
        let verifier = |key: &SigningKey| match key {
            SigningKey::Ed25519(public) => ResponseVerifier::ed25519(public),
            SigningKey::Legacy { public, hashed } => ResponseVerifier::legacy(public, hashed),
        };
        let responses = match &source.responses {
            conf::Responses::Trust => Responses::Trust,
            conf::Responses::Strip => Responses::Strip,
            conf::Responses::Verify(keys) => {
                Responses::Verify(keys.iter().map(verifier).collect::<Result<_, _>>()?)
            }
        };
        let prescanned = if any {
            Prescanned::Any
        } else if source.server_key.is_some() {
            Prescanned::Shared
        } else if source.address.starts_with("ipc://") {
            Prescanned::Local
        } else {
            Prescanned::Nobody
        };
        Ok(Self { prescanned, responses, counters })
    }

    /// The message without what is not believed, and why its response is not when that was to be
    /// verified. Of a verified response the signed bytes remain, whatever stood beside them.
    ///
    /// # Errors
    /// When the message cannot be read.
    pub fn apply(&self, message: Bytes) -> Result<(Bytes, Option<Refusal>), Malformed> {
        let screened = self
            .responses(message)
            .and_then(|(message, refusal)| Ok((self.prescanned(message)?, refusal)));
        if screened.is_err() {
            self.counters.malformed.count();
        }
        screened
    }

    fn responses(&self, message: Bytes) -> Result<(Bytes, Option<Refusal>), Malformed> {
        if matches!(self.responses, Responses::Trust) {
            return Ok((message, None));
        }
        let (mut others, mut signed, mut signature) = (Vec::new(), None, None);
        for field in raw::fields(&message) {
            let field = field?;
            match (field.number, field.value) {
                (SIGNED_BYTES, Value::Bytes(bytes)) => signed = Some(bytes),
                (SIGNATURE, Value::Bytes(bytes)) => signature = Some(bytes),
                (raw::REGISTRATION_RESPONSE | SIGNED_BYTES | SIGNATURE, _) => {}
                _ => others.extend_from_slice(field.whole),
            }
        }
        if others.len() == message.len() {
            return Ok((message, None));
        }
        let Responses::Verify(keys) = &self.responses else {
            self.counters.stripped.count();
            return Ok((others.into(), None));
        };
        match verify(keys, signed.zip(signature)) {
            Ok((signed, signature)) => {
                self.counters.verified.count();
                raw::put_bytes(&mut others, raw::REGISTRATION_RESPONSE, signed);
                raw::put_bytes(&mut others, SIGNED_BYTES, signed);
                raw::put_bytes(&mut others, SIGNATURE, signature);
                Ok((others.into(), None))
            }
            Err(refusal) => {
                self.counters.refused.count();
                Ok((others.into(), Some(refusal)))
            }
        }
    }

    fn prescanned(&self, message: Bytes) -> Result<Bytes, Malformed> {
        if self.prescanned == Prescanned::Any || !is_prescanned(&message)? {
            return Ok(message);
        }
        let from = last_number(&message, SOURCE)?.unwrap_or(0);
        let is = |source: RegistrationSource| from == source as u64;
        let believed = match self.prescanned {
            Prescanned::Any => true,
            Prescanned::Shared => is(RegistrationSource::DetectorPrescan),
            Prescanned::Local => !is(RegistrationSource::Detector),
            Prescanned::Nobody => false,
        };
        if believed {
            return Ok(message);
        }
        self.counters.prescans.count();
        Ok([&message[..], &NOT_PRESCANNED].concat().into())
    }
}

fn verify<'a>(
    keys: &[ResponseVerifier],
    parts: Option<(&'a [u8], &'a [u8])>,
) -> Result<(&'a [u8], &'a [u8]), Refusal> {
    let (signed, signature) = parts.ok_or(Refusal::Unsigned)?;
    if !keys.iter().any(|key| key.verifies(signed, signature)) {
        return Err(Refusal::Signature);
    }
    RegistrationResponse::decode(signed).map_err(|_| Refusal::Content)?;
    Ok((signed, signature))
}

fn is_prescanned(message: &[u8]) -> Result<bool, Malformed> {
    let Some(payload) = raw::embedded(message, raw::REGISTRATION_PAYLOAD)? else {
        return Ok(false);
    };
    let Some(flags) = raw::embedded(&payload, FLAGS)? else { return Ok(false) };
    Ok(last_number(&flags, PRESCANNED)?.is_some_and(|flag| flag != 0))
}

/// The varint `number` of `message`; of several the last.
fn last_number(message: &[u8], number: u32) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for field in raw::fields(message) {
        let field = field?;
        if let (true, Value::Varint(value)) = (field.number == number, field.value) {
            found = Some(value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use registration::signing::ResponseSigner;
    use signalling::{C2sWrapper, ClientToStation, RegistrationFlags};

    fn source(text: &str) -> ConnectSocket {
        let text = format!("socket_name = \"z\"\n[[connect_sockets]]\n{text}\n");
        let loaded = conf::Application::parse(&text, std::path::Path::new("a.toml")).unwrap();
        loaded.value.connect_sockets[0].clone()
    }

    fn screen(text: &str) -> Screen {
        Screen::new(&source(text), false, Arc::default()).unwrap()
    }

    const LOCAL: &str = "address = \"ipc://@detector\"\n";
    const PLAIN: &str = "address = \"tcp://192.0.2.1:5591\"\n";

    fn curve(extra: &str) -> String {
        let key = "s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@";
        format!("{PLAIN}type = \"CURVE\"\npubkey = \"{key}\"\n{extra}\n")
    }

    fn verifying(signer: &ResponseSigner, extra: &str) -> Screen {
        let key = hex::encode(signer.public());
        screen(&curve(&format!("signing_pubkey = \"{key}\"\n{extra}")))
    }

    fn response(port: u32) -> RegistrationResponse {
        RegistrationResponse { dst_port: Some(port), ipv4addr: Some(7), ..Default::default() }
    }

    /// A bidirectional registration: what stands beside the signed bytes, those, their signature.
    fn message(beside: Option<u32>, signed: Option<&[u8]>, signature: Option<&[u8]>) -> Bytes {
        let wrapper = C2sWrapper {
            shared_secret: Some(vec![3; 32]),
            registration_payload: Some(ClientToStation::default()),
            registration_source: Some(4),
            registration_response: beside.map(response),
            reg_resp_bytes: signed.map(<[u8]>::to_vec),
            reg_resp_signature: signature.map(<[u8]>::to_vec),
            ..Default::default()
        };
        // A field that this station does not know.
        [wrapper.encode_to_vec().as_slice(), &[0xe8, 7, 9]].concat().into()
    }

    /// The port that the registration gets after `screen`, and why none.
    fn port(screen: &Screen, message: Bytes) -> (Option<u32>, Option<Refusal>) {
        let (message, refusal) = screen.apply(message).unwrap();
        assert!(raw::fields(&message).any(|field| field.unwrap().number == 125));
        let wrapper = C2sWrapper::decode(&message[..]).unwrap();
        assert_eq!(wrapper.shared_secret().len(), 32);
        (wrapper.registration_response.and_then(|response| response.dst_port), refusal)
    }

    #[test]
    fn only_what_a_configured_key_signed_is_believed() {
        let signer = ResponseSigner::derived(&[5; 32]);
        let screen = verifying(&signer, "");
        let signed = response(4444).encode_to_vec();
        let good = signer.sign(&signed);
        // Also where something else stands in the unsigned field, or nothing.
        for beside in [Some(4444), Some(1), None] {
            let got = port(&screen, message(beside, Some(&signed), Some(&good)));
            assert_eq!(got, (Some(4444), None));
        }
        let altered = response(4445).encode_to_vec();
        let other = ResponseSigner::derived(&[6; 32]).sign(&signed);
        for (signed, signature, refusal) in [
            (Some(&altered[..]), Some(&good[..]), Refusal::Signature),
            (Some(&signed[..]), Some(&other[..]), Refusal::Signature),
            (Some(&signed[..]), Some(&good[..63]), Refusal::Signature),
            (Some(&signed[..]), None, Refusal::Unsigned),
            (None, Some(&good[..]), Refusal::Unsigned),
            (None, None, Refusal::Unsigned),
        ] {
            let got = port(&screen, message(Some(4444), signed, signature));
            assert_eq!(got, (None, Some(refusal)));
        }
        let nonsense = [0xff; 5];
        let signature = signer.sign(&nonsense);
        let got = port(&screen, message(Some(1), Some(&nonsense), Some(&signature)));
        assert_eq!(got, (None, Some(Refusal::Content)));
        assert_eq!((screen.counters.verified.total(), screen.counters.refused.total()), (3, 7));
        // A unidirectional registration has nothing to verify.
        let plain = message(None, None, None);
        assert_eq!(screen.apply(plain.clone()).unwrap(), (plain, None));
        assert_eq!(screen.counters.refused.total(), 7);
    }

    #[test]
    fn legacy_signatures_are_verified_when_the_source_says_so() {
        let curve = conf::z85("s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@").unwrap();
        let signer = ResponseSigner::legacy(&[[5; 32], curve].concat().try_into().unwrap());
        let signed = response(4444).encode_to_vec();
        let message = message(None, Some(&signed), Some(&signer.sign(&signed)));
        let legacy = verifying(&signer, "signing_mode = \"legacy\"");
        assert_eq!(port(&legacy, message.clone()), (Some(4444), None));
        let standard = verifying(&signer, "");
        assert_eq!(port(&standard, message), (None, Some(Refusal::Signature)));
    }

    #[test]
    fn without_keys_everything_stays_as_it_came() {
        let signed = response(4444).encode_to_vec();
        for text in [LOCAL.to_owned(), PLAIN.to_owned(), curve("")] {
            let screen = screen(&text);
            for signature in [None, Some(&[1; 64][..])] {
                let message = message(Some(1), Some(&signed), signature);
                assert_eq!(screen.apply(message.clone()).unwrap(), (message, None));
            }
        }
        let strip = screen(&curve("resp_policy = \"strip\""));
        assert_eq!(port(&strip, message(Some(1), Some(&signed), None)), (None, None));
        assert_eq!(strip.counters.stripped.total(), 1);
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        let text = curve(&format!("signing_pubkey = \"{}\"", "00".repeat(32)));
        assert!(Screen::new(&source(&text), false, Arc::default()).is_err());
    }

    #[test]
    fn prescans_are_believed_of_stations_that_can_be_known() {
        let message = |from: i32| -> Bytes {
            let flags = RegistrationFlags {
                prescanned: Some(true),
                proxy_header: Some(true),
                ..Default::default()
            };
            let payload = ClientToStation { flags: Some(flags), ..Default::default() };
            let wrapper = C2sWrapper {
                shared_secret: Some(vec![3; 32]),
                registration_payload: Some(payload),
                registration_source: Some(from),
                ..Default::default()
            };
            wrapper.encode_to_vec().into()
        };
        let (detector, api, shared) = (1, 2, 3);
        for (text, believed) in [
            (PLAIN.to_owned(), [false, false, false]),
            (curve(""), [false, false, true]),
            (LOCAL.to_owned(), [false, true, true]),
        ] {
            let screen = screen(&text);
            for (from, believed) in [detector, api, shared].into_iter().zip(believed) {
                let (screened, _) = screen.apply(message(from)).unwrap();
                let wrapper = C2sWrapper::decode(&screened[..]).unwrap();
                let flags = wrapper.registration_payload.unwrap().flags.unwrap();
                assert_eq!(flags.prescanned(), believed, "{text} {from}");
                assert!(flags.proxy_header(), "the others stay");
            }
            let refused = believed.iter().filter(|believed| !**believed).count() as u64;
            assert_eq!(screen.counters.prescans.total(), refused);
            let any = Screen::new(&source(&text), true, Arc::default()).unwrap();
            assert_eq!(any.apply(message(api)).unwrap(), (message(api), None));
        }
    }

    /// The flag in a second payload, behind one that unsets it, in second flags, and as a long number.
    #[test]
    fn a_flag_cannot_hide() {
        let screen = screen(PLAIN);
        let set = [0x1a, 5, 0xc2, 1, 2, 0x28, 1];
        for hidden in [
            [&[0x1a, 0][..], &set].concat(),
            [&NOT_PRESCANNED[..], &set].concat(),
            vec![0x1a, 8, 0xc2, 1, 0, 0xc2, 1, 2, 0x28, 7],
            vec![0x1a, 6, 0xc2, 1, 3, 0x28, 0x80, 1],
        ] {
            let before = C2sWrapper::decode(&hidden[..]).unwrap();
            assert!(before.registration_payload.unwrap().flags.unwrap().prescanned());
            let (screened, _) = screen.apply(hidden.into()).unwrap();
            let after = C2sWrapper::decode(&screened[..]).unwrap();
            assert!(!after.registration_payload.unwrap().flags.unwrap().prescanned());
        }
    }

    #[test]
    fn any_bytes_are_screened_or_refused() {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand::rngs::StdRng::seed_from_u64(4);
        let signer = ResponseSigner::derived(&[5; 32]);
        let signed = response(4444).encode_to_vec();
        let good = message(Some(1), Some(&signed), Some(&signer.sign(&signed)));
        let screens =
            [verifying(&signer, ""), screen(PLAIN), screen(&curve("resp_policy = \"strip\""))];
        for _ in 0..20_000 {
            let mut bytes = good.to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            bytes.truncate(rng.random_range(0..=bytes.len()));
            for screen in &screens {
                let Ok((screened, _)) = screen.apply(bytes.clone().into()) else { continue };
                let Ok(wrapper) = C2sWrapper::decode(&screened[..]) else { continue };
                if let (Responses::Verify(_), Some(response)) =
                    (&screen.responses, wrapper.registration_response)
                {
                    assert_eq!(response.encode_to_vec(), signed, "only what was signed");
                }
            }
        }
    }
}
