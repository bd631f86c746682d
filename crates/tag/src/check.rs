//! Looking for a tag in a TCP payload (`spec/detector.md` 8).

use crate::aead::open;
use crate::layout::{
    FIXED, GCM_TAG, MIN_PAYLOAD, RECORD_HEADER, REPRESENTATIVE, TAIL, TAIL_SECRET, TAIL_STEGO,
};
use crate::payload;
use crate::stego;
use keys::{DecoyKeys, Kernel, StationKey, elligator};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Why a payload carries no registration. Later steps compare greater: with several station keys
/// the furthest step counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// Shorter than any tagged record.
    TooShort,
    /// The point is of low order: anybody could have made such a tag, and no client does.
    LowOrder,
    /// The fixed-size part does not open, which is what happens to ordinary traffic.
    FixedAuth,
    /// The announced variable-size part has no content.
    SizeTooSmall,
    /// The announced size is no multiple of 3.
    SizeNotMultipleOf3,
    /// The announced size exceeds the record.
    DoesNotFit,
    /// The variable-size part does not open.
    VariableAuth,
    /// The opened part is no `ClientToStation`.
    Payload,
}

/// A registration found in a record.
#[derive(Clone, PartialEq, Eq)]
pub struct Tag {
    /// Secret shared with the client, 32 bytes.
    pub shared_secret: Zeroizing<[u8; 32]>,
    /// Index of the station key that fits.
    pub key_index: usize,
    /// Opened fixed-size payload: size of the variable part, flags, reserved bytes.
    pub fixed: [u8; FIXED],
    /// The client's `ClientToStation`, as it was sent.
    pub client_to_station: Vec<u8>,
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tag").field("key_index", &self.key_index).finish_non_exhaustive()
    }
}

/// What does not depend on a station key: the representative, later the point that it stands for, and the
/// sealed fixed-size part.
struct Opening {
    u: [u8; 32],
    fixed: [u8; FIXED + GCM_TAG],
}

/// Candidates that go through the curve arithmetic together.
const BATCH: usize = 16;

/// Checks payloads against a list of station keys.
#[derive(Debug, Clone)]
pub struct TagChecker {
    keys: Vec<StationKey>,
    kernel: Option<Kernel>,
}

impl TagChecker {
    /// A checker that tries `keys` in this order, with the fastest code that this processor has.
    pub fn new(keys: Vec<StationKey>) -> Self {
        Self { keys, kernel: Kernel::detect() }
    }

    /// A checker with this code for several points at a time; `None` takes one after the other.
    pub const fn with_kernel(keys: Vec<StationKey>, kernel: Option<Kernel>) -> Self {
        Self { keys, kernel }
    }

    /// The keys, in order.
    pub fn keys(&self) -> &[StationKey] {
        &self.keys
    }

    /// Looks for a tag in one TCP payload.
    ///
    /// # Errors
    /// The first step that fails; with several keys the furthest one.
    pub fn check(&self, payload: &[u8]) -> Result<Tag, Reject> {
        let mut opening = opening(payload)?;
        opening.u = elligator::decode(&opening.u);
        let mut furthest = None;
        for (key_index, key) in self.keys.iter().enumerate() {
            let secret = key.agree(&opening.u).ok_or(Reject::LowOrder);
            match secret.and_then(|secret| try_secret(secret, key_index, payload, &opening)) {
                Ok(tag) => return Ok(tag),
                Err(reject) => furthest = furthest.max(Some(reject)),
            }
        }
        Err(furthest.unwrap_or(Reject::FixedAuth))
    }

    /// Looks for a tag in each of `payloads` and hands every result with its index to `each`, in
    /// order. The step shared by all keys is done once per payload.
    pub fn check_batch(
        &self,
        payloads: &[&[u8]],
        mut each: impl FnMut(usize, Result<Tag, Reject>),
    ) {
        for (chunk_index, chunk) in payloads.chunks(BATCH).enumerate() {
            let mut results: [Option<Result<Tag, Reject>>; BATCH] = std::array::from_fn(|_| None);
            self.check_chunk(chunk, &mut results);
            for (i, (payload, result)) in chunk.iter().zip(results).enumerate() {
                let is_candidate = payload.len() >= MIN_PAYLOAD;
                let none = if is_candidate { Reject::FixedAuth } else { Reject::TooShort };
                each(chunk_index * BATCH + i, result.unwrap_or(Err(none)));
            }
        }
    }

    /// Checks at most [`BATCH`] payloads; those that are too short keep no result.
    fn check_chunk(&self, chunk: &[&[u8]], results: &mut [Option<Result<Tag, Reject>>; BATCH]) {
        let candidates = chunk.iter().enumerate();
        let (numbers, openings): (Vec<usize>, Vec<Opening>) =
            candidates.filter_map(|(i, payload)| Some((i, opening(payload).ok()?))).unzip();
        let mut points: Vec<[u8; 32]> = openings.iter().map(|opening| opening.u).collect();
        elligator::decode_all(self.kernel, &mut points);
        let secrets = keys::agree_all(&self.keys, self.kernel, &points);
        // Without candidates there are no secrets either, but chunks have a length.
        for (key_index, secrets) in secrets.chunks(points.len().max(1)).enumerate() {
            for ((i, opening), secret) in numbers.iter().zip(&openings).zip(secrets) {
                let before = match results[*i].take() {
                    // What one key opens no other needs to try.
                    Some(Ok(tag)) => {
                        results[*i] = Some(Ok(tag));
                        continue;
                    }
                    Some(Err(before)) => Some(before),
                    None => None,
                };
                let secret = Zeroizing::new(*secret);
                let tried = if bool::from(secret.ct_eq(&[0; 32])) {
                    Err(Reject::LowOrder)
                } else {
                    try_secret(secret, key_index, chunk[*i], opening)
                };
                results[*i] = Some(tried.map_err(|now| before.map_or(now, |b| now.max(b))));
            }
        }
    }
}

fn opening(payload: &[u8]) -> Result<Opening, Reject> {
    if payload.len() < MIN_PAYLOAD {
        return Err(Reject::TooShort);
    }
    let tail = &payload[payload.len() - TAIL..][..TAIL_STEGO];
    let mut secret = [0; TAIL_SECRET];
    stego::decode(tail, &mut secret);
    let mut opening = Opening { u: [0; REPRESENTATIVE], fixed: [0; FIXED + GCM_TAG] };
    opening.u.copy_from_slice(&secret[..REPRESENTATIVE]);
    opening.fixed.copy_from_slice(&secret[REPRESENTATIVE..]);
    Ok(opening)
}

fn try_secret(
    shared_secret: Zeroizing<[u8; 32]>,
    key_index: usize,
    payload: &[u8],
    opening: &Opening,
) -> Result<Tag, Reject> {
    let keys = DecoyKeys::new(&*shared_secret);
    let mut sealed = opening.fixed;
    let fixed = open(&keys.fixed, &mut sealed).ok_or(Reject::FixedAuth)?;
    let fixed: [u8; FIXED] = fixed.try_into().map_err(|_| Reject::FixedAuth)?;
    let client_to_station = variable_part(&keys, &fixed, payload)?;
    Ok(Tag { shared_secret, key_index, fixed, client_to_station })
}

/// From here on the sender has shown that it knows the shared secret.
fn variable_part(keys: &DecoyKeys, fixed: &[u8; FIXED], payload: &[u8]) -> Result<Vec<u8>, Reject> {
    let size = usize::from(u16::from_be_bytes([fixed[0], fixed[1]]));
    if size <= GCM_TAG {
        return Err(Reject::SizeTooSmall);
    }
    if !size.is_multiple_of(3) {
        return Err(Reject::SizeNotMultipleOf3);
    }
    let body = &payload[RECORD_HEADER..];
    let end = body.len() - TAIL;
    let start = end.checked_sub(size / 3 * 4).ok_or(Reject::DoesNotFit)?;
    let mut sealed = vec![0; size];
    stego::decode(&body[start..end], &mut sealed);
    open(&keys.variable(), &mut sealed).ok_or(Reject::VariableAuth)?;
    sealed.truncate(size - GCM_TAG);
    payload::check(&sealed).map_err(|_| Reject::Payload)?;
    Ok(sealed)
}
