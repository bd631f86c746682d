//! Handshake messages but the hellos (RFC 5246 7.4, RFC 6347 4.2.2, RFC 8422 5).

use crate::group::Group;
use crate::hello::SIGNATURE_SCHEMES;
use crate::refusal::Refusal;
use crate::wire::{Reader, numbers, put_u16, put_u24, vector};

/// Type of ClientHello.
pub const CLIENT_HELLO: u8 = 1;
/// Type of ServerHello.
pub const SERVER_HELLO: u8 = 2;
/// Type of HelloVerifyRequest.
pub const HELLO_VERIFY_REQUEST: u8 = 3;
/// Type of Certificate.
pub const CERTIFICATE: u8 = 11;
/// Type of ServerKeyExchange.
pub const SERVER_KEY_EXCHANGE: u8 = 12;
/// Type of CertificateRequest.
pub const CERTIFICATE_REQUEST: u8 = 13;
/// Type of ServerHelloDone.
pub const SERVER_HELLO_DONE: u8 = 14;
/// Type of CertificateVerify.
pub const CERTIFICATE_VERIFY: u8 = 15;
/// Type of ClientKeyExchange.
pub const CLIENT_KEY_EXCHANGE: u8 = 16;
/// Type of Finished.
pub const FINISHED: u8 = 20;

const NAMED_CURVE: u8 = 3;
const ECDSA_SIGN: u8 = 64;
const RSA_SIGN: u8 = 1;

/// The header of a fragment of a handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHeader {
    /// Type of the message.
    pub kind: u8,
    /// Length of the whole message's body, bytes.
    pub len: usize,
    /// Number of the message, counted per direction from 0.
    pub sequence: u16,
    /// Where in the body this fragment begins.
    pub offset: usize,
}

impl MessageHeader {
    /// Length of the header itself.
    pub const LEN: usize = 12;

    /// Appends the header of a fragment of `fragment` bytes.
    pub(crate) fn encode(self, fragment: usize, out: &mut Vec<u8>) {
        out.push(self.kind);
        put_u24(out, self.len);
        put_u16(out, self.sequence);
        put_u24(out, self.offset);
        put_u24(out, fragment);
    }
}

/// Takes the first fragment off `reader`; it lies within its message.
pub(crate) fn next_fragment<'a>(reader: &mut Reader<'a>) -> Option<(MessageHeader, &'a [u8])> {
    let kind = reader.u8()?;
    let len = reader.u24()?;
    let sequence = reader.u16()?;
    let offset = reader.u24()?;
    let fragment = reader.vec24()?;
    (offset + fragment.len() <= len)
        .then_some((MessageHeader { kind, len, sequence, offset }, fragment))
}

/// The first fragment in the body of a handshake record.
pub fn fragment(body: &[u8]) -> Option<(MessageHeader, &[u8])> {
    next_fragment(&mut Reader::new(body))
}

/// A whole message, as it enters the transcript (RFC 6347 4.2.6).
pub fn whole(kind: u8, sequence: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MessageHeader::LEN + body.len());
    MessageHeader { kind, len: body.len(), sequence, offset: 0 }.encode(body.len(), &mut out);
    out.extend_from_slice(body);
    out
}

/// A Certificate's body with the one certificate `der`.
pub(crate) fn certificate(der: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    vector::<3>(&mut out, |out| vector::<3>(out, |out| out.extend_from_slice(der)));
    out
}

/// The certificate (DER) in the body of a Certificate that has exactly one.
///
/// # Errors
/// When it is malformed, or has more than one.
pub fn parse_certificate(body: &[u8]) -> Result<&[u8], Refusal> {
    let parse = || {
        let mut reader = Reader::new(body);
        let mut list = Reader::new(reader.vec24()?);
        reader.end()?;
        let certificates = (list.vec24()?, list.is_empty());
        Some(certificates)
    };
    match parse() {
        Some((certificate, true)) => Ok(certificate),
        Some((_, false)) => Err(Refusal::Certificate),
        None => Err(Refusal::Malformed),
    }
}

/// The parameters of a ServerKeyExchange: what is signed, beside the randoms.
fn parameters(group: Group, public: &[u8]) -> Vec<u8> {
    let mut out = vec![NAMED_CURVE];
    put_u16(&mut out, group.id());
    vector::<1>(&mut out, |out| out.extend_from_slice(public));
    out
}

/// What the server's signature covers.
fn signed_parameters(randoms: [&[u8; 32]; 2], parameters: &[u8]) -> Vec<u8> {
    [&randoms[0][..], &randoms[1][..], parameters].concat()
}

/// A ServerKeyExchange's body for the `public` key of `group`. `randoms` are the client's and the
/// server's; `sign` makes a signature with ECDSA and SHA-256.
pub(crate) fn server_key_exchange(
    group: Group,
    public: &[u8],
    randoms: [&[u8; 32]; 2],
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let mut out = parameters(group, public);
    let signature = sign(&signed_parameters(randoms, &out));
    put_signature(&mut out, &signature);
    out
}

fn put_signature(out: &mut Vec<u8>, signature: &[u8]) {
    put_u16(out, crate::certificate::SIGNATURE_SCHEME);
    vector::<2>(out, |out| out.extend_from_slice(signature));
}

/// A signature with its scheme, as it stands in two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// TLS signature scheme.
    pub scheme: u16,
    /// DER, for ECDSA.
    pub bytes: &'a [u8],
}

impl<'a> Signature<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        Some(Self { scheme: reader.u16()?, bytes: reader.vec16()? })
    }

    /// The content of a CertificateVerify's body.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let parse = || {
            let mut reader = Reader::new(body);
            let signature = Self::read(&mut reader)?;
            reader.end().map(|()| signature)
        };
        parse().ok_or(Refusal::Malformed)
    }
}

/// A ServerKeyExchange.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerKeyExchange<'a> {
    /// Number of the key exchange group.
    pub group: u16,
    /// The server's public key in that group.
    pub public: &'a [u8],
    /// The part that is signed.
    parameters: &'a [u8],
    /// Over the randoms and the parameters.
    pub signature: Signature<'a>,
}

impl<'a> ServerKeyExchange<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is malformed, or its curve has no name.
    pub fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let parse = || {
            let mut reader = Reader::new(body);
            (reader.u8()? == NAMED_CURVE).then_some(())?;
            let group = reader.u16()?;
            let public = reader.vec8()?;
            let parameters = &body[..body.len() - reader.rest().len()];
            let signature = Signature::read(&mut reader)?;
            reader.end()?;
            Some(Self { group, public, parameters, signature })
        };
        parse().ok_or(Refusal::Malformed)
    }

    /// What the signature covers, for the randoms of client and server.
    pub fn signed(&self, client_random: &[u8; 32], server_random: &[u8; 32]) -> Vec<u8> {
        signed_parameters([client_random, server_random], self.parameters)
    }
}

/// A CertificateRequest's body as existing servers make it.
pub(crate) fn certificate_request() -> Vec<u8> {
    let mut out = vec![];
    vector::<1>(&mut out, |types| types.extend_from_slice(&[RSA_SIGN, ECDSA_SIGN]));
    vector::<2>(&mut out, |out| {
        for scheme in SIGNATURE_SCHEMES {
            put_u16(out, scheme);
        }
    });
    vector::<2>(&mut out, |_authorities| {});
    out
}

/// Checks that a CertificateRequest takes what we present: an ECDSA certificate and SHA-256.
pub(crate) fn check_certificate_request(body: &[u8]) -> Result<(), Refusal> {
    let parse = || {
        let mut reader = Reader::new(body);
        let types = reader.vec8()?;
        let mut schemes = numbers(reader.vec16()?)?;
        reader.vec16()?;
        reader.end()?;
        let ours = crate::certificate::SIGNATURE_SCHEME;
        Some(types.contains(&ECDSA_SIGN) && schemes.any(|scheme| scheme == ours))
    };
    match parse() {
        Some(true) => Ok(()),
        Some(false) => Err(Refusal::Signature),
        None => Err(Refusal::Malformed),
    }
}

/// A ClientKeyExchange's body.
pub(crate) fn client_key_exchange(public: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    vector::<1>(&mut out, |out| out.extend_from_slice(public));
    out
}

/// The client's public key in a ClientKeyExchange.
pub(crate) fn parse_client_key_exchange(body: &[u8]) -> Result<&[u8], Refusal> {
    let mut reader = Reader::new(body);
    let public = reader.vec8().ok_or(Refusal::Malformed)?;
    reader.end().map(|()| public).ok_or(Refusal::Malformed)
}

/// A CertificateVerify's body.
pub(crate) fn certificate_verify(signature: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    put_signature(&mut out, signature);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_lie_within_their_message() {
        let message = whole(FINISHED, 3, &[5; 12]);
        let header = MessageHeader { kind: FINISHED, len: 12, sequence: 3, offset: 0 };
        assert_eq!(fragment(&message), Some((header, &[5; 12][..])));
        for len in 0..message.len() {
            assert_eq!(fragment(&message[..len]), None);
        }
        let mut beyond = message.clone();
        beyond[8] = 1;
        assert_eq!(fragment(&beyond), None);
    }

    #[test]
    fn exactly_one_certificate_is_taken() {
        let body = certificate(b"der");
        assert_eq!(parse_certificate(&body), Ok(&b"der"[..]));
        assert_eq!(parse_certificate(&[0, 0, 0]), Err(Refusal::Malformed));
        let two = [0, 0, 8, 0, 0, 1, 7, 0, 0, 1, 7];
        assert_eq!(parse_certificate(&two), Err(Refusal::Certificate));
        for len in 0..body.len() {
            assert_eq!(parse_certificate(&body[..len]), Err(Refusal::Malformed));
        }
    }

    #[test]
    fn key_exchanges_round_trip() {
        let randoms = [&[1; 32], &[2; 32]];
        let body = server_key_exchange(Group::P256, &[4; 65], randoms, <[u8]>::to_vec);
        let parsed = ServerKeyExchange::parse(&body).unwrap();
        assert_eq!((parsed.group, parsed.public), (23, &[4; 65][..]));
        assert_eq!(parsed.signature.bytes, parsed.signed(&[1; 32], &[2; 32]));
        for len in 0..body.len() {
            assert_eq!(ServerKeyExchange::parse(&body[..len]), Err(Refusal::Malformed));
        }
        let body = client_key_exchange(&[9; 32]);
        assert_eq!(parse_client_key_exchange(&body), Ok(&[9; 32][..]));
        assert!(parse_client_key_exchange(&body[..32]).is_err());
        let body = certificate_verify(&[7; 70]);
        assert_eq!(Signature::parse(&body), Ok(Signature { scheme: 0x0403, bytes: &[7; 70] }));
        assert!(Signature::parse(&body[..73]).is_err());
    }

    #[test]
    fn a_request_must_take_what_we_have() {
        let body = certificate_request();
        assert_eq!(body.len(), 21);
        assert_eq!(check_certificate_request(&body), Ok(()));
        let mut rsa = body.clone();
        rsa[2] = 1;
        assert_eq!(check_certificate_request(&rsa), Err(Refusal::Signature));
        for len in 0..body.len() {
            assert_eq!(check_certificate_request(&body[..len]), Err(Refusal::Malformed));
        }
    }
}
