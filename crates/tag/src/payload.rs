//! Whether decrypted bytes are a `ClientToStation` (`spec/detector.md` 8.1, step 12).
//!
//! Generated decoders are stricter than the reference in one place and laxer in others, and the
//! message is forwarded as it came. So only the form is judged here: fields that the schema
//! knows with another wire type pass as unknown, text has to be UTF-8, required fields have to be
//! there.

use signalling::raw::{Value, fields};

/// The payload is no `ClientToStation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registration payload is no ClientToStation message")]
pub struct Malformed;

/// What the form of one message depends on.
struct Schema {
    text: &'static [u32],
    messages: &'static [(u32, &'static Schema)],
    /// Required fields and whether each is a varint (otherwise length-delimited).
    required: &'static [(u32, bool)],
}

const PLAIN: Schema = Schema { text: &[], messages: &[], required: &[] };
const ANY: Schema = Schema { text: &[1], ..PLAIN };
const CANDIDATE: Schema = Schema { required: &[(1, true), (2, true), (3, true)], ..PLAIN };
const SDP: Schema = Schema { messages: &[(2, &CANDIDATE)], required: &[(1, true)], ..PLAIN };
const SIGNAL: Schema =
    Schema { text: &[1], messages: &[(2, &SDP)], required: &[(1, false), (2, false)] };
const CLIENT_TO_STATION: Schema = Schema {
    text: &[10, 20, 21],
    messages: &[(11, &PLAIN), (13, &ANY), (24, &PLAIN), (31, &SIGNAL)],
    required: &[],
};

/// Checks that `message` has the form of a `ClientToStation`.
pub(crate) fn check(message: &[u8]) -> Result<(), Malformed> {
    conforms(message, &CLIENT_TO_STATION)
}

/// Schemas nest three levels deep, so the recursion is bounded.
fn conforms(message: &[u8], schema: &Schema) -> Result<(), Malformed> {
    for field in fields(message) {
        let field = field.map_err(|_| Malformed)?;
        let Value::Bytes(content) = field.value else { continue };
        if schema.text.contains(&field.number) && std::str::from_utf8(content).is_err() {
            return Err(Malformed);
        }
        if let Some((_, inner)) = schema.messages.iter().find(|(n, _)| *n == field.number) {
            conforms(content, inner)?;
        }
    }
    let present = |&(number, varint): &(u32, bool)| {
        fields(message).flatten().any(|field| {
            field.number == number
                && match field.value {
                    Value::Varint(_) => varint,
                    Value::Bytes(_) => !varint,
                    _ => false,
                }
        })
    };
    if schema.required.iter().all(present) { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        let verdict = |text: &str| check(&hex::decode(text).unwrap()).is_ok();
        assert!(verdict(""));
        assert!(verdict("0801a00107"), "covert_address as a varint is an unknown field");
        assert!(!verdict("a20102fffe"), "covert_address that is no UTF-8");
        assert!(!verdict("fa0100"), "webrtc_signal without its required fields");
        assert!(verdict("fa01070a017812020801"), "webrtc_signal with them");
        assert!(!verdict("fa01090a0178120408011200"), "an empty candidate lacks its fields");
        assert!(!verdict("6a030a01ff"), "type URL that is no UTF-8");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&bytes);
        }
    }
}
