//! ClientHello, ServerHello and HelloVerifyRequest, in the shape of existing peers
//! (`spec/transports.md` 8.2, appendix A), and a look at a first datagram before anything is computed.

use crate::group::Group;
use crate::message::{self, CLIENT_HELLO};
use crate::record::{HANDSHAKE, VERSION};
use crate::refusal::Refusal;
use crate::schedule::Suite;
use crate::wire::{Reader, numbers, put_u16, vector};

/// What existing clients offer, in their order. The RSA suites cannot come about with certificates of
/// this transport, and a server that chose `c00a` (CBC) is refused; leaving any out would show.
const OFFERED_SUITES: [u16; 6] = [0xc02b, 0xc02f, 0xc00a, 0xc014, 0xc02c, 0xc030];
/// The signature_algorithms of existing peers, on both sides.
pub(crate) const SIGNATURE_SCHEMES: [u16; 7] =
    [0x0403, 0x0503, 0x0603, 0x0401, 0x0501, 0x0601, 0x0807];
/// A client without the extension may put this in the list of suites instead (RFC 5746 3.3).
const RENEGOTIATION_SCSV: u16 = 0x00ff;

const SUPPORTED_GROUPS: u16 = 10;
const EC_POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const EXTENDED_MASTER_SECRET: u16 = 23;
const RENEGOTIATION_INFO: u16 = 0xff01;

/// The random of a ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientRandom([u8; 32]);

impl ClientRandom {
    /// The random of a client with `tag`, at `unix_time` (seconds, low 32 bits).
    pub fn new(unix_time: u32, tag: &[u8; 28]) -> Self {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&unix_time.to_be_bytes());
        bytes[4..].copy_from_slice(tag);
        Self(bytes)
    }

    /// All 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The client's time, seconds, low 32 bits.
    pub fn unix_time(&self) -> u32 {
        u32::from_be_bytes(*self.0.first_chunk().expect("32 bytes"))
    }

    /// The 28 bytes that are derived from the shared secret: what a registration is found by.
    pub fn tag(&self) -> &[u8; 28] {
        self.0.last_chunk().expect("32 bytes")
    }
}

/// What a datagram from an address without a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek {
    /// It begins with the whole of a client's first ClientHello.
    Hello(ClientRandom),
    /// It begins with a fragment of a ClientHello. No existing client sends one: their hello has 126
    /// bytes.
    Fragment,
    /// Anything else: garbage, a zero-length datagram, a record of an earlier connection.
    Other,
}

/// Looks at a datagram from an address without a connection, without any computation.
pub fn peek(datagram: &[u8]) -> Peek {
    let look = || {
        let mut reader = Reader::new(datagram);
        let [content, major, minor] = reader.array()?;
        let epoch = reader.u16()?;
        let _number: [u8; 6] = reader.array()?;
        let versions = major == 0xfe && (minor == 0xfd || minor == 0xff);
        let (header, body) = message::fragment(reader.vec16()?)?;
        let first = content == HANDSHAKE && versions && epoch == 0;
        (first && header.kind == CLIENT_HELLO && header.sequence == 0).then_some(())?;
        if body.len() < header.len {
            return Some(Peek::Fragment);
        }
        let mut reader = Reader::new(body);
        (reader.array() == Some(VERSION)).then_some(())?;
        Some(Peek::Hello(ClientRandom(reader.array()?)))
    };
    look().unwrap_or(Peek::Other)
}

fn extension(out: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    put_u16(out, kind);
    vector::<2>(out, content);
}

fn put_all(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u16>) {
    for number in numbers {
        put_u16(out, number);
    }
}

/// A ClientHello's body as existing clients make it.
pub(crate) fn client_hello(random: &ClientRandom, cookie: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(101 + cookie.len());
    out.extend_from_slice(&VERSION);
    out.extend_from_slice(&random.0);
    vector::<1>(&mut out, |_session_id| {});
    vector::<1>(&mut out, |out| out.extend_from_slice(cookie));
    vector::<2>(&mut out, |out| put_all(out, OFFERED_SUITES));
    vector::<1>(&mut out, |compressions| compressions.push(0));
    vector::<2>(&mut out, |out| {
        extension(out, SIGNATURE_ALGORITHMS, |out| {
            vector::<2>(out, |out| put_all(out, SIGNATURE_SCHEMES));
        });
        extension(out, RENEGOTIATION_INFO, |out| out.push(0));
        extension(out, SUPPORTED_GROUPS, |out| {
            vector::<2>(out, |out| put_all(out, Group::ALL.map(Group::id)));
        });
        extension(out, EC_POINT_FORMATS, |out| vector::<1>(out, |out| out.push(0)));
        extension(out, EXTENDED_MASTER_SECRET, |_| {});
    });
    out
}

/// What a server takes from a ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientHello<'a> {
    pub(crate) random: ClientRandom,
    pub(crate) cookie: &'a [u8],
    /// The first suite in the client's order that is ours.
    pub(crate) suite: Suite,
    /// The first group in the client's order that is ours, which existing clients expect.
    pub(crate) group: Group,
    /// The extensions that ServerHello answers.
    pub(crate) offers: Offers,
}

/// Optional extensions of a ClientHello; a server may answer only what was offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Offers {
    renegotiation_info: bool,
    ec_point_formats: bool,
}

impl<'a> ClientHello<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed;
        let mut reader = Reader::new(body);
        if reader.array().ok_or(malformed)? != VERSION {
            return Err(Refusal::Version);
        }
        let random = ClientRandom(reader.array().ok_or(malformed)?);
        reader.vec8().filter(|session_id| session_id.len() <= 32).ok_or(malformed)?;
        let cookie = reader.vec8().ok_or(malformed)?;
        let suites = numbers(reader.vec16().ok_or(malformed)?).ok_or(malformed)?;
        let mut suite = None;
        let mut offers = Offers::default();
        for id in suites {
            suite = suite.or(Suite::from_id(id));
            offers.renegotiation_info |= id == RENEGOTIATION_SCSV;
        }
        if !reader.vec8().ok_or(malformed)?.contains(&0) {
            return Err(malformed);
        }
        let (mut group, mut extended_master_secret) = (None, false);
        extensions(reader, |kind, content| {
            match kind {
                SUPPORTED_GROUPS => {
                    let mut content = Reader::new(content);
                    group = numbers(content.vec16()?)?.find_map(Group::from_id);
                    content.end()?;
                }
                EC_POINT_FORMATS => {
                    let mut content = Reader::new(content);
                    offers.ec_point_formats = content.vec8()?.contains(&0);
                    content.end()?;
                }
                EXTENDED_MASTER_SECRET => {
                    extended_master_secret = true;
                    Reader::new(content).end()?;
                }
                RENEGOTIATION_INFO => {
                    offers.renegotiation_info = true;
                    (content == [0]).then_some(())?;
                }
                _ => {}
            }
            Some(())
        })
        .ok_or(malformed)?;
        if !extended_master_secret {
            return Err(Refusal::ExtendedMasterSecret);
        }
        Ok(Self {
            random,
            cookie,
            suite: suite.ok_or(Refusal::Suite)?,
            group: group.ok_or(Refusal::Group)?,
            offers,
        })
    }
}

/// Reads the extensions that end a hello; they may be absent altogether.
fn extensions<'a>(
    mut reader: Reader<'a>,
    mut each: impl FnMut(u16, &'a [u8]) -> Option<()>,
) -> Option<()> {
    if reader.is_empty() {
        return Some(());
    }
    let mut list = Reader::new(reader.vec16()?);
    reader.end()?;
    while !list.is_empty() {
        let kind = list.u16()?;
        each(kind, list.vec16()?)?;
    }
    Some(())
}

/// A ServerHello's body as existing servers make it.
pub(crate) fn server_hello(random: &[u8; 32], suite: Suite, offers: Offers) -> Vec<u8> {
    let mut out = Vec::with_capacity(55);
    out.extend_from_slice(&VERSION);
    out.extend_from_slice(random);
    vector::<1>(&mut out, |_session_id| {});
    put_u16(&mut out, suite.id());
    out.push(0);
    vector::<2>(&mut out, |out| {
        if offers.renegotiation_info {
            extension(out, RENEGOTIATION_INFO, |out| out.push(0));
        }
        extension(out, EXTENDED_MASTER_SECRET, |_| {});
        if offers.ec_point_formats {
            extension(out, EC_POINT_FORMATS, |out| vector::<1>(out, |out| out.push(0)));
        }
    });
    out
}

/// Random and suite of a ServerHello's body, which chose from what our ClientHello offers.
///
/// # Errors
/// When it is malformed, or chose what we cannot or will not do.
pub fn parse_server_hello(body: &[u8]) -> Result<([u8; 32], Suite), Refusal> {
    let malformed = Refusal::Malformed;
    let mut reader = Reader::new(body);
    if reader.array().ok_or(malformed)? != VERSION {
        return Err(Refusal::Version);
    }
    let random = reader.array().ok_or(malformed)?;
    reader.vec8().filter(|session_id| session_id.len() <= 32).ok_or(malformed)?;
    let suite = reader.u16().ok_or(malformed)?;
    if reader.u8().ok_or(malformed)? != 0 {
        return Err(malformed);
    }
    let mut extended_master_secret = false;
    extensions(reader, |kind, content| {
        match kind {
            EXTENDED_MASTER_SECRET => {
                extended_master_secret = true;
                Reader::new(content).end()?;
            }
            RENEGOTIATION_INFO => (content == [0]).then_some(())?,
            _ => {}
        }
        Some(())
    })
    .ok_or(malformed)?;
    let suite = Suite::from_id(suite).ok_or(Refusal::Suite)?;
    if !extended_master_secret {
        return Err(Refusal::ExtendedMasterSecret);
    }
    Ok((random, suite))
}

/// A HelloVerifyRequest's body.
pub(crate) fn hello_verify_request(cookie: &[u8]) -> Vec<u8> {
    // RFC 6347 4.2.1: the version of this message is DTLS 1.0 whatever is negotiated later.
    let mut out = vec![0xfe, 0xff];
    vector::<1>(&mut out, |out| out.extend_from_slice(cookie));
    out
}

/// The cookie of a HelloVerifyRequest.
pub(crate) fn parse_hello_verify_request(body: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(body);
    let [0xfe, 0xfd | 0xff] = reader.array()? else { return None };
    let cookie = reader.vec8()?;
    reader.end()?;
    Some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    const TAG: [u8; 28] = [0x5a; 28];

    fn hello() -> Vec<u8> {
        client_hello(&ClientRandom::new(0x6b00_f7b8, &TAG), &[])
    }

    fn datagram(body: &[u8]) -> Vec<u8> {
        let message = message::whole(CLIENT_HELLO, 0, body);
        let header = record::Header { content: HANDSHAKE, epoch: 0, number: 0 };
        [&header.encode(message.len() as u16)[..], &message].concat()
    }

    #[test]
    fn a_server_reads_what_a_client_offers() {
        let hello = hello();
        assert_eq!(hello.len(), 101);
        let parsed = ClientHello::parse(&hello).unwrap();
        assert_eq!((parsed.suite, parsed.group), (Suite::Aes128GcmSha256, Group::X25519));
        assert_eq!(parsed.offers, Offers { renegotiation_info: true, ec_point_formats: true });
        assert_eq!((parsed.random.tag(), parsed.random.unix_time()), (&TAG, 0x6b00_f7b8));
        let answer = server_hello(&[7; 32], Suite::Aes256GcmSha384, parsed.offers);
        assert_eq!(answer.len(), 55);
        assert_eq!(parse_server_hello(&answer), Ok(([7; 32], Suite::Aes256GcmSha384)));
    }

    #[test]
    fn cut_hellos_are_malformed_and_changed_ones_refused() {
        let hello = hello();
        for len in 0..hello.len() {
            // Without any extension the hello is whole, but of no use.
            let expect = if len == 52 { Refusal::ExtendedMasterSecret } else { Refusal::Malformed };
            assert_eq!(ClientHello::parse(&hello[..len]), Err(expect), "{len}");
        }
        let changed = |index: usize, byte: u8| {
            let mut hello = hello.clone();
            hello[index] = byte;
            ClientHello::parse(&hello).map(drop).unwrap_err()
        };
        assert_eq!(changed(1, 0xff), Refusal::Version);
        assert_eq!(changed(51, 1), Refusal::Malformed, "only compression");
        assert_eq!(changed(53, 46), Refusal::Malformed, "extensions too short");
        assert_eq!(changed(53, 48), Refusal::Malformed, "extensions too long");
        assert_eq!(changed(98, 0x18), Refusal::ExtendedMasterSecret);
    }

    #[test]
    fn the_clients_order_chooses_suite_and_group() {
        let mut hello = hello();
        hello[38..50].copy_from_slice(&[0, 0xff, 0x13, 1, 0xc0, 0x2c, 0xc0, 0x2b, 0, 0, 0, 0]);
        let groups = hello.windows(2).rposition(|pair| pair == [0, 29]).unwrap();
        hello[groups..groups + 6].copy_from_slice(&[0x11, 0xec, 0, 24, 0, 29]);
        let parsed = ClientHello::parse(&hello).unwrap();
        assert_eq!((parsed.suite, parsed.group), (Suite::Aes256GcmSha384, Group::P384));
        hello[groups..groups + 6].fill(9);
        assert_eq!(ClientHello::parse(&hello), Err(Refusal::Group));
        hello[38..50].fill(9);
        assert_eq!(ClientHello::parse(&hello), Err(Refusal::Suite));
    }

    #[test]
    fn what_was_not_offered_is_not_answered() {
        let bare = server_hello(&[0; 32], Suite::Aes128GcmSha256, Offers::default());
        assert_eq!(bare.len(), 55 - 5 - 6);
        assert!(parse_server_hello(&bare).is_ok());
        for len in 0..bare.len() {
            assert!(parse_server_hello(&bare[..len]).is_err());
        }
    }

    #[test]
    fn a_look_tells_hellos_fragments_and_the_rest_apart() {
        let whole = datagram(&hello());
        let random = ClientRandom::new(0x6b00_f7b8, &TAG);
        assert_eq!(peek(&whole), Peek::Hello(random));
        assert_eq!(peek(&[&whole[..], b"more"].concat()), Peek::Hello(random));
        for len in 0..whole.len() {
            assert_eq!(peek(&whole[..len]), Peek::Other, "{len}");
        }
        let changed = |index: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[index] = byte;
            peek(&bytes)
        };
        assert_eq!(changed(2, 0xff), Peek::Hello(random), "DTLS 1.0 in the record");
        assert_eq!(changed(10, 9), Peek::Hello(random), "any record number");

        for (index, byte) in [(0, 23), (1, 3), (4, 1), (13, 2), (18, 1), (21, 1), (26, 0xff)] {
            assert_eq!(changed(index, byte), Peek::Other, "{index}");
        }
        let mut first = whole[..whole.len() - 50].to_vec();
        first[12] -= 50;
        first[24] -= 50;
        assert_eq!(peek(&first), Peek::Fragment);
        assert_eq!(peek(b""), Peek::Other);
        assert_eq!(peek(b"Hello world"), Peek::Other);
    }

    #[test]
    fn cookies_round_trip() {
        let body = hello_verify_request(&[3; 20]);
        assert_eq!(parse_hello_verify_request(&body), Some(&[3; 20][..]));
        assert_eq!(parse_hello_verify_request(&body[..9]), None);
        let hello = client_hello(&ClientRandom::new(0, &TAG), &[3; 20]);
        assert_eq!(ClientHello::parse(&hello).unwrap().cookie, [3; 20]);
    }
}
