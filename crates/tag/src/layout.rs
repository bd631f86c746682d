//! Where the secret lies in a record (`spec/detector.md` 7). Everything counts from the end of
//! the TCP payload; the record's own length field is never looked at.

/// TLS record header.
pub(crate) const RECORD_HEADER: usize = 5;
/// AES-GCM tag, inside the secret and behind the record's plaintext alike.
pub(crate) const GCM_TAG: usize = 16;
/// Elligator representative of the client's ephemeral key.
pub(crate) const REPRESENTATIVE: usize = 32;
/// Plaintext of the fixed-size payload.
pub(crate) const FIXED: usize = 6;
/// Secret bytes that stand at a fixed distance from the end.
pub(crate) const TAIL_SECRET: usize = REPRESENTATIVE + FIXED + GCM_TAG;
/// Ciphertext bytes that carry them.
pub(crate) const TAIL_STEGO: usize = TAIL_SECRET / 3 * 4;
/// From the start of those bytes to the end: CR LF CR LF and the record's AEAD tag follow them.
pub(crate) const TAIL: usize = TAIL_STEGO + 4 + GCM_TAG;
/// Smallest variable-size ciphertext: the next multiple of 3 above the GCM tag.
const MIN_VARIABLE: usize = 18;

/// Shorter TCP payloads cannot carry a tag: header, smallest variable part and tail.
pub const MIN_PAYLOAD: usize = RECORD_HEADER + MIN_VARIABLE / 3 * 4 + TAIL;

/// Content type of application data.
const APPLICATION_DATA: u8 = 0x17;

/// Whether a TCP payload starts like an application-data record and is thus a candidate.
pub fn is_application_data(payload: &[u8]) -> bool {
    payload.len() > RECORD_HEADER && payload[0] == APPLICATION_DATA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_specification() {
        assert_eq!((TAIL_SECRET, TAIL_STEGO, TAIL, MIN_PAYLOAD), (54, 72, 92, 121));
    }

    #[test]
    fn candidates() {
        assert!(is_application_data(&[0x17, 3, 3, 0, 0, 0]));
        assert!(!is_application_data(&[0x17, 3, 3, 0, 0]));
        assert!(!is_application_data(&[0x16, 3, 3, 0, 0, 0]));
    }
}
