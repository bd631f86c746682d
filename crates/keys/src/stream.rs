//! HKDF-SHA256 read as a byte stream, and uniform integers drawn from it (`spec/core.md` 3.1, 3.2).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::sync::LazyLock;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The stream ends after 255 blocks.
const MAX_BLOCKS: u8 = 255;

/// The salt of the main stream; part of the protocol.
pub(crate) const MAIN_SALT: &[u8; 28] = b"conjureconjureconjureconjure";

/// HMAC keyed with the main salt. Keying costs two compressions, which every tag check would pay.
static MAIN_EXTRACT: LazyLock<Hmac<Sha256>> = LazyLock::new(|| hmac_sha256(MAIN_SALT));

pub(crate) fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Why a stream gave no more output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// All 8,160 bytes were read.
    #[error("hkdf: entropy limit reached")]
    Exhausted,
    /// A uniform integer below zero elements was asked for.
    #[error("no integer lies below 0")]
    EmptyRange,
}

/// `HKDF-SHA256(secret, salt, info)` as a stream: reads continue where the last one stopped.
#[derive(Clone)]
pub struct HkdfStream {
    prk: Hmac<Sha256>,
    info: &'static [u8],
    block: [u8; 32],
    used: u8,
    blocks: u8,
}

impl Drop for HkdfStream {
    fn drop(&mut self) {
        self.block.zeroize();
    }
}

impl ZeroizeOnDrop for HkdfStream {}

impl std::fmt::Debug for HkdfStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HkdfStream").finish_non_exhaustive()
    }
}

impl HkdfStream {
    /// Extracts from `secret` once. An empty `salt` is the same as none.
    pub fn new(secret: &[u8], salt: &[u8], info: &'static [u8]) -> Self {
        let mut extract = hmac_sha256(salt);
        extract.update(secret);
        Self::expand(extract, info)
    }

    /// The main stream of a shared secret: salt `conjureconjureconjureconjure`, no info.
    pub fn main(shared_secret: &[u8]) -> Self {
        let mut extract = MAIN_EXTRACT.clone();
        extract.update(shared_secret);
        Self::expand(extract, b"")
    }

    fn expand(extract: Hmac<Sha256>, info: &'static [u8]) -> Self {
        let mut prk: [u8; 32] = extract.finalize().into_bytes().into();
        let stream = Self { prk: hmac_sha256(&prk), info, block: [0; 32], used: 32, blocks: 0 };
        prk.zeroize();
        stream
    }

    /// The same extraction read from its start under another `info`.
    pub fn with_info(&self, info: &'static [u8]) -> Self {
        Self { prk: self.prk.clone(), info, block: [0; 32], used: 32, blocks: 0 }
    }

    fn refill(&mut self) -> Result<(), StreamError> {
        if self.blocks == MAX_BLOCKS {
            return Err(StreamError::Exhausted);
        }
        let mut mac = self.prk.clone();
        if self.blocks > 0 {
            mac.update(&self.block);
        }
        self.blocks += 1;
        mac.update(self.info);
        mac.update(&[self.blocks]);
        self.block = mac.finalize().into_bytes().into();
        self.used = 0;
        Ok(())
    }

    /// Fills `out` with the next bytes.
    ///
    /// # Errors
    /// [`StreamError::Exhausted`] when the stream ends first.
    pub fn read(&mut self, out: &mut [u8]) -> Result<(), StreamError> {
        let mut out = out;
        while !out.is_empty() {
            if self.used == 32 {
                self.refill()?;
            }
            let start = usize::from(self.used);
            let count = out.len().min(32 - start);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.block[start..start + count]);
            self.used += count as u8;
            out = later;
        }
        Ok(())
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut out = [0; N];
        self.read(&mut out)?;
        Ok(out)
    }

    /// A uniform integer in `[0, n)`: whole blocks of `ceil(bits/8)` bytes, excess bits of the
    /// first byte cleared, until one lies below `n`. Nothing is read for `n = 1`.
    ///
    /// # Errors
    /// When `n` is 0 or the stream ends.
    pub fn uniform(&mut self, n: u128) -> Result<u128, StreamError> {
        let bits = 128 - n.checked_sub(1).ok_or(StreamError::EmptyRange)?.leading_zeros();
        if bits == 0 {
            return Ok(0);
        }
        let bytes = bits.div_ceil(8) as usize;
        let first_mask = 0xff >> (8 * bytes as u32 - bits);
        loop {
            let mut buffer = [0u8; 16];
            self.read(&mut buffer[16 - bytes..])?;
            buffer[16 - bytes] &= first_mask;
            let drawn = u128::from_be_bytes(buffer);
            if drawn < n {
                return Ok(drawn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test case 3: no salt, no info.
    #[test]
    fn rfc_5869_case_3() {
        let mut stream = HkdfStream::new(&[0x0b; 22], b"", b"");
        let all: [u8; 42] = stream.take().unwrap();
        assert_eq!(
            hex::encode(all),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d\
             9d201395faa4b61a96c8"
        );
    }

    #[test]
    fn reads_of_any_size_join_up() {
        let mut whole = HkdfStream::main(b"secret");
        let all: [u8; 200] = whole.take().unwrap();
        let mut parts = HkdfStream::main(b"secret");
        let mut joined = Vec::new();
        for size in [0, 1, 31, 32, 33, 64, 39] {
            let mut part = vec![0; size];
            parts.read(&mut part).unwrap();
            joined.extend(part);
        }
        assert_eq!(joined, all);
    }

    #[test]
    fn the_stream_ends() {
        let mut stream = HkdfStream::main(b"");
        let mut all = vec![0; 8160];
        stream.read(&mut all).unwrap();
        assert_eq!(stream.take::<1>(), Err(StreamError::Exhausted));
    }

    #[test]
    fn one_element_needs_no_bytes_and_none_is_an_error() {
        let mut stream = HkdfStream::main(b"x");
        assert_eq!(stream.uniform(1), Ok(0));
        assert_eq!(stream.uniform(0), Err(StreamError::EmptyRange));
        let first = stream.take::<1>().unwrap();
        assert_eq!(first, HkdfStream::main(b"x").take::<1>().unwrap());
    }
}
