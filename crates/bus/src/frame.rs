//! ZMTP frames: flags, length, body (RFC 37).

use bytes::{Buf, BufMut, Bytes, BytesMut};

const FLAG_MORE: u8 = 1;
const FLAG_LONG: u8 = 2;
const FLAG_COMMAND: u8 = 4;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message, or one part of a message of several frames.
    Message {
        /// More frames of the same message follow.
        more: bool,
    },
    /// A command of the protocol itself.
    Command,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Message or command.
    pub kind: Kind,
    /// The body without flags and length.
    pub body: Bytes,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A reserved flag is set, or a command claims to have more parts.
    #[error("invalid frame flags {0:#04x}")]
    Flags(u8),
    /// The announced length is above the limit.
    #[error("frame of {len} bytes is above the limit of {max}")]
    TooLong {
        /// Announced body length in bytes.
        len: u64,
        /// Largest accepted body length in bytes.
        max: usize,
    },
}

impl Frame {
    /// Takes one whole frame from the front of `buf`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the header shows the frame cannot be accepted.
    pub fn decode(buf: &mut BytesMut, max: usize) -> Result<Option<Self>, FrameError> {
        let Some(&flags) = buf.first() else { return Ok(None) };
        let kind = match flags & !FLAG_LONG {
            0 => Kind::Message { more: false },
            FLAG_MORE => Kind::Message { more: true },
            FLAG_COMMAND => Kind::Command,
            _ => return Err(FrameError::Flags(flags)),
        };
        let (header, len) = if flags & FLAG_LONG == 0 {
            let Some(&len) = buf.get(1) else { return Ok(None) };
            (2, u64::from(len))
        } else {
            let Some(len) = buf.get(1..9) else { return Ok(None) };
            (9, len.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
        };
        let body_len = match usize::try_from(len) {
            Ok(n) if n <= max => n,
            _ => return Err(FrameError::TooLong { len, max }),
        };
        if buf.len() < header + body_len {
            return Ok(None);
        }
        buf.advance(header);
        Ok(Some(Self { kind, body: buf.split_to(body_len).freeze() }))
    }

    /// Appends a frame made of `kind` and `body` to `out`.
    pub fn encode(kind: Kind, body: &[u8], out: &mut BytesMut) {
        let flags = match kind {
            Kind::Message { more: false } => 0,
            Kind::Message { more: true } => FLAG_MORE,
            Kind::Command => FLAG_COMMAND,
        };
        out.reserve(9 + body.len());
        if let Ok(short) = u8::try_from(body.len()) {
            out.put_u8(flags);
            out.put_u8(short);
        } else {
            out.put_u8(flags | FLAG_LONG);
            out.put_u64(body.len() as u64);
        }
        out.put_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Command), any::<bool>().prop_map(|more| Kind::Message { more })]
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes_however_it_is_cut(
            frames in prop::collection::vec((kind(), prop::collection::vec(any::<u8>(), 0..600)), 0..5),
            cut in 1usize..40,
        ) {
            let mut wire = BytesMut::new();
            for (kind, body) in &frames {
                Frame::encode(*kind, body, &mut wire);
            }
            let mut buf = BytesMut::new();
            let mut seen = Vec::new();
            for part in wire.chunks(cut) {
                buf.extend_from_slice(part);
                while let Some(frame) = Frame::decode(&mut buf, 600).unwrap() {
                    seen.push((frame.kind, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn any_bytes_are_a_frame_an_error_or_too_few(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = Frame::decode(&mut buf, 32) {
                prop_assert!(frame.body.len() <= 32);
            }
        }
    }

    #[test]
    fn refuses_a_length_above_the_limit_from_the_header_alone() {
        let mut buf = BytesMut::from(&[2, 0xff, 0, 0, 0, 0, 0, 0, 1][..]);
        assert_eq!(
            Frame::decode(&mut buf, 100),
            Err(FrameError::TooLong { len: 0xff00_0000_0000_0001, max: 100 })
        );
        let mut buf = BytesMut::from(&[5, 0][..]);
        assert_eq!(Frame::decode(&mut buf, 100), Err(FrameError::Flags(5)));
    }
}
