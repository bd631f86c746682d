//! As much of an HTML tokenizer as armor needs (HTML living standard 13.2.5, much simplified).

/// A piece of a document. Comments and declarations are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Name of an element that begins.
    Start(&'a [u8]),
    /// Name of an element that ends.
    End(&'a [u8]),
    /// Text as it stands.
    Text(&'a [u8]),
    /// A text or tag above the limit; nothing follows.
    TooLong,
}

/// Elements whose content is text up to their own end, whatever it looks like.
const RAW: [&[u8]; 4] = [b"script", b"style", b"textarea", b"title"];

/// The pieces of `document`; none is longer than `limit` bytes.
pub(super) fn tokens(document: &[u8], limit: usize) -> impl Iterator<Item = Token<'_>> {
    let mut rest = document;
    let mut raw: Option<&[u8]> = None;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let length = match raw.take() {
                Some(name) => raw_length(rest, name),
                None => text_length(rest),
            };
            if length > 0 {
                let (text, tail) = rest.split_at(length);
                rest = tail;
                if length > limit {
                    rest = &[];
                    return Some(Token::TooLong);
                }
                return Some(Token::Text(text));
            }
            let (length, token) = markup(rest);
            rest = &rest[length..];
            if length > limit {
                rest = &[];
                return Some(Token::TooLong);
            }
            if let Some(Token::Start(name)) = token {
                raw = RAW.into_iter().find(|raw| raw.eq_ignore_ascii_case(name));
            }
            if token.is_some() {
                return token;
            }
        }
    })
}

/// Length of the text before the next markup.
fn text_length(rest: &[u8]) -> usize {
    let opens = |pair: &[u8]| {
        pair[0] == b'<' && (pair[1].is_ascii_alphabetic() || matches!(pair[1], b'/' | b'!' | b'?'))
    };
    rest.windows(2).position(opens).unwrap_or(rest.len())
}

/// Length of the text before the end tag of the raw element `name`.
fn raw_length(rest: &[u8], name: &[u8]) -> usize {
    let ends = |window: &[u8]| window.starts_with(b"</") && window[2..].eq_ignore_ascii_case(name);
    rest.windows(name.len() + 2).position(ends).unwrap_or(rest.len())
}

/// The markup at the beginning of `rest`, which [`text_length`] found: its length, and what it is.
fn markup(rest: &[u8]) -> (usize, Option<Token<'_>>) {
    if rest.starts_with(b"<!--") {
        let end = rest[4..].windows(3).position(|w| w == b"-->");
        return (end.map_or(rest.len(), |at| 4 + at + 3), None);
    }
    let length = tag_length(rest);
    let name_at = |start: usize| {
        let name = &rest[start..length];
        let end = name.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'>' | b'/'));
        &name[..end.unwrap_or(name.len())]
    };
    match rest.get(1) {
        Some(b'/') if rest.get(2).is_some_and(u8::is_ascii_alphabetic) => {
            (length, Some(Token::End(name_at(2))))
        }
        Some(letter) if letter.is_ascii_alphabetic() => (length, Some(Token::Start(name_at(1)))),
        _ => (length, None),
    }
}

/// Length of the tag at the beginning of `rest`; a `>` in quotes does not end it.
fn tag_length(rest: &[u8]) -> usize {
    let mut quote = None;
    for (at, &byte) in rest.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') if rest[at - 1] == b'=' => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_falls_into_tags_and_texts() {
        let document = b"<!doctype html>a < b<p c='>'>d</P><!-- <pre> --><style><i></style><br/>e<";
        let found: Vec<Token<'_>> = tokens(document, 100).collect();
        assert_eq!(
            found,
            [
                Token::Text(b"a < b"),
                Token::Start(b"p"),
                Token::Text(b"d"),
                Token::End(b"P"),
                Token::Start(b"style"),
                Token::Text(b"<i>"),
                Token::End(b"style"),
                Token::Start(b"br"),
                Token::Text(b"e<"),
            ]
        );
        assert_eq!(tokens(b"abcdef<p>", 5).collect::<Vec<_>>(), [Token::TooLong]);
    }
}
