//! What a client asks and how it reads replies (`spec/registrar.md` 9.4, 9.5 and 11.6).

use signalling::{DnsPartReq, DnsPartResp, DnsResponse, Message as _};

use super::message::{CLASS_IN, Message, QR, Question, RD, TYPE_TXT, Writer};
use super::name::{MAX_NAME, Name};
use super::noise::{self, ReplyKey};
use super::{MAX_PARTS, base32, frame};

/// Bytes of a part when the ClientConf names no other number.
pub const DEFAULT_MTU: usize = 75;
/// Length of a label of encoded data.
const LABEL: usize = 63;
/// What a part adds to its data: keys, lengths, id and numbers.
const PART: usize = 16;
/// What becomes of `n` bytes of a part in a frame: with the length byte, key and tag.
const FRAME: usize = PART + noise::OVERHEAD + 1;

/// Why a registration cannot be sent over DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No byte fits a name below the zone.
    #[error("names below {0} bytes of zone have no room for data; use a shorter zone")]
    Zone(usize),
    /// More than ten parts.
    #[error(
        "the registration needs {needed} parts of {mtu} bytes, a responder takes {MAX_PARTS}: shorten \
         the covert"
    )]
    TooLong {
        /// Parts that would be needed.
        needed: usize,
        /// Bytes of one part.
        mtu: usize,
    },
}

/// A registration cut into parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitRegistration {
    /// Serialized `DnsPartReq`s, in order.
    pub parts: Vec<Vec<u8>>,
}

/// Most bytes of a part whose name still fits below `zone`, at most 127.
pub fn capacity(zone: &Name) -> usize {
    (1..128usize)
        .rev()
        .find(|part| {
            let characters = ((FRAME + part) * 8).div_ceil(5);
            characters + characters.div_ceil(LABEL) + zone.wire().len() <= MAX_NAME
        })
        .unwrap_or(0)
}

/// Cuts `wrapper` into parts of `mtu` bytes (0 for the default), or of as many as fit below `zone`.
/// `id` is random and new for every attempt.
///
/// # Errors
/// [`PlanError`] when the parts would be too many or have no room.
pub fn split(
    wrapper: &[u8],
    mtu: usize,
    zone: &Name,
    id: &[u8; 8],
) -> Result<SplitRegistration, PlanError> {
    let room = capacity(zone);
    if room == 0 {
        return Err(PlanError::Zone(zone.wire().len()));
    }
    let mtu = if mtu == 0 { DEFAULT_MTU } else { mtu }.min(room);
    let needed = wrapper.len().div_ceil(mtu);
    if needed > MAX_PARTS as usize {
        return Err(PlanError::TooLong { needed, mtu });
    }
    let part = |(number, data): (usize, &[u8])| {
        DnsPartReq {
            id: Some(id.to_vec()),
            part_num: Some(number as u32),
            total_parts: Some(needed as u32),
            data: Some(data.to_vec()),
        }
        .encode_to_vec()
    };
    Ok(SplitRegistration { parts: wrapper.chunks(mtu).enumerate().map(part).collect() })
}

/// One query, and what opens its reply.
#[derive(Debug)]
pub struct Asked {
    /// The message to send.
    pub query: Vec<u8>,
    key: ReplyKey,
}

/// What a reply to a part says.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Other parts are missing.
    Waiting,
    /// The registration was processed.
    Done(DnsResponse),
}

impl Asked {
    /// Seals `plaintext` for the responder of `zone` with the public key `to`. `ephemeral` is a
    /// private key that is used once, `id` the random id of the query. `None` when `to` is of low
    /// order or the name would be too long.
    pub fn seal(
        zone: &Name,
        to: &[u8; 32],
        ephemeral: &[u8; 32],
        id: u16,
        plaintext: &[u8],
    ) -> Option<Self> {
        let (message, key) = noise::seal(to, ephemeral, plaintext)?;
        let text = base32::encode(&frame::request(&message)?);
        let name = Name::from_labels(text.chunks(LABEL).chain(zone.labels())).ok()?;
        let question = Question { name, kind: TYPE_TXT, class: CLASS_IN };
        let mut writer = Writer::new(id, RD, &[question]);
        writer.opt(0);
        Some(Self { query: writer.finish(), key })
    }

    /// Opens the text of a reply.
    pub fn open(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.key.open(frame::read_reply(text)?)
    }

    /// Opens the text of a reply to a part; `None` when it is none.
    pub fn answer(&self, text: &[u8]) -> Option<Answer> {
        let reply = DnsPartResp::decode(&self.open(text)?[..]).ok()?;
        if reply.waiting? {
            return Some(Answer::Waiting);
        }
        DnsResponse::decode(&reply.data?[..]).ok().map(Answer::Done)
    }
}

/// The text of the one TXT answer of a response for a name in `zone`; `None` for anything else. Id,
/// question, class and TTL are not looked at: what matters is whether the text can be opened.
pub fn read_reply(response: &[u8], zone: &Name) -> Option<Vec<u8>> {
    let message = Message::read(response);
    let [answer] = &message.answers[..] else { return None };
    let usable = message.flags & QR != 0 && message.flags & 15 == 0 && answer.kind == TYPE_TXT;
    if !usable || answer.name.strip_zone(zone).is_none() {
        return None;
    }
    frame::read_txt(&answer.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_capacity_is_what_the_specification_says() {
        let of = |zone: &str| capacity(&Name::parse(zone).unwrap());
        assert_eq!(of("r.refraction.network"), 78);
        assert!(of("abcdefgh.example") >= 80, "a zone of 18 bytes");
        let long = [&"a".repeat(63)[..]; 3].join(".");
        assert_eq!(of(&long), 0);
        assert!(split(&[1], 0, &Name::parse(&long).unwrap(), &[0; 8]).is_err());
    }

    #[test]
    fn ten_parts_are_the_most() {
        let zone = Name::parse("r.example.com").unwrap();
        assert_eq!(split(&[0; 750], 0, &zone, &[0; 8]).unwrap().parts.len(), 10);
        let error = split(&[0; 751], 0, &zone, &[0; 8]).unwrap_err();
        assert_eq!(error, PlanError::TooLong { needed: 11, mtu: 75 });
        assert_eq!(split(&[0; 100], 9000, &zone, &[0; 8]).unwrap().parts.len(), 2);
    }

    proptest! {
        #[test]
        fn every_part_of_full_capacity_fits_a_name(length in 1usize..150, seed in any::<[u8; 32]>()) {
            let text = ["a"; 20].join("b").chars().take(length.min(60)).collect::<String>();
            let zone = Name::parse(&format!("{text}.example.com")).unwrap();
            let room = capacity(&zone);
            let split = split(&vec![0xff; room * 2], 127, &zone, &[0xff; 8]).unwrap();
            let to = keys::public_key(&[4; 32]);
            for part in split.parts {
                prop_assert!(Asked::seal(&zone, &to, &seed, 1, &part).is_some());
            }
        }

        #[test]
        fn any_response_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let zone = Name::parse("r.example.com").unwrap();
            read_reply(&bytes, &zone);
        }
    }
}
