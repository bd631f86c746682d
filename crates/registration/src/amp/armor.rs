//! A message as an AMP document (`spec/registrar.md` 8.3).

use data_encoding::BASE64;

use super::html::{Token, tokens};

const HEAD: &str = include_str!("head.html");
const TAIL: &str = include_str!("tail.html");
/// Version of the armor, the first character of the text.
const VERSION: char = '0';
/// Characters of a word.
const WORD: usize = 32;
/// Words of a `pre` element; with their line ends they stay below [`MAX_TOKEN`].
const WORDS: usize = 992;
/// Longest text or tag that a decoder accepts.
const MAX_TOKEN: usize = 32 * 1024;
/// What a decoder reads of a reply at most.
pub const MAX_DOCUMENT: usize = 1_000_000;

/// Why a document holds no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArmorError {
    /// A `pre` element inside another, one that does not end, or an end without one.
    #[error("pre elements do not match")]
    Pre,
    /// A text or a tag is longer than 32 KiB.
    #[error("a text or tag is longer than {MAX_TOKEN} bytes")]
    Token,
    /// There is no text, or it is of another version.
    #[error("no text of a known version")]
    Version,
    /// The text is no base64.
    #[error("the text is not base64")]
    Base64,
}

/// The document that carries `message`.
pub fn encode(message: &[u8]) -> String {
    let mut text = String::with_capacity(1 + message.len() * 4 / 3 + 4);
    text.push(VERSION);
    BASE64.encode_append(message, &mut text);
    let room = text.len() + text.len() / WORD + text.len() / (WORD * WORDS) * 13 + 64;
    let mut out = String::with_capacity(HEAD.len() + TAIL.len() + room);
    out.push_str(HEAD);
    // Everything is ASCII, so any cut is one between characters.
    let mut rest = &text[..];
    while !rest.is_empty() {
        let (element, tail) = rest.split_at(rest.len().min(WORD * WORDS));
        rest = tail;
        out.push_str("<pre>\n");
        let mut words = element;
        while !words.is_empty() {
            let (word, tail) = words.split_at(words.len().min(WORD));
            words = tail;
            out.push_str(word);
            out.push('\n');
        }
        out.push_str("</pre>\n");
    }
    out.push_str(TAIL);
    out
}

/// The message in `document`: the text inside its `pre` elements.
///
/// # Errors
/// [`ArmorError`].
pub fn decode(document: &[u8]) -> Result<Vec<u8>, ArmorError> {
    let mut text = Vec::new();
    let mut inside = false;
    for token in tokens(document, MAX_TOKEN) {
        match token {
            Token::TooLong => return Err(ArmorError::Token),
            Token::Start(name) if name.eq_ignore_ascii_case(b"pre") => {
                if inside {
                    return Err(ArmorError::Pre);
                }
                inside = true;
            }
            Token::End(name) if name.eq_ignore_ascii_case(b"pre") => {
                if !inside {
                    return Err(ArmorError::Pre);
                }
                inside = false;
            }
            Token::Text(bytes) if inside => {
                let whitespace = |byte: &u8| !matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ');
                text.extend(bytes.iter().copied().filter(whitespace));
            }
            Token::Start(_) | Token::End(_) | Token::Text(_) => {}
        }
    }
    if inside {
        return Err(ArmorError::Pre);
    }
    match text.split_first() {
        Some((&version, data)) if char::from(version) == VERSION => {
            BASE64.decode(data).map_err(|_| ArmorError::Base64)
        }
        _ => Err(ArmorError::Version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_tokens_are_refused() {
        let text = format!("<pre>0{}</pre>", "A".repeat(MAX_TOKEN));
        assert_eq!(decode(text.as_bytes()), Err(ArmorError::Token));
        let text = format!("<pre>0AAAA</pre><a b='{}'>", "A".repeat(MAX_TOKEN));
        assert_eq!(decode(text.as_bytes()), Err(ArmorError::Token));
        assert_eq!(decode(b"<pre>0</pre></pre>"), Err(ArmorError::Pre));
        assert_eq!(decode(b"<script><pre></script><PRE a='>'>0</Pre>"), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn messages_come_back(message in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(decode(encode(&message).as_bytes()), Ok(message));
        }

        #[test]
        fn any_document_is_read_or_refused(document in "[<>/!pre0A='\" -]{0,80}") {
            let _ = decode(document.as_bytes());
        }
    }
}
