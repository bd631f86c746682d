//! Domain names (`spec/registrar.md` 9.4 and 9.7, RFC 1035).

use std::fmt;

/// Longest name in bytes, length bytes and root included.
pub const MAX_NAME: usize = 255;
/// Longest label in bytes.
const MAX_LABEL: usize = 63;
/// Compression pointers that one name may follow.
const MAX_POINTERS: usize = 10;

/// Why bytes or text are no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A label without bytes.
    #[error("zero-length label")]
    EmptyLabel,
    /// A label above 63 bytes.
    #[error("label too long")]
    LongLabel,
    /// A name above 255 bytes.
    #[error("name too long")]
    LongName,
    /// The message ends inside the name.
    #[error("truncated")]
    Truncated,
    /// Label types 01 and 10.
    #[error("reserved label type")]
    Reserved,
    /// More pointers than a name may follow.
    #[error("too many pointers")]
    Pointers,
}

/// A name, with the letter case it came in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// Labels with their length bytes, root included.
    wire: Vec<u8>,
}

impl Name {
    /// The name of `labels`.
    ///
    /// # Errors
    /// [`NameError`] for an empty or long label and for a long name.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            match label.len() {
                0 => return Err(NameError::EmptyLabel),
                length @ 1..=MAX_LABEL => wire.push(length as u8),
                _ => return Err(NameError::LongLabel),
            }
            wire.extend_from_slice(label);
            if wire.len() >= MAX_NAME {
                return Err(NameError::LongName);
            }
        }
        wire.push(0);
        Ok(Self { wire })
    }

    /// The name that `text` writes with dots; one dot at the end is ignored, and the empty text is
    /// the root.
    ///
    /// # Errors
    /// [`NameError`], as for [`Name::from_labels`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self { wire: vec![0] });
        }
        Self::from_labels(text.split('.').map(str::as_bytes))
    }

    /// Reads the name at `start` of `message`; also returns where what follows it begins.
    ///
    /// # Errors
    /// [`NameError`] when the message ends early, a label type is reserved, more than ten pointers
    /// are followed, or the name is longer than 255 bytes.
    pub fn read(message: &[u8], start: usize) -> Result<(Self, usize), NameError> {
        let mut wire = Vec::with_capacity(64);
        let (mut at, mut end, mut pointers) = (start, None, 0);
        loop {
            let length = *message.get(at).ok_or(NameError::Truncated)?;
            at += 1;
            match length >> 6 {
                0 if length == 0 => {
                    wire.push(0);
                    return Ok((Self { wire }, end.unwrap_or(at)));
                }
                0 => {
                    let label = message.get(at..at + usize::from(length));
                    wire.push(length);
                    wire.extend_from_slice(label.ok_or(NameError::Truncated)?);
                    at += usize::from(length);
                    if wire.len() >= MAX_NAME {
                        return Err(NameError::LongName);
                    }
                }
                3 => {
                    let low = *message.get(at).ok_or(NameError::Truncated)?;
                    end.get_or_insert(at + 1);
                    pointers += 1;
                    if pointers > MAX_POINTERS {
                        return Err(NameError::Pointers);
                    }
                    at = usize::from(length & 0x3f) << 8 | usize::from(low);
                }
                _ => return Err(NameError::Reserved),
            }
        }
    }

    /// Labels with their length bytes, root included.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The labels from the left.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.wire[..];
        std::iter::from_fn(move || {
            let (&length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(length))?;
            rest = tail;
            (length > 0).then_some(label)
        })
    }

    /// The labels left of `zone`, whose letter case does not matter; `None` for a name elsewhere.
    pub fn strip_zone(&self, zone: &Self) -> Option<Self> {
        let (own, of_zone) = (self.labels().count(), zone.labels().count());
        let rest = own.checked_sub(of_zone)?;
        let same = self.labels().skip(rest).zip(zone.labels());
        if !same.into_iter().all(|(one, other)| one.eq_ignore_ascii_case(other)) {
            return None;
        }
        let mut wire = self.wire[..self.wire.len() - zone.wire.len()].to_vec();
        wire.push(0);
        Some(Self { wire })
    }
}

/// Letters, digits and hyphens as they are, every other byte as `\xNN`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wire.len() == 1 {
            return f.write_str(".");
        }
        for (at, label) in self.labels().enumerate() {
            if at > 0 {
                f.write_str(".")?;
            }
            for &byte in label {
                if byte.is_ascii_alphanumeric() || byte == b'-' {
                    write!(f, "{}", char::from(byte))?;
                } else {
                    write!(f, "\\x{byte:02x}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_it_writes(
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..63), 0..3),
            before in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let name = Name::from_labels(labels.iter().map(|l| &l[..])).unwrap();
            prop_assert!(name.labels().eq(labels.iter().map(|l| &l[..])));
            let mut message = before.clone();
            message.extend_from_slice(name.wire());
            let (again, end) = Name::read(&message, before.len()).unwrap();
            prop_assert_eq!(&again, &name);
            prop_assert_eq!(end, message.len());
            prop_assert_eq!(name.strip_zone(&name).unwrap().labels().count(), 0);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            message in prop::collection::vec(any::<u8>(), 0..600),
            start in 0usize..700,
        ) {
            if let Ok((name, _)) = Name::read(&message, start) {
                prop_assert!(name.wire().len() <= MAX_NAME);
            }
        }
    }
}
