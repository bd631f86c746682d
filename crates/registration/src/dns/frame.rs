//! Length prefixes of requests and replies, and the character strings of TXT
//! (`spec/registrar.md` 9.3 and 9.5).

/// Longest frame of a request: its length is one byte.
pub const MAX_REQUEST: usize = 255;

/// Frames a request; `None` when it is longer than [`MAX_REQUEST`].
pub fn request(data: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(data.len()).ok()?;
    let mut out = Vec::with_capacity(1 + data.len());
    out.push(length);
    out.extend_from_slice(data);
    Some(out)
}

/// The content of a request frame; bytes behind it are padding.
pub fn read_request(frame: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = frame.split_first()?;
    rest.get(..usize::from(length))
}

/// Frames a reply; `None` above 65,535 bytes.
pub fn reply(data: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(data.len()).ok()?;
    let mut out = Vec::with_capacity(2 + data.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
    Some(out)
}

/// The content of a reply frame; bytes behind it are padding.
pub fn read_reply(frame: &[u8]) -> Option<&[u8]> {
    let (length, rest) = frame.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// RDATA of a TXT record: strings of 255 bytes, the last one shorter; at least one string.
pub fn txt(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / 255 + 1);
    for chunk in data.chunks(255) {
        out.push(chunk.len() as u8);
        out.extend_from_slice(chunk);
    }
    if data.is_empty() {
        out.push(0);
    }
    out
}

/// The concatenated strings of a TXT record; `None` when there is none or one is cut off.
pub fn read_txt(rdata: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(rdata.len());
    let mut rest = rdata;
    loop {
        let (&length, tail) = rest.split_first()?;
        out.extend_from_slice(tail.get(..usize::from(length))?);
        rest = &tail[usize::from(length)..];
        if rest.is_empty() {
            return Some(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_and_strings_come_back(data in prop::collection::vec(any::<u8>(), 0..700)) {
            prop_assert_eq!(read_txt(&txt(&data)), Some(data.clone()));
            let framed = reply(&data).unwrap();
            prop_assert_eq!(read_reply(&framed), Some(&data[..]));
            match request(&data) {
                Some(frame) => prop_assert_eq!(read_request(&frame), Some(&data[..])),
                None => prop_assert!(data.len() > MAX_REQUEST),
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (read_txt(&data), read_reply(&data), read_request(&data));
        }
    }
}
