//! As much of DER as a certificate of this transport needs (X.690).

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// A constructed context-specific tag.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Appends an element whose content `content` writes.
pub(crate) fn element(out: &mut Vec<u8>, tag: u8, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    content(out);
    let len = out.len() - start;
    let bytes = len.to_be_bytes();
    let significant = &bytes[len.leading_zeros() as usize / 8..];
    let prefix = if len < 0x80 {
        vec![len as u8]
    } else {
        [&[0x80 | significant.len() as u8], significant].concat()
    };
    out.splice(start..start, prefix);
}

/// Takes one element: its tag, its content, and all of its bytes. `None` for anything but a definite
/// length in its shortest form, below 65,536.
pub(crate) fn next<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let whole = *input;
    let [tag, first, ..] = *whole else { return None };
    let (header, len) = match first {
        0..=0x7f => (2, first as usize),
        0x81 => (3, Some(*whole.get(2)? as usize).filter(|&len| len >= 0x80)?),
        0x82 => {
            let len = u16::from_be_bytes([*whole.get(2)?, *whole.get(3)?]) as usize;
            (4, Some(len).filter(|&len| len >= 0x100)?)
        }
        _ => return None,
    };
    let (element, rest) = whole.split_at_checked(header + len)?;
    *input = rest;
    Some((tag, &element[header..], element))
}

/// Takes the content of an element that must have `tag`.
pub(crate) fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    next(input).filter(|&(found, ..)| found == tag).map(|(_, content, _)| content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_can_be() {
        for len in [0usize, 1, 127, 128, 255, 256, 65_535] {
            let mut out = vec![9];
            element(&mut out, OCTET_STRING, |out| out.resize(out.len() + len, 7));
            let mut input = &out[1..];
            let (tag, content, whole) = next(&mut input).unwrap();
            assert_eq!((tag, content.len(), whole.len()), (OCTET_STRING, len, out.len() - 1));
            assert!(input.is_empty());
        }
        for long in [&[4, 0x81, 1, 0][..], &[4, 0x82, 0, 1, 0], &[4, 0x80, 0, 0], &[4, 2, 1], &[4]]
        {
            let mut input = long;
            assert_eq!(next(&mut input), None, "{long:?}");
        }
    }
}
