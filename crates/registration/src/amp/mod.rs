//! The AMP channel (`spec/registrar.md` 8): requests are paths, so that a cache fetches them; replies
//! are documents that a cache passes on.

pub mod armor;
mod cache;
mod html;
mod punycode;

pub use cache::{CacheUrlError, cache_url, domain_prefix, domain_prefix_fallback};

use data_encoding::{BASE64URL_NOPAD, Encoding, Specification};

use crate::channel::Channel;
use crate::http::Refusal;

/// Path of unidirectional registrations, without what follows the slash.
pub const REGISTER: &str = "/amp/register/";
/// Path of bidirectional registrations, without what follows the slash.
pub const REGISTER_BIDIRECTIONAL: &str = "/amp/register-bidirectional/";
/// Type of a bidirectional reply.
pub const REPLY_TYPE: &str = "text/html";
/// `Cache-Control` of a bidirectional reply: a cache may keep it this long, and no longer.
pub const CACHE_CONTROL: &str = "max-age=15";
/// Version of the path format.
const VERSION: char = '0';
/// Random bytes in a path, which keep a cache from answering itself.
pub const BREAKER: usize = 9;
/// Shortest message: a secret of 32 bytes and one more.
const MIN_LENGTH: usize = 33;

/// Why a path holds no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is empty.
    #[error("missing format indicator")]
    Empty,
    /// It begins with another format.
    #[error("unknown format indicator {0:?}")]
    Version(char),
    /// It has no slash.
    #[error("missing data")]
    NoData,
    /// What follows the last slash is no base64url.
    #[error("illegal base64 data")]
    Base64,
}

/// The part of a path that carries `message`; `breaker` is random.
pub fn encode_path(message: &[u8], breaker: &[u8; BREAKER]) -> String {
    format!("{VERSION}{}/{}", BASE64URL_NOPAD.encode(breaker), BASE64URL_NOPAD.encode(message))
}

/// The message in a part of a path, which is percent-decoded.
///
/// # Errors
/// [`PathError`].
pub fn decode_path(path: &str) -> Result<Vec<u8>, PathError> {
    let version = path.chars().next().ok_or(PathError::Empty)?;
    if version != VERSION {
        return Err(PathError::Version(version));
    }
    let (_, data) = path[1..].rsplit_once('/').ok_or(PathError::NoData)?;
    lenient().decode(data.as_bytes()).map_err(|_| PathError::Base64)
}

/// Base64url without padding that ignores bits left over, as clients may leave them.
fn lenient() -> Encoding {
    let mut specification: Specification = BASE64URL_NOPAD.specification();
    specification.check_trailing_bits = false;
    // The alphabet is that of the standard encoding.
    specification.encoding().unwrap_or(BASE64URL_NOPAD)
}

/// The channel of a path, and what follows its prefix, still percent-encoded.
pub fn endpoint(path: &str) -> Option<(Channel, &str)> {
    if let Some(rest) = path.strip_prefix(REGISTER) {
        return Some((Channel::AmpCache, rest));
    }
    path.strip_prefix(REGISTER_BIDIRECTIONAL).map(|rest| (Channel::BidirectionalAmp, rest))
}

/// Checks 1 to 3 of the order of checks: method, path, length. Returns the message.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn read(method: &str, encoded: &str) -> Result<Vec<u8>, Refusal> {
    if method != "GET" {
        return Err(Refusal::Method);
    }
    let path = percent_decode(encoded).ok_or(Refusal::Body)?;
    let message = decode_path(&path).map_err(|_| Refusal::Body)?;
    if message.len() < MIN_LENGTH {
        return Err(Refusal::TooSmall);
    }
    Ok(message)
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            out.push((digit()? << 4 | digit()?) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checks_come_in_order() {
        let message = [7; 33];
        let good = encode_path(&message, &[1; 9]);
        assert_eq!(read("GET", &good), Ok(message.to_vec()));
        assert_eq!(read("GET", &good.replace('/', "%2f")), Ok(message.to_vec()));
        assert_eq!(read("HEAD", &good), Err(Refusal::Method));
        assert_eq!(read("GET", "0/%zz"), Err(Refusal::Body));
        assert_eq!(read("GET", "0/%2"), Err(Refusal::Body));
        assert_eq!(read("GET", &encode_path(&[7; 32], &[1; 9])), Err(Refusal::TooSmall));
        assert_eq!(endpoint("/amp/register"), None);
        assert_eq!(endpoint("/amp/register/x"), Some((Channel::AmpCache, "x")));
    }

    proptest! {
        #[test]
        fn paths_come_back(
            message in prop::collection::vec(any::<u8>(), 0..100),
            breaker in any::<[u8; 9]>(),
        ) {
            prop_assert_eq!(decode_path(&encode_path(&message, &breaker)), Ok(message));
        }

        #[test]
        fn any_path_is_read_or_refused(path in "[0-9%/a-f_\u{e9}-]{0,60}") {
            let _ = read("GET", &path);
        }
    }
}
