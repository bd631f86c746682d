//! The messages of the handshake (`spec/transports.md` 7.2).

use super::{
    AUTH, CLIENT_PADDING, ClientIdentity, MARK_LEN, MAX_HANDSHAKE, MIN_CLIENT_HANDSHAKE,
    REPRESENTATIVE,
};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// What a client sends in the hour `hour` since the Unix epoch.
pub fn client_message(
    identity: &ClientIdentity,
    representative: &[u8; REPRESENTATIVE],
    padding: &[u8],
    hour: u64,
) -> Vec<u8> {
    debug_assert!(CLIENT_PADDING.contains(&padding.len()));
    finish(identity, representative, &[representative, padding], hour)
}

/// What a server answers; `hour` is the one with which the client's MAC verified.
pub fn server_message(
    identity: &ClientIdentity,
    representative: &[u8; REPRESENTATIVE],
    auth: &[u8; AUTH],
    padding: &[u8],
    hour: u64,
) -> Vec<u8> {
    finish(identity, representative, &[representative, auth, padding], hour)
}

fn finish(
    identity: &ClientIdentity,
    representative: &[u8; REPRESENTATIVE],
    parts: &[&[u8]],
    hour: u64,
) -> Vec<u8> {
    let mut message = Vec::with_capacity(parts.iter().map(|p| p.len()).sum::<usize>() + 128);
    parts.iter().for_each(|part| message.extend_from_slice(part));
    message.extend(identity.mark(representative));
    let mac = identity.handshake_mac(&message, hour);
    message.extend(mac);
    message
}

/// Where the mark of a client's handshake would be if the handshake ended where `received` does;
/// `None` while `received` is too short for one.
pub(super) fn tail_mark(received: &[u8]) -> Option<&[u8; MARK_LEN]> {
    let end = received.len().min(MAX_HANDSHAKE);
    let mark = received[..end].len().checked_sub(2 * MARK_LEN)?;
    if end < MIN_CLIENT_HANDSHAKE {
        return None;
    }
    received[mark..].first_chunk()
}

/// The hour with which the MAC at the end of `message`, a whole handshake of a client, verifies:
/// `hour` itself, the one before or the one after. All three are always tried.
pub fn verified_hour(identity: &ClientIdentity, message: &[u8], hour: u64) -> Option<u64> {
    let (until_mac, mac) = message.split_last_chunk::<MARK_LEN>()?;
    let (mut found, mut verified) = (0, Choice::from(0));
    for candidate in [hour, hour.wrapping_sub(1), hour.wrapping_add(1)] {
        let equal = identity.handshake_mac(until_mac, candidate).ct_eq(mac);
        found.conditional_assign(&candidate, equal);
        verified |= equal;
    }
    bool::from(verified).then_some(found)
}

/// The server's answer as a client receives it, in pieces.
pub(super) struct Answer<'a> {
    pub(super) representative: &'a [u8; REPRESENTATIVE],
    pub(super) auth: &'a [u8; AUTH],
    /// Bytes of the answer; frames follow.
    pub(super) len: usize,
}

/// Why an answer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadAnswer {
    /// The mark was found, and the MAC behind it is wrong.
    Mac,
    /// No mark within the longest handshake.
    NoMark,
}

/// Finds the end of the server's answer in `received`, which never is longer than a handshake.
/// `searched` is how far earlier calls looked; `None` means that more is needed.
pub(super) fn find_answer<'a>(
    identity: &ClientIdentity,
    received: &'a [u8],
    searched: &mut usize,
    hour: u64,
) -> Result<Option<Answer<'a>>, BadAnswer> {
    const HEAD: usize = REPRESENTATIVE + AUTH;
    let (Some(representative), Some(head)) =
        (received.first_chunk(), received.first_chunk::<HEAD>())
    else {
        return Ok(None);
    };
    let auth = head.last_chunk().expect("the head ends with the proof");
    let mark = identity.mark(representative);
    let start = (*searched).max(HEAD);
    let found = received[start..].windows(MARK_LEN).position(|window| window == mark);
    let Some(at) = found.map(|at| at + start) else {
        *searched = (received.len() + 1).saturating_sub(MARK_LEN);
        return if received.len() < MAX_HANDSHAKE { Ok(None) } else { Err(BadAnswer::NoMark) };
    };
    *searched = at;
    let until_mac = at + MARK_LEN;
    let Some(mac) = received[until_mac..].first_chunk::<MARK_LEN>() else {
        return if received.len() < MAX_HANDSHAKE { Ok(None) } else { Err(BadAnswer::NoMark) };
    };
    let expected = identity.handshake_mac(&received[..until_mac], hour);
    if !bool::from(expected.ct_eq(mac)) {
        return Err(BadAnswer::Mac);
    }
    Ok(Some(Answer { representative, auth, len: until_mac + MARK_LEN }))
}
