//! Reading and writing the length-prefixed vectors of TLS, big-endian throughout (RFC 5246 4).

/// A place in a message; every read is checked, `None` is "malformed".
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u24(&mut self) -> Option<usize> {
        self.array().map(|[a, b, c]| usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))
    }

    /// A vector with a length of one byte.
    pub(crate) fn vec8(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(len.into())
    }

    /// A vector with a length of two bytes.
    pub(crate) fn vec16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// A vector with a length of three bytes.
    pub(crate) fn vec24(&mut self) -> Option<&'a [u8]> {
        let len = self.u24()?;
        self.take(len)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Option<()> {
        self.is_empty().then_some(())
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The 16-bit numbers of a vector; `None` for half a number.
pub(crate) fn numbers(bytes: &[u8]) -> Option<impl Iterator<Item = u16>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|&pair| u16::from_be_bytes(pair)))
}

/// Appends a vector with a length of `WIDTH` bytes around what `content` writes.
pub(crate) fn vector<const WIDTH: usize>(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; WIDTH]);
    content(out);
    let len = (out.len() - start - WIDTH).to_be_bytes();
    out[start..start + WIDTH].copy_from_slice(&len[len.len() - WIDTH..]);
}

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends the low three bytes of `value`.
pub(crate) fn put_u24(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_nest() {
        let mut out = vec![];
        vector::<3>(&mut out, |out| {
            vector::<1>(out, |out| out.push(9));
            put_u16(out, 0x1234);
        });
        assert_eq!(out, [0, 0, 4, 1, 9, 0x12, 0x34]);
        let mut reader = Reader::new(&out);
        let mut inner = Reader::new(reader.vec24().unwrap());
        assert_eq!(inner.vec8(), Some(&[9][..]));
        assert_eq!(inner.u16(), Some(0x1234));
        assert_eq!((inner.end(), reader.end()), (Some(()), Some(())));
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        for len in 0..3 {
            assert_eq!(Reader::new(&[0, 2, 7][..len]).vec16(), None);
        }
        assert!(numbers(&[1, 2, 3]).is_none());
    }
}
