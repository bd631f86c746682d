//! DNS messages, as far as this channel needs them (`spec/registrar.md` 9.5 to 9.7, RFC 1035 4,
//! RFC 6891). Reading is lenient: what was understood before an error is kept.

use super::name::Name;

/// Type of a TXT record.
pub const TYPE_TXT: u16 = 16;
const TYPE_OPT: u16 = 41;
/// Type of the record that names an authority.
pub(super) const TYPE_SOA: u16 = 6;
/// Class of the internet.
pub(super) const CLASS_IN: u16 = 1;
/// Set in responses.
pub(super) const QR: u16 = 0x8000;
/// Set in answers of an authority.
pub(super) const AA: u16 = 0x0400;
/// Set in answers that were cut.
pub(super) const TC: u16 = 0x0200;
/// Recursion is asked for.
pub(super) const RD: u16 = 0x0100;
/// Payload size that is offered in every OPT record of ours.
const OFFERED: u16 = 4096;
/// Seconds that an answer may be kept. No name is ever asked for again, so nothing is lost by it.
const TTL: u32 = 60;
/// Questions that are read; further ones of a message are not echoed.
const MAX_QUESTIONS: usize = 16;

/// Response codes in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// The query is malformed or unacceptable.
    FormErr,
    /// There is no such name.
    NxDomain,
    /// The operation is not known.
    NotImp,
    /// The EDNS version is not known; an extended code.
    BadVers,
}

impl Rcode {
    /// The part of the code that stands in the header.
    pub(super) const fn low(self) -> u16 {
        match self {
            Self::FormErr => 1,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::BadVers => 0,
        }
    }
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) kind: u16,
    pub(super) class: u16,
}

/// An OPT record of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opt {
    /// Payload size that the sender can take.
    pub(super) size: u16,
    pub(super) version: u8,
}

/// What could be read of a message.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) questions: Vec<Question>,
    /// First OPT record.
    pub(super) opt: Option<Opt>,
    /// There is another one.
    pub(super) second_opt: bool,
    /// Records of the answer section.
    pub(super) answers: Vec<Record>,
}

/// A record of the answer section.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) kind: u16,
    pub(super) data: Vec<u8>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    fn name(&mut self) -> Option<Name> {
        let (name, end) = Name::read(self.bytes, self.at).ok()?;
        self.at = end;
        Some(name)
    }

    fn question(&mut self) -> Option<Question> {
        Some(Question { name: self.name()?, kind: self.u16()?, class: self.u16()? })
    }

    /// Name, type, class, version of EDNS (second byte of the TTL) and data of a record.
    fn record(&mut self) -> Option<(Name, u16, u16, u8, &'a [u8])> {
        let (name, kind, class) = (self.name()?, self.u16()?, self.u16()?);
        let ttl = self.take(4)?;
        let length = self.u16()?;
        Some((name, kind, class, ttl[1], self.take(usize::from(length))?))
    }
}

impl Message {
    /// Reads what can be read of `bytes`. Records of the answer section are kept for responses only.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut message = Self::default();
        // The error says only that the rest is missing.
        let _ = message.fill(&mut Reader { bytes, at: 0 });
        message
    }

    fn fill(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.id = reader.u16()?;
        self.flags = reader.u16()?;
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        for _ in 0..counts[0] {
            let question = reader.question()?;
            if self.questions.len() == MAX_QUESTIONS {
                return None;
            }
            self.questions.push(question);
        }
        for _ in 0..counts[1] {
            let (name, kind, _, _, data) = reader.record()?;
            if self.flags & QR != 0 && self.answers.len() < 2 {
                self.answers.push(Record { name, kind, data: data.to_vec() });
            }
        }
        for _ in 0..counts[2] {
            reader.record()?;
        }
        for _ in 0..counts[3] {
            let (_, kind, size, version, _) = reader.record()?;
            if kind == TYPE_OPT {
                self.second_opt = self.opt.is_some();
                self.opt.get_or_insert(Opt { size, version });
                if self.second_opt {
                    return None;
                }
            }
        }
        Some(())
    }
}

/// Writes a message; names that came before are pointed to.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Names that pointers may lead to, with all their labels, and where they stand.
    names: Vec<(Vec<u8>, u16)>,
}

impl Writer {
    /// Begins a message with its header and questions.
    pub(super) fn new(id: u16, flags: u16, questions: &[Question]) -> Self {
        let mut writer = Self { bytes: Vec::with_capacity(512), names: Vec::new() };
        writer.u16(id);
        writer.u16(flags);
        // At most MAX_QUESTIONS.
        writer.u16(questions.len() as u16);
        writer.bytes.extend_from_slice(&[0; 6]);
        for question in questions {
            writer.name(&question.name);
            writer.u16(question.kind);
            writer.u16(question.class);
        }
        writer
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn name(&mut self, name: &Name) {
        let mut rest = name.wire();
        while rest.len() > 1 {
            if let Some((_, at)) = self.names.iter().find(|(known, _)| known == rest) {
                self.bytes.extend_from_slice(&(0xc000 | at).to_be_bytes());
                return;
            }
            if self.bytes.len() < 0x4000 {
                self.names.push((rest.to_vec(), self.bytes.len() as u16));
            }
            let (label, tail) = rest.split_at(1 + usize::from(rest[0]));
            self.bytes.extend_from_slice(label);
            rest = tail;
        }
        self.bytes.push(0);
    }

    /// Adds the answer: a TXT record of the name and class of `question`. `rdata` above 65,535 bytes
    /// does not occur.
    pub(super) fn answer(&mut self, question: &Question, rdata: &[u8]) {
        self.name(&question.name);
        self.u16(TYPE_TXT);
        self.u16(question.class);
        self.bytes.extend_from_slice(&TTL.to_be_bytes());
        self.u16(rdata.len() as u16);
        self.bytes.extend_from_slice(rdata);
        self.bytes[7] = 1;
    }

    /// Adds the SOA record of `zone` as an answer or, with `authority`, as the reason of a negative one,
    /// which nobody keeps (RFC 2308: the last number, and the TTL).
    pub(super) fn soa(&mut self, zone: &Name, authority: bool) {
        const SERIAL_AND_TIMES: [u32; 5] = [1, 3600, 600, 86_400, 0];
        self.name(zone);
        self.u16(TYPE_SOA);
        self.u16(CLASS_IN);
        self.bytes.extend_from_slice(&[0; 4]);
        let length_at = self.bytes.len();
        self.u16(0);
        self.name(zone);
        self.bytes.extend_from_slice(b"\x0ahostmaster");
        self.name(zone);
        for number in SERIAL_AND_TIMES {
            self.bytes.extend_from_slice(&number.to_be_bytes());
        }
        // Two names and twenty bytes.
        let length = (self.bytes.len() - length_at - 2) as u16;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.bytes[if authority { 9 } else { 7 }] = 1;
    }

    /// Adds an OPT record whose upper bits of the response code are `extended`.
    pub(super) fn opt(&mut self, extended: u8) {
        self.bytes.push(0);
        self.u16(TYPE_OPT);
        self.u16(OFFERED);
        self.bytes.extend_from_slice(&[extended, 0, 0, 0, 0, 0]);
        self.bytes[11] = 1;
    }

    /// The whole message.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question(text: &str) -> Question {
        Question { name: Name::parse(text).unwrap(), kind: TYPE_TXT, class: CLASS_IN }
    }

    #[test]
    fn names_are_pointed_to_only_in_their_own_letter_case() {
        let writer = Writer::new(7, RD, &[question("a.Example.com"), question("b.example.com")]);
        let bytes = writer.finish();
        let message = Message::read(&bytes);
        assert_eq!(message.questions[0].name.to_string(), "a.Example.com");
        assert_eq!(message.questions[1].name.to_string(), "b.example.com");
        // The second name points to `com` alone.
        assert!(bytes.windows(10).any(|w| w == b"\x07example\xc0\x16"));
    }

    #[test]
    fn a_cut_message_keeps_what_came_before() {
        let mut writer = Writer::new(9, 0, &[question("x.y")]);
        writer.opt(0);
        let whole = writer.finish();
        for length in 0..whole.len() {
            let message = Message::read(&whole[..length]);
            assert_eq!(message.id, if length >= 2 { 9 } else { 0 });
            assert!(message.opt.is_none());
            assert_eq!(message.questions.len(), usize::from(length >= 12 + 5 + 4));
        }
        assert_eq!(Message::read(&whole).opt, Some(Opt { size: OFFERED, version: 0 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let message = Message::read(&bytes);
            prop_assert!(message.questions.len() <= MAX_QUESTIONS);
        }
    }
}
