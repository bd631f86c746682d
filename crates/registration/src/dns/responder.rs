//! What a responder makes of a query (`spec/registrar.md` 9.6 to 9.10).

use std::time::Duration;

use signalling::{DnsPartReq, DnsPartResp, Message as _, raw};

use super::message::{AA, Message, Opt, QR, Question, Rcode, TC, TYPE_SOA, TYPE_TXT, Writer};
use super::name::{Name, NameError};
use super::noise::{ReplyKey, StaticKey};
use super::parts::{Id, Part, Parts, Progress};
use super::{MAX_UDP, base32, frame};

/// Longest frame of a reply that fits a UDP datagram with the longest name, in bytes.
pub const SEALED_LIMIT: usize = 921;
/// Length of the id of a fragmented registration.
const ID: usize = 8;

/// What a query came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// UDP: 1,232 bytes must be allowed by the query and are the limit of its reply.
    Udp,
    /// TCP: no such limit.
    Tcp,
}

/// Answers queries below one zone with one key.
#[derive(Debug)]
pub struct Responder {
    zone: Name,
    key: StaticKey,
    unfragmented: bool,
    nodata: bool,
}

/// Why a query gets no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// It is a response.
    Response,
    /// Its reply would be longer than itself without being an answer.
    Amplification,
    /// The name holds no frame.
    Frame,
    /// The message is not sealed for this key.
    Sealed,
    /// The message is neither a part nor a registration.
    Message,
}

/// What was read.
#[derive(Debug)]
pub enum Read {
    /// No reply.
    Nothing(Unanswered),
    /// An error, or `None` for a name without a record of the wanted type.
    Error(Option<Rcode>, Vec<u8>),
    /// Something for the registrar.
    Inquiry(Inquiry),
}

/// A query that holds a part of a registration, or a whole one.
#[derive(Debug)]
pub struct Inquiry {
    /// What it holds.
    pub payload: Payload,
    id: u16,
    question: Question,
    opt: bool,
    over: Over,
    key: ReplyKey,
}

/// What an [`Inquiry`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    part: Part,
    /// It is a registration of an older client, which knows no parts.
    unfragmented: bool,
}

impl Responder {
    /// A responder for `zone`. `unfragmented` also admits clients of conjure up to v0.7.11.
    ///
    /// # Errors
    /// [`NameError`] when `zone` is no name, or the root.
    pub fn new(zone: &str, private: &[u8; 32], unfragmented: bool) -> Result<Self, NameError> {
        let zone = Name::parse(zone)?;
        if zone.labels().next().is_none() {
            return Err(NameError::EmptyLabel);
        }
        Ok(Self { zone, key: StaticKey::new(private), unfragmented, nodata: false })
    }

    /// Says of names in the zone that they exist without a record of the wanted type, and who is the
    /// authority. The reference says that they do not exist, after which a resolver that minimises
    /// names and believes RFC 8020 asks no further.
    #[must_use]
    pub const fn with_nodata(mut self, on: bool) -> Self {
        self.nodata = on;
        self
    }

    /// The zone.
    pub const fn zone(&self) -> &Name {
        &self.zone
    }

    /// Reads one datagram, or one message of a TCP connection.
    pub fn read(&self, query: &[u8], over: Over) -> Read {
        let message = Message::read(query);
        if message.flags & QR != 0 {
            return Read::Nothing(Unanswered::Response);
        }
        let error = |rcode, flags| {
            let reply = error_reply(&message, rcode, flags);
            // Questions whose pointers unfold could make more of less.
            if message.questions.len() > 1 && reply.len() > query.len() {
                return Read::Nothing(Unanswered::Amplification);
            }
            Read::Error(Some(rcode), reply)
        };
        if message.second_opt {
            return error(Rcode::FormErr, 0);
        }
        if message.opt.is_some_and(|opt| opt.version != 0) {
            return error(Rcode::BadVers, 0);
        }
        let [question] = &message.questions[..] else { return error(Rcode::FormErr, 0) };
        let Some(labels) = question.name.strip_zone(&self.zone) else {
            return error(Rcode::NxDomain, 0);
        };
        if message.flags >> 11 & 15 != 0 {
            return error(Rcode::NotImp, AA);
        }
        let apex = labels.labels().next().is_none();
        if self.nodata && (question.kind != TYPE_TXT || apex) {
            return Read::Error(None, self.no_data(&message, question, apex));
        }
        if question.kind != TYPE_TXT {
            return error(Rcode::NxDomain, AA);
        }
        let Some(framed) = base32::decode(labels.labels().flatten().copied()) else {
            return error(Rcode::NxDomain, AA);
        };
        let size = message.opt.map_or(512, |Opt { size, .. }| usize::from(size));
        if over == Over::Udp && size < MAX_UDP {
            return error(Rcode::FormErr, AA);
        }
        let Some(sealed) = frame::read_request(&framed) else {
            return Read::Nothing(Unanswered::Frame);
        };
        let Some(opened) = self.key.open(sealed) else {
            return Read::Nothing(Unanswered::Sealed);
        };
        let Some(payload) = self.payload(&opened.payload, opened.copy) else {
            return Read::Nothing(Unanswered::Message);
        };
        Read::Inquiry(Inquiry {
            payload,
            id: message.id,
            question: question.clone(),
            opt: message.opt.is_some(),
            over,
            key: opened.reply,
        })
    }

    /// The answer for a name that has nothing of the wanted type, but for the authority itself.
    fn no_data(&self, message: &Message, question: &Question, apex: bool) -> Vec<u8> {
        let mut writer = Writer::new(message.id, QR | AA, std::slice::from_ref(question));
        writer.soa(&self.zone, !(apex && question.kind == TYPE_SOA));
        if message.opt.is_some() {
            writer.opt(0);
        }
        writer.finish()
    }

    /// Tells parts from registrations: field 1 of the former has 8 bytes and field 3 is a number; field
    /// 1 of the latter is longer and field 3 is a message.
    fn payload(&self, bytes: &[u8], copy: Id) -> Option<Payload> {
        let mut first = None;
        let mut total_is_number = false;
        for field in raw::fields(bytes) {
            match field.ok()? {
                raw::Field { number: 1, value: raw::Value::Bytes(content), .. } => {
                    first = Some(content.len());
                }
                raw::Field { number: 3, value: raw::Value::Varint(_), .. } => {
                    total_is_number = true;
                }
                _ => {}
            }
        }
        if first? > ID && !total_is_number {
            let data = Some(bytes.to_vec());
            let part = Part { id: copy, number: 0, total: 1, data };
            return self.unfragmented.then_some(Payload { part, unfragmented: true });
        }
        let part = DnsPartReq::decode(bytes).ok()?;
        let short: [u8; ID] = part.id.as_deref()?.try_into().ok()?;
        let mut id = [0; 32];
        id[..ID].copy_from_slice(&short);
        let (number, total) = (part.part_num.unwrap_or(0), part.total_parts?);
        Some(Payload { part: Part { id, number, total, data: part.data }, unfragmented: false })
    }
}

impl Payload {
    /// What tells registrations apart: the same for all parts of one, and for every copy of them.
    pub const fn id(&self) -> &[u8; 32] {
        &self.part.id
    }

    /// True for a client that knows no parts.
    pub const fn is_unfragmented(&self) -> bool {
        self.unfragmented
    }

    /// Offers the payload to the table at the time `now`. `register` gets the `C2SWrapper` when it
    /// is whole, once, and returns the `DnsResponse`, or `None` for no reply. Returns the plaintext
    /// of the reply.
    pub fn offer(
        &self,
        parts: &mut Parts,
        now: Duration,
        register: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let (waiting, data) = match parts.take(now, &self.part, register) {
            Progress::Silent => return None,
            Progress::Done(response) if self.unfragmented => return Some(response),
            Progress::Done(response) => (false, Some(response)),
            Progress::Waiting => (true, None),
        };
        Some(DnsPartResp { waiting: Some(waiting), data }.encode_to_vec())
    }
}

impl Inquiry {
    /// The message that carries `plaintext`; `None` when it cannot be sealed. One that is too long
    /// for UDP is cut to nothing and says so, which makes resolvers ask over TCP.
    pub fn answer(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let framed = frame::reply(&self.key.seal(plaintext)?)?;
        let whole = self.write(QR | AA, &frame::txt(&framed));
        if self.over == Over::Udp && whole.len() > MAX_UDP {
            return Some(self.write(QR | AA | TC, &[0]));
        }
        (whole.len() <= usize::from(u16::MAX)).then_some(whole)
    }

    fn write(&self, flags: u16, rdata: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(self.id, flags, std::slice::from_ref(&self.question));
        writer.answer(&self.question, rdata);
        if self.opt {
            writer.opt(0);
        }
        writer.finish()
    }
}

fn error_reply(message: &Message, rcode: Rcode, flags: u16) -> Vec<u8> {
    let mut writer = Writer::new(message.id, QR | flags | rcode.low(), &message.questions);
    let extended = u8::from(rcode == Rcode::BadVers);
    if let (Rcode::BadVers, [question]) = (rcode, &message.questions[..]) {
        writer.answer(question, &[0]);
    }
    if message.opt.is_some() {
        writer.opt(extended);
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::super::query::Asked;
    use super::super::{PartsLimits, read_reply};
    use super::*;
    use proptest::prelude::*;

    const PRIVATE: [u8; 32] = [9; 32];

    fn responder() -> Responder {
        Responder::new("r.example.com.", &PRIVATE, true).unwrap()
    }

    fn ask(plaintext: &[u8]) -> Asked {
        let zone = Name::parse("r.example.com").unwrap();
        let public = keys::public_key(&PRIVATE);
        Asked::seal(&zone, &public, &[3; 32], 77, plaintext).unwrap()
    }

    #[test]
    fn a_zone_must_be_a_name() {
        assert!(Responder::new("", &PRIVATE, true).is_err());
        assert!(Responder::new(".", &PRIVATE, true).is_err());
        assert!(Responder::new("a..b", &PRIVATE, true).is_err());
    }

    /// 15.1: what kills the reference is not answered, and everything after it is.
    #[test]
    fn a_part_without_total_is_not_answered() {
        let mut table = Parts::new(PartsLimits::default());
        let bare = DnsPartReq { id: Some(vec![1; 8]), data: Some(vec![1]), ..Default::default() };
        let total = |total| DnsPartReq { total_parts: Some(total), ..bare.clone() };
        for part in [bare.clone(), total(0)] {
            match responder().read(&ask(&part.encode_to_vec()).query, Over::Udp) {
                Read::Nothing(Unanswered::Message) => {}
                Read::Inquiry(inquiry) => {
                    let plain = inquiry.payload.offer(&mut table, Duration::ZERO, |_| None);
                    assert_eq!(plain, None);
                }
                other => panic!("{other:?}"),
            }
        }
        let Read::Inquiry(inquiry) =
            responder().read(&ask(&total(1).encode_to_vec()).query, Over::Udp)
        else {
            panic!("no inquiry")
        };
        let plain = inquiry.payload.offer(&mut table, Duration::ZERO, |w| Some(w.to_vec()));
        assert_eq!(plain.unwrap(), [8, 0, 18, 1, 1]);
    }

    #[test]
    fn a_reply_too_long_for_udp_is_cut_and_whole_over_tcp() {
        let part = DnsPartReq {
            id: Some(vec![1; 8]),
            part_num: Some(0),
            total_parts: Some(1),
            data: Some(vec![1]),
        };
        let asked = ask(&part.encode_to_vec());
        let zone = Name::parse("r.example.com").unwrap();
        for (over, length) in [(Over::Udp, 800), (Over::Udp, 2000), (Over::Tcp, 2000)] {
            let Read::Inquiry(inquiry) = responder().read(&asked.query, over) else {
                panic!("no inquiry")
            };
            let reply = inquiry.answer(&vec![5; length]).unwrap();
            let cut = over == Over::Udp && length > SEALED_LIMIT;
            assert_eq!(reply[2] & 2 != 0, cut);
            let text = read_reply(&reply, &zone);
            let plain = text.and_then(|text| asked.open(&text));
            assert_eq!(plain, (!cut).then(|| vec![5; length]));
        }
    }

    #[test]
    fn old_clients_can_be_kept_out() {
        let wrapper = [&[10, 32][..], &[7; 32]].concat();
        let asked = ask(&wrapper);
        let Read::Inquiry(inquiry) = responder().read(&asked.query, Over::Udp) else {
            panic!("no inquiry")
        };
        assert!(inquiry.payload.is_unfragmented());
        let strict = Responder::new("r.example.com", &PRIVATE, false).unwrap();
        assert!(matches!(strict.read(&asked.query, Over::Udp), Read::Nothing(Unanswered::Message)));
    }

    #[test]
    fn names_exist_without_records_where_that_is_wanted() {
        let responder = responder().with_nodata(true);
        let ask = |name: &str, kind| {
            let name = Name::parse(name).unwrap();
            let question = Question { name, kind, class: 1 };
            match responder.read(&Writer::new(7, 0, &[question]).finish(), Over::Udp) {
                Read::Error(None, reply) => reply,
                other => panic!("{other:?}"),
            }
        };
        // NOERROR of an authority; one question; the SOA as authority, or as the answer.
        for (name, kind, counts) in [
            ("ab.r.example.com", 1, [0, 1, 0, 0, 0, 1, 0, 0]),
            ("r.example.com", 2, [0, 1, 0, 0, 0, 1, 0, 0]),
            ("R.example.com", TYPE_TXT, [0, 1, 0, 0, 0, 1, 0, 0]),
            ("r.example.com", TYPE_SOA, [0, 1, 0, 1, 0, 0, 0, 0]),
        ] {
            let reply = ask(name, kind);
            assert_eq!((&reply[2..4], &reply[4..12]), (&[0x84, 0][..], &counts[..]), "{name}");
            assert!(reply.windows(11).any(|w| w == b"\x0ahostmaster"));
            assert_eq!(Message::read(&reply).questions[0].kind, kind);
        }
    }

    /// P30: the question comes back bit for bit, and the registration completes.
    #[test]
    fn random_letter_case_is_read_and_echoed() {
        let wrapper = [&[10, 32][..], &[7; 32]].concat();
        let asked = ask(&wrapper);
        let mut query = asked.query.clone();
        for (at, byte) in query[12..].iter_mut().enumerate() {
            if byte.is_ascii_lowercase() && at % 3 != 0 {
                byte.make_ascii_uppercase();
            }
        }
        let Read::Inquiry(inquiry) = responder().read(&query, Over::Udp) else {
            panic!("no inquiry")
        };
        let reply = inquiry.answer(b"yes").unwrap();
        let end = 12 + inquiry.question.name.wire().len() + 4;
        assert_eq!(reply[12..end], query[12..end]);
        let zone = Name::parse("R.example.COM").unwrap();
        assert_eq!(asked.open(&read_reply(&reply, &zone).unwrap()).unwrap(), b"yes");
    }

    proptest! {
        #[test]
        fn mutated_queries_are_survived_and_errors_do_not_amplify(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            tcp in any::<bool>(),
        ) {
            let mut query = ask(&[&[10, 32][..], &[7; 32]].concat()).query;
            for (at, value) in flips {
                let at = at.index(query.len());
                query[at] = value;
            }
            query.truncate(1 + cut.index(query.len()));
            let over = if tcp { Over::Tcp } else { Over::Udp };
            match responder().read(&query, over) {
                Read::Error(Some(Rcode::BadVers), reply) => {
                    prop_assert!(reply.len() <= query.len() + 13);
                }
                Read::Error(_, reply) => prop_assert!(reply.len() <= query.len().max(12)),
                _ => {}
            }
        }
    }
}
