//! Where a cache serves a publisher's document (`spec/registrar.md` 8.4).

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use super::punycode;

/// Longest label of a domain name.
const MAX_LABEL: usize = 63;

/// Why there is no URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheUrlError {
    /// One of the URLs is none.
    #[error("{0} is no URL of the form http[s]://HOST/PATH")]
    Url(String),
    /// The publisher's URL names a user.
    #[error("{0} names a user, which no cache passes on")]
    User(String),
    /// The publisher's port is not that of its scheme.
    #[error("{0} names a port other than its scheme's, which no cache fetches from")]
    Port(String),
    /// The cache's URL has a query or fragment.
    #[error("{0}: the URL of a cache has no query and no fragment")]
    Cache(String),
    /// No type of content is named.
    #[error("the type of content is empty")]
    Type,
}

/// An absolute URL in pieces; path, query and fragment keep their escapes.
struct Url<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
    /// Query and fragment with their marks.
    rest: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, tail) = text.split_once("://")?;
        let (before, _) = tail.split_at(tail.find(['?', '#']).unwrap_or(tail.len()));
        let rest = &tail[before.len()..];
        let (authority, path) = before.split_at(before.find('/').unwrap_or(before.len()));
        (matches!(scheme, "http" | "https") && !authority.is_empty()).then_some(Self {
            scheme,
            authority,
            path,
            rest,
        })
    }
}

/// The URL at which `cache` serves what `publisher` names; `kind` is the type of content, `c` for
/// documents.
///
/// # Errors
/// [`CacheUrlError`].
pub fn cache_url(publisher: &str, cache: &str, kind: &str) -> Result<String, CacheUrlError> {
    let parse = |text: &str| CacheUrlError::Url(text.to_owned());
    let from = Url::parse(publisher).ok_or_else(|| parse(publisher))?;
    let to = Url::parse(cache).ok_or_else(|| parse(cache))?;
    if kind.is_empty() {
        return Err(CacheUrlError::Type);
    }
    if !to.rest.is_empty() {
        return Err(CacheUrlError::Cache(cache.to_owned()));
    }
    if from.authority.contains('@') {
        return Err(CacheUrlError::User(publisher.to_owned()));
    }
    let default = if from.scheme == "https" { ":443" } else { ":80" };
    let host = from.authority.strip_suffix(default).unwrap_or(from.authority);
    if host.is_empty() {
        return Err(parse(publisher));
    }
    if host.contains(':') {
        return Err(CacheUrlError::Port(publisher.to_owned()));
    }
    let secure = if from.scheme == "https" { "s" } else { "" };
    let path = join(&[to.path, kind, secure, host, from.path]);
    Ok(format!("{}://{}.{}{path}{}", to.scheme, domain_prefix(host), to.authority, from.rest))
}

/// Joins pieces of a path in canonical form: no empty or dot segments, no slash at the end.
fn join(pieces: &[&str]) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in pieces.iter().flat_map(|piece| piece.split('/')) {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

/// The label below which a cache serves the publisher `host`.
pub fn domain_prefix(host: &str) -> String {
    readable_prefix(host).unwrap_or_else(|| domain_prefix_fallback(host))
}

fn readable_prefix(host: &str) -> Option<String> {
    if host.is_empty() {
        return None;
    }
    let labels: Option<Vec<String>> = host
        .split('.')
        .map(|label| match label.get(..4) {
            Some(head) if head.eq_ignore_ascii_case("xn--") => punycode::decode(&label[4..]),
            _ => Some(label.to_owned()),
        })
        .collect();
    let text = labels?.join(".").replace('-', "--").replace('.', "-");
    let mut characters = text.chars().skip(2);
    // Two hyphens there are the mark of encoded names.
    let wrapped = match (characters.next(), characters.next()) {
        (Some('-'), Some('-')) => format!("0-{text}-0"),
        _ => text,
    };
    let label =
        if wrapped.is_ascii() { wrapped } else { format!("xn--{}", punycode::encode(&wrapped)?) };
    (label.len() <= MAX_LABEL).then_some(label)
}

/// The label of a host whose readable one is too long.
pub fn domain_prefix_fallback(host: &str) -> String {
    BASE32_NOPAD.encode(&Sha256::digest(host)).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(
            publisher in "(https?://)?[a-z.:@/?#%\u{e9}-]{0,40}",
            cache in "(https?://)?[a-z./?#-]{0,20}",
        ) {
            if let Ok(url) = cache_url(&publisher, &cache, "c") {
                prop_assert!(url.split('/').nth(2).unwrap().split('.').next().unwrap().len() <= 63);
            }
        }
    }
}
