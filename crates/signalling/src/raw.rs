//! Original bytes of nested messages.
//!
//! Generated types drop unknown fields at every level, so a message that is forwarded must carry
//! the sender's own bytes (`spec/signalling.md` 8). A repeated embedded message merges field by
//! field, and merging equals decoding the concatenation, so the raw form of a field is the
//! concatenation of all its occurrences.

use std::borrow::Cow;

/// Field number of `C2SWrapper.registration_payload`.
pub const REGISTRATION_PAYLOAD: u32 = 3;
/// Field number of `C2SWrapper.registration_response`.
pub const REGISTRATION_RESPONSE: u32 = 8;
/// Field number of `ClientToStation.decoy_list_generation`.
pub const DECOY_LIST_GENERATION: u32 = 2;

/// A message that is not well-formed protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf at byte {at}")]
pub struct Malformed {
    /// Offset of the first byte that cannot be read.
    pub at: usize,
}

/// Value of one field as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little-endian.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5, little-endian.
    Fixed32(u32),
    /// A deprecated group (wire types 3 and 4), markers included.
    Group,
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Field number.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Key and value as they stand in the message.
    pub whole: &'a [u8],
}

/// Deepest nesting of groups that is followed.
const MAX_GROUP_DEPTH: usize = 16;

/// Iterates over the top-level fields of `message`.
pub const fn fields(message: &[u8]) -> Fields<'_> {
    Fields { message, at: 0 }
}

/// Iterator of [`fields`]; after an error it ends.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.message.get(self.at).ok_or(Malformed { at: self.at })?;
            self.at += 1;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed { at: self.at })
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let bad = Malformed { at: self.at };
        let len = usize::try_from(len).map_err(|_| bad)?;
        let end = self.at.checked_add(len).ok_or(bad)?;
        let slice = self.message.get(self.at..end).ok_or(bad)?;
        self.at = end;
        Ok(slice)
    }

    fn value(&mut self, wire_type: u64, number: u32, depth: usize) -> Result<Value<'a>, Malformed> {
        Ok(match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(self.take(8)?);
                Value::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            3 if depth < MAX_GROUP_DEPTH => {
                loop {
                    let key = self.varint()?;
                    let inner = u32::try_from(key >> 3).map_err(|_| Malformed { at: self.at })?;
                    if key & 7 == 4 {
                        if inner != number {
                            return Err(Malformed { at: self.at });
                        }
                        break;
                    }
                    self.value(key & 7, inner, depth + 1)?;
                }
                Value::Group
            }
            5 => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.take(4)?);
                Value::Fixed32(u32::from_le_bytes(bytes))
            }
            _ => return Err(Malformed { at: self.at }),
        })
    }

    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let start = self.at;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed { at: start })?;
        if number == 0 || number >= 1 << 29 {
            return Err(Malformed { at: start });
        }
        let value = self.value(key & 7, number, 0)?;
        Ok(Field { number, value, whole: &self.message[start..self.at] })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.message.len();
        }
        Some(field)
    }
}

/// Raw content of the embedded message `number` of `message`: borrowed when it occurs once,
/// concatenated when it occurs again, `None` when it is absent.
///
/// # Errors
/// When `message` is not well-formed.
pub fn embedded(message: &[u8], number: u32) -> Result<Option<Cow<'_, [u8]>>, Malformed> {
    let mut found: Option<Cow<'_, [u8]>> = None;
    for field in fields(message) {
        let field = field?;
        if let (true, Value::Bytes(content)) = (field.number == number, field.value) {
            match &mut found {
                None => found = Some(Cow::Borrowed(content)),
                Some(all) => all.to_mut().extend_from_slice(content),
            }
        }
    }
    Ok(found)
}

/// Copies `message` with the varint field `number` set to `value` and every other byte kept.
/// The field keeps the place of its first occurrence, or goes to the end when it was absent.
///
/// # Errors
/// When `message` is not well-formed.
pub fn with_varint(message: &[u8], number: u32, value: u64) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(message.len() + 8);
    let mut written = false;
    for field in fields(message) {
        let field = field?;
        if field.number != number {
            out.extend_from_slice(field.whole);
        } else if !written {
            put_varint(&mut out, number, value);
            written = true;
        }
    }
    if !written {
        put_varint(&mut out, number, value);
    }
    Ok(out)
}

/// Appends a varint field.
pub fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    put_raw_varint(out, u64::from(number) << 3);
    put_raw_varint(out, value);
}

/// Appends a length-delimited field.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    put_raw_varint(out, u64::from(number) << 3 | 2);
    put_raw_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn put_raw_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    #[test]
    fn unknown_fields_survive() {
        // generation 7, unknown field 77 = 5.
        let payload = hex::decode("1007e80405").unwrap();
        let mut wrapper = Vec::new();
        put_bytes(&mut wrapper, 1, &[9; 32]);
        put_bytes(&mut wrapper, REGISTRATION_PAYLOAD, &payload);
        let raw = embedded(&wrapper, REGISTRATION_PAYLOAD).unwrap().unwrap();
        assert_eq!(raw.as_ref(), payload);
        let changed = with_varint(&raw, DECOY_LIST_GENERATION, 300).unwrap();
        assert_eq!(hex::encode(changed), "10ac02e80405");
    }

    #[test]
    fn repeated_embedded_messages_concatenate() {
        let wrapper = hex::decode("1a0210071a022804").unwrap();
        let raw = embedded(&wrapper, REGISTRATION_PAYLOAD).unwrap().unwrap();
        let message = crate::ClientToStation::decode(raw.as_ref()).unwrap();
        assert_eq!(message.decoy_list_generation, Some(7));
        assert_eq!(message.client_lib_version, Some(4));
    }

    #[test]
    fn an_absent_varint_goes_to_the_end_and_repeats_collapse() {
        assert_eq!(with_varint(&[], 2, 1).unwrap(), [0x10, 1]);
        let twice = hex::decode("10072804".to_owned().as_str().to_owned() + "1009").unwrap();
        assert_eq!(hex::encode(with_varint(&twice, 2, 5).unwrap()), "10052804");
    }

    #[test]
    fn malformed_input_is_named() {
        assert_eq!(embedded(&[0x1a, 5, 1], 3), Err(Malformed { at: 2 }));
        assert!(embedded(&[0x0b, 0x14], 3).is_err());
        assert!(embedded(&[0x0b, 0x0c], 3).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = embedded(&bytes, 3);
            let _ = with_varint(&bytes, 2, 9);
        }

        #[test]
        fn fields_cover_the_message(
            secret in proptest::collection::vec(any::<u8>(), 0..40),
            generation in any::<u32>(),
        ) {
            let message = crate::C2sWrapper {
                shared_secret: Some(secret),
                registration_payload: Some(crate::ClientToStation {
                    decoy_list_generation: Some(generation),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let wire = message.encode_to_vec();
            let joined: Vec<u8> = fields(&wire).flat_map(|f| f.unwrap().whole.to_vec()).collect();
            prop_assert_eq!(joined, wire);
        }
    }
}
