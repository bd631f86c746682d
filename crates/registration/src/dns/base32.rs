//! Base32 as it stands in names: lower case without padding on the way out, lenient on the way in
//! (`spec/registrar.md` 9.4).

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Encodes `data`.
pub fn encode(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len().div_ceil(5) * 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in data {
        bits = bits << 8 | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            out.push(ALPHABET[(bits >> held & 31) as usize]);
        }
    }
    if held > 0 {
        out.push(ALPHABET[(bits << (5 - held) & 31) as usize]);
    }
    out
}

/// Decodes characters of either case. CR and LF are skipped, bits left over are ignored, and a last
/// group of 1, 3 or 6 characters, which no encoder writes, contributes nothing. `None` at any
/// other character.
pub fn decode(text: impl IntoIterator<Item = u8>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u64, 0usize);
    for byte in text {
        let value = match byte.to_ascii_lowercase() {
            b'\r' | b'\n' => continue,
            letter @ b'a'..=b'z' => letter - b'a',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u64::from(value);
        count += 1;
        if count == 8 {
            out.extend_from_slice(&bits.to_be_bytes()[3..]);
            (bits, count) = (0, 0);
        }
    }
    let whole = match count {
        2 => 1,
        4 => 2,
        5 => 3,
        7 => 4,
        _ => 0,
    };
    let aligned = bits << (40 - 5 * count);
    out.extend_from_slice(&aligned.to_be_bytes()[3..3 + whole]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decodes_what_it_encodes(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = encode(&data);
            prop_assert_eq!(text.len(), (data.len() * 8).div_ceil(5));
            prop_assert_eq!(decode(text), Some(data));
        }

        #[test]
        fn any_text_is_decoded_or_refused(text in prop::collection::vec(any::<u8>(), 0..40)) {
            decode(text);
        }
    }
}
