//! Sealing and opening of records under AES-GCM (RFC 5288), in place.

use crate::nonce::NonceSequence;
use crate::record::{HEADER_LEN, Header, MAX_NUMBER, VERSION};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};

const EXPLICIT_LEN: usize = 8;
const TAG_LEN: usize = 16;
/// Header and explicit nonce: what precedes the payload of a sealed record.
pub(crate) const PREFIX_LEN: usize = HEADER_LEN + EXPLICIT_LEN;
/// What a sealed record has beside its payload, bytes.
pub const OVERHEAD: usize = PREFIX_LEN + TAG_LEN;
/// Longest payload of a record (RFC 5246 6.2.1).
pub const MAX_PAYLOAD: usize = 1 << 14;

fn aad(header: Header, len: u16) -> Aad<[u8; HEADER_LEN]> {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(&header.counter().to_be_bytes());
    bytes[8] = header.content;
    bytes[9..11].copy_from_slice(&VERSION);
    bytes[11..].copy_from_slice(&len.to_be_bytes());
    Aad::from(bytes)
}

fn nonce(salt: [u8; 4], explicit: [u8; EXPLICIT_LEN]) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&salt);
    bytes[4..].copy_from_slice(&explicit);
    Nonce::assume_unique_for_key(bytes)
}

/// Opens the records of the peer.
pub struct OpeningKey {
    key: LessSafeKey,
    salt: [u8; 4],
}

impl OpeningKey {
    pub(crate) const fn new(key: LessSafeKey, salt: [u8; 4]) -> Self {
        Self { key, salt }
    }

    /// The payload of the record with `header` and `body`, decrypted in place; `None` when it is too
    /// short or forged.
    pub fn open<'a>(&self, header: Header, body: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (explicit, rest) = body.split_first_chunk_mut::<EXPLICIT_LEN>()?;
        let (payload, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
        let len = u16::try_from(payload.len()).ok().filter(|&len| len as usize <= MAX_PAYLOAD)?;
        let nonce = nonce(self.salt, *explicit);
        self.key.open_in_place_separate_tag(nonce, aad(header, len), &tag[..], payload).ok()
    }
}

impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpeningKey(_)")
    }
}

/// Seals our records, numbering them from 0.
pub struct SealingKey {
    key: LessSafeKey,
    salt: [u8; 4],
    nonces: NonceSequence,
    next: u64,
}

/// All numbers of the epoch were used; a new connection is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl SealingKey {
    pub(crate) fn new(key: LessSafeKey, salt: [u8; 4], nonce_key: &[u8; 16]) -> Self {
        Self { key, salt, nonces: NonceSequence::new(nonce_key), next: 0 }
    }

    /// Turns what `out` has behind `start`, [`PREFIX_LEN`] bytes of room and a payload of at most
    /// [`MAX_PAYLOAD`] bytes, into one record of epoch 1.
    pub(crate) fn seal(
        &mut self,
        content: u8,
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), Exhausted> {
        if self.next > MAX_NUMBER {
            return Err(Exhausted);
        }
        let header = Header { content, epoch: 1, number: self.next };
        self.next += 1;
        let explicit = self.nonces.nonce(header.number);
        let (prefix, payload) = out[start..].split_at_mut(PREFIX_LEN);
        let len = payload.len() as u16;
        prefix[..HEADER_LEN].copy_from_slice(&header.encode(len + (EXPLICIT_LEN + TAG_LEN) as u16));
        prefix[HEADER_LEN..].copy_from_slice(&explicit);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.salt, explicit), aad(header, len), payload)
            .expect("a payload of 16 KiB can be sealed");
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(_)")
    }
}
