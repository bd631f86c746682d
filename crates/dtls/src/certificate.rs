//! Certificates of a session: made from the seed, checked against the seed (`spec/transports.md` 8.1).

use crate::der::{self, element, expect};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA384_ASN1,
    ECDSA_P256_SHA512_ASN1, EcdsaKeyPair, EcdsaVerificationAlgorithm,
};
use keys::dtls::CertificateSeed;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const OBJECT_IDENTIFIER: u8 = 0x06;

/// ECDSA with SHA-256 in the numbering of TLS, which is all that we sign with.
pub(crate) const SIGNATURE_SCHEME: u16 = 0x0403;

/// A seed whose private key is no scalar of P-256; the key schedule makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the private key of the DTLS certificate is not a scalar of P-256")]
pub struct KeyError;

fn public_key(seed: &CertificateSeed) -> Result<[u8; 65], KeyError> {
    PrivateKey::from_private_key(&ECDH_P256, &seed.private)
        .ok()
        .and_then(|private| private.compute_public_key().ok())
        .and_then(|public| public.as_ref().try_into().ok())
        .ok_or(KeyError)
}

/// The key that signs for one end, with its certificate.
pub struct Identity {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(_)")
    }
}

impl Identity {
    /// Makes the certificate of `seed`, valid from the beginning of the day of `unix_time` (seconds).
    ///
    /// # Errors
    /// When the seed holds no private key of P-256.
    pub fn new(seed: &CertificateSeed, unix_time: u64) -> Result<Self, KeyError> {
        let public = public_key(seed)?;
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let key = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &seed.private, &public)
            .map_err(|_| KeyError)?;
        let mut identity = Self { key, certificate: vec![] };
        let signed = to_be_signed(seed, &public, unix_time / 86_400);
        let signature = identity.sign(&signed);
        element(&mut identity.certificate, der::SEQUENCE, |out| {
            out.extend_from_slice(&signed);
            signature_algorithm(out);
            bit_string(out, &signature);
        });
        Ok(identity)
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Signs `message` with ECDSA and SHA-256.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        // The argument is ignored; the library takes the signature's randomness from itself.
        let signature = self.key.sign(&SystemRandom::new(), message);
        signature.expect("a valid key signs every message").as_ref().to_vec()
    }
}

/// The key that the peer must have.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerKey([u8; 65]);

impl std::fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerKey(_)")
    }
}

impl PeerKey {
    /// The public key of `seed`.
    ///
    /// # Errors
    /// When the seed holds no private key of P-256.
    pub fn new(seed: &CertificateSeed) -> Result<Self, KeyError> {
        public_key(seed).map(Self)
    }

    /// Whether this key signed `certificate` (DER), whatever key and names it is for. This is the whole
    /// check of existing peers.
    pub fn signed(&self, certificate: &[u8]) -> bool {
        Certificate::parse(certificate).is_some_and(|certificate| self.signed_parsed(&certificate))
    }

    /// Whether `certificate` (DER) is signed by this key and is for this key. Genuine peers have no
    /// other, and then a signature under the presented key is one under the expected key.
    pub fn certifies(&self, certificate: &[u8]) -> bool {
        Certificate::parse(certificate)
            .is_some_and(|parsed| parsed.public_key == self.0 && self.signed_parsed(&parsed))
    }

    fn signed_parsed(&self, certificate: &Certificate<'_>) -> bool {
        self.verify(SIGNATURE_SCHEME, certificate.signed, certificate.signature)
    }

    /// Verifies a signature of the handshake made with the TLS signature `scheme`.
    pub fn verify(&self, scheme: u16, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &EcdsaVerificationAlgorithm = match scheme {
            SIGNATURE_SCHEME => &ECDSA_P256_SHA256_ASN1,
            0x0503 => &ECDSA_P256_SHA384_ASN1,
            0x0603 => &ECDSA_P256_SHA512_ASN1,
            _ => return false,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.0).verify(message, signature).is_ok()
    }
}

/// What the rule looks at.
struct Certificate<'a> {
    /// TBSCertificate, with its header.
    signed: &'a [u8],
    /// Uncompressed point.
    public_key: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads a certificate of version 3 with a P-256 key and an ECDSA-SHA256 signature.
    fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let mut certificate = expect(&mut bytes, der::SEQUENCE).filter(|_| bytes.is_empty())?;
        let (tag, mut fields, signed) = der::next(&mut certificate)?;
        if tag != der::SEQUENCE || !is_ecdsa_with_sha256(&mut certificate)? {
            return None;
        }
        let signature = whole_bytes(expect(&mut certificate, der::BIT_STRING)?)?;

        let mut version = expect(&mut fields, der::context(0))?;
        let serial = {
            (expect(&mut version, der::INTEGER)? == [2]).then_some(())?;
            expect(&mut fields, der::INTEGER)?
        };
        // Positive, and no longer than need be.
        let positive = match *serial {
            [] | [0x80..=0xff, ..] | [0] => false,
            [0, second, ..] => second >= 0x80,
            _ => true,
        };
        if !positive || !is_ecdsa_with_sha256(&mut fields)? {
            return None;
        }
        for _issuer_validity_subject in 0..3 {
            expect(&mut fields, der::SEQUENCE)?;
        }
        let mut key = expect(&mut fields, der::SEQUENCE)?;
        let mut algorithm = expect(&mut key, der::SEQUENCE)?;
        let is_p256 = expect(&mut algorithm, OBJECT_IDENTIFIER)? == EC_PUBLIC_KEY
            && expect(&mut algorithm, OBJECT_IDENTIFIER)? == PRIME256V1
            && algorithm.is_empty();
        let public_key = whole_bytes(expect(&mut key, der::BIT_STRING)?)?;
        (is_p256 && key.is_empty() && certificate.is_empty()).then_some(Self {
            signed,
            public_key,
            signature,
        })
    }
}

fn is_ecdsa_with_sha256(input: &mut &[u8]) -> Option<bool> {
    let mut algorithm = expect(input, der::SEQUENCE)?;
    Some(expect(&mut algorithm, OBJECT_IDENTIFIER)? == ECDSA_WITH_SHA256 && algorithm.is_empty())
}

/// The content of a BIT STRING without unused bits.
fn whole_bytes(bits: &[u8]) -> Option<&[u8]> {
    bits.split_first().filter(|&(&unused, _)| unused == 0).map(|(_, bytes)| bytes)
}

fn bit_string(out: &mut Vec<u8>, bytes: &[u8]) {
    element(out, der::BIT_STRING, |out| {
        out.push(0);
        out.extend_from_slice(bytes);
    });
}

fn object(out: &mut Vec<u8>, identifier: &[u8]) {
    element(out, OBJECT_IDENTIFIER, |out| out.extend_from_slice(identifier));
}

fn signature_algorithm(out: &mut Vec<u8>) {
    element(out, der::SEQUENCE, |out| object(out, ECDSA_WITH_SHA256));
}

fn name(out: &mut Vec<u8>, name: &str) {
    element(out, der::SEQUENCE, |out| {
        element(out, der::SET, |out| {
            element(out, der::SEQUENCE, |out| {
                object(out, COMMON_NAME);
                element(out, der::PRINTABLE_STRING, |out| out.extend_from_slice(name.as_bytes()));
            });
        });
    });
}

fn extension(
    out: &mut Vec<u8>,
    identifier: &[u8],
    critical: bool,
    value: impl FnOnce(&mut Vec<u8>),
) {
    element(out, der::SEQUENCE, |out| {
        object(out, identifier);
        if critical {
            element(out, der::BOOLEAN, |out| out.push(0xff));
        }
        element(out, der::OCTET_STRING, value);
    });
}

/// Year, month and day of the proleptic Gregorian calendar, `days` after 1970-01-01.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March, in eras of 400 years of 146,097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

/// Days from 1970-01-01 to the given date, whose day may lie beyond the month.
const fn days((year, month, day): (u64, u64, u64)) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// One calendar month after `start`; the 31st of January becomes an early day of March.
const fn month_later(start: u64) -> u64 {
    let (year, month, day) = civil(start);
    days(if month == 12 { (year + 1, 1, day) } else { (year, month + 1, day) })
}

fn midnight(out: &mut Vec<u8>, day: u64) {
    let (year, month, day) = civil(day);
    let (tag, year) = if year < 2050 {
        (der::UTC_TIME, format!("{:02}", year % 100))
    } else {
        (der::GENERALIZED_TIME, format!("{year:04}"))
    };
    let text = format!("{year}{month:02}{day:02}000000Z");
    element(out, tag, |out| out.extend_from_slice(text.as_bytes()));
}

/// What existing peers put into a certificate, field by field in their order.
fn to_be_signed(seed: &CertificateSeed, public: &[u8; 65], today: u64) -> Vec<u8> {
    let mut out = vec![];
    element(&mut out, der::SEQUENCE, |out| {
        element(out, der::context(0), |out| element(out, der::INTEGER, |out| out.push(2)));
        element(out, der::INTEGER, |out| {
            let zeros = seed.serial.iter().take_while(|&&byte| byte == 0).count();
            let digits = &seed.serial[zeros.min(16)..];
            if digits[0] >= 0x80 {
                out.push(0);
            }
            out.extend_from_slice(digits);
        });
        signature_algorithm(out);
        name(out, &seed.name);
        element(out, der::SEQUENCE, |out| {
            midnight(out, today);
            midnight(out, month_later(today));
        });
        name(out, &seed.name);
        element(out, der::SEQUENCE, |out| {
            element(out, der::SEQUENCE, |out| {
                object(out, EC_PUBLIC_KEY);
                object(out, PRIME256V1);
            });
            bit_string(out, public);
        });
        element(out, der::context(3), |out| {
            element(out, der::SEQUENCE, |out| extensions(out, seed, public));
        });
    });
    out
}

fn extensions(out: &mut Vec<u8>, seed: &CertificateSeed, public: &[u8; 65]) {
    // digitalSignature and keyEncipherment.
    extension(out, KEY_USAGE, true, |out| {
        element(out, der::BIT_STRING, |out| out.extend_from_slice(&[5, 0xa0]));
    });
    extension(out, EXTENDED_KEY_USAGE, false, |out| {
        element(out, der::SEQUENCE, |out| {
            object(out, CLIENT_AUTH);
            object(out, SERVER_AUTH);
        });
    });
    extension(out, BASIC_CONSTRAINTS, true, |out| {
        element(out, der::SEQUENCE, |out| element(out, der::BOOLEAN, |out| out.push(0xff)));
    });
    extension(out, SUBJECT_KEY_ID, false, |out| {
        // A name for the key, nothing that anyone relies upon (RFC 5280 4.2.1.2).
        let id = digest(&SHA1_FOR_LEGACY_USE_ONLY, public);
        element(out, der::OCTET_STRING, |out| out.extend_from_slice(id.as_ref()));
    });
    extension(out, SUBJECT_ALT_NAME, false, |out| {
        element(out, der::SEQUENCE, |out| {
            element(out, 0x82, |out| out.extend_from_slice(seed.name.as_bytes()));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys::SharedSecret;
    use keys::dtls::CertificateSeeds;

    fn seeds(byte: u8) -> CertificateSeeds {
        CertificateSeeds::new(&SharedSecret::new(&[byte; 32]))
    }

    #[test]
    fn a_certificate_is_accepted_under_its_own_key_alone() {
        let seeds = seeds(1);
        let own = Identity::new(&seeds.server, 1_795_600_000).unwrap();
        let (server, client) =
            (PeerKey::new(&seeds.server).unwrap(), PeerKey::new(&seeds.client).unwrap());
        assert!(server.certifies(own.certificate()) && server.signed(own.certificate()));
        assert!(!client.certifies(own.certificate()) && !client.signed(own.certificate()));
        for i in 0..own.certificate().len() {
            let mut bad = own.certificate().to_vec();
            bad[i] ^= 0x40;
            assert!(!server.certifies(&bad), "byte {i}");
            assert!(!server.certifies(&bad[..i]));
        }
        assert!(!server.certifies(&[own.certificate(), &[0]].concat()));
    }

    #[test]
    fn a_key_signed_by_the_expected_key_is_not_the_expected_key() {
        let seeds = seeds(2);
        let issuer = Identity::new(&seeds.server, 0).unwrap();
        let signed = to_be_signed(&seeds.client, &public_key(&seeds.client).unwrap(), 20_000);
        let signature = issuer.sign(&signed);
        let mut certificate = vec![];
        element(&mut certificate, der::SEQUENCE, |out| {
            out.extend_from_slice(&signed);
            signature_algorithm(out);
            bit_string(out, &signature);
        });
        let expected = PeerKey::new(&seeds.server).unwrap();
        assert!(expected.signed(&certificate));
        assert!(!expected.certifies(&certificate));
    }

    #[test]
    fn dates_follow_the_calendar() {
        for (day, date) in [
            (0, (1970, 1, 1)),
            (11_016, (2000, 2, 29)),
            (20_482, (2026, 1, 29)),
            (20_782, (2026, 11, 25)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!((civil(day), days(date)), (date, day));
        }
        assert_eq!(civil(month_later(days((2026, 12, 25)))), (2027, 1, 25));
        assert_eq!(civil(month_later(days((2026, 1, 31)))), (2026, 3, 3));
        assert_eq!(civil(month_later(days((2028, 1, 31)))), (2028, 3, 2));
        for day in 0..200_000 {
            assert_eq!(days(civil(day)), day);
        }
        let mut out = vec![];
        midnight(&mut out, days((2051, 2, 3)));
        assert_eq!(&out[2..], b"20510203000000Z");
    }

    #[test]
    fn short_and_large_serials_are_integers() {
        for serial in [[0; 17], [0x83; 17], {
            let mut s = [0; 17];
            s[16] = 0x80;
            s
        }] {
            let mut seed = seeds(3).client.clone();
            seed.serial = serial;
            let identity = Identity::new(&seed, 0).unwrap();
            // Serial 0 is never drawn in practice, and no parser would take it.
            let valid = serial != [0; 17];
            assert_eq!(PeerKey::new(&seed).unwrap().certifies(identity.certificate()), valid);
        }
    }

    #[test]
    fn a_zero_key_is_an_error() {
        let mut seed = seeds(4).client.clone();
        seed.private = [0; 32];
        assert_eq!(PeerKey::new(&seed), Err(KeyError));
        assert_eq!(Identity::new(&seed, 0).unwrap_err(), KeyError);
    }
}
