//! What a DTLS session derives from the shared secret (`spec/core.md` 7.5).

use crate::secret::SharedSecret;
use crate::stream::{HkdfStream, StreamError};
use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, ZeroizeOnDrop};

const HELLO_SALT: &[u8] = b"clientHelloRandomFromSeed";
const CERTIFICATE_SALT: &[u8] = b"certsFromSeed";

/// Order of P-256 less one, most significant word first.
const ORDER_LESS_ONE: [u64; 4] =
    [0xffff_ffff_0000_0000, u64::MAX, 0xbce6_faad_a717_9e84, 0xf3b9_cac2_fc63_2550];

/// The 28 bytes that follow the time in the ClientHello's random field; the station's lookup key.
pub fn client_hello_random(secret: &SharedSecret) -> [u8; 28] {
    HkdfStream::new(secret.expose(), HELLO_SALT, b"").take().expect("28 bytes of a fresh stream")
}

/// Key and names of one of the two certificates of a DTLS session.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct CertificateSeed {
    /// P-256 private key, 32 bytes, big-endian.
    pub private: [u8; 32],
    /// Serial number, big-endian, 17 bytes.
    pub serial: [u8; 17],
    /// Common name and DNS name: 16 lower-case hexadecimal digits.
    pub name: String,
}

impl std::fmt::Debug for CertificateSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateSeed(_)")
    }
}

/// Both certificates of a session.
#[derive(Debug, Clone)]
pub struct CertificateSeeds {
    /// The client's.
    pub client: CertificateSeed,
    /// The station's.
    pub server: CertificateSeed,
}

impl CertificateSeeds {
    /// Derives the client's certificate, then the server's, from one stream.
    pub fn new(secret: &SharedSecret) -> Self {
        let mut stream = HkdfStream::new(secret.expose(), CERTIFICATE_SALT, b"");
        let mut next = || certificate(&mut stream).expect("a few draws of 65 bytes each");
        Self { client: next(), server: next() }
    }
}

fn certificate(stream: &mut HkdfStream) -> Result<CertificateSeed, StreamError> {
    let private = scalar(&stream.take::<40>()?);
    let serial = loop {
        let mut drawn: [u8; 17] = stream.take()?;
        drawn[0] &= 3;
        // Uniform below 2^130 - 1: only the value with all bits set is drawn again.
        if drawn[0] != 3 || drawn[1..].iter().any(|&byte| byte != 0xff) {
            break drawn;
        }
    };
    let name = stream.take::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(CertificateSeed { private, serial, name })
}

/// `(wide mod (n - 1)) + 1` with `n` the order of P-256, bit by bit without branches.
fn scalar(wide: &[u8; 40]) -> [u8; 32] {
    let mut rest = [0u64; 4];
    for bit in (0..320).rev() {
        let next = u64::from(wide[39 - bit / 8] >> (bit % 8) & 1);
        let (doubled, overflow) = double_plus(rest, next);
        let (reduced, borrow) = minus(doubled, ORDER_LESS_ONE);
        let take = Choice::from(u8::from(overflow) | u8::from(!borrow));
        for (word, (kept, less)) in rest.iter_mut().zip(doubled.into_iter().zip(reduced)) {
            *word = u64::conditional_select(&kept, &less, take);
        }
    }
    let mut carry = true;
    for word in rest.iter_mut().rev() {
        (*word, carry) = word.overflowing_add(u64::from(carry));
    }
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(rest) {
        chunk.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

fn double_plus(words: [u64; 4], bit: u64) -> ([u64; 4], bool) {
    let mut carry = bit;
    let mut out = [0; 4];
    for i in (0..4).rev() {
        out[i] = words[i] << 1 | carry;
        carry = words[i] >> 63;
    }
    (out, carry == 1)
}

fn minus(a: [u64; 4], b: [u64; 4]) -> ([u64; 4], bool) {
    let mut borrow = false;
    let mut out = [0; 4];
    for i in (0..4).rev() {
        let (first, under) = a[i].overflowing_sub(b[i]);
        let (second, under_again) = first.overflowing_sub(u64::from(borrow));
        (out[i], borrow) = (second, under | under_again);
    }
    (out, borrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_at_the_edges() {
        let wide = |words: [u64; 5]| {
            let mut bytes = [0; 40];
            for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
                chunk.copy_from_slice(&word.to_be_bytes());
            }
            bytes
        };
        let mut one = [0; 32];
        one[31] = 1;
        assert_eq!(scalar(&[0; 40]), one);
        let [a, b, c, d] = ORDER_LESS_ONE;
        assert_eq!(scalar(&wide([0, a, b, c, d])), one, "n - 1 is 0 modulo n - 1");
        let largest = scalar(&wide([0, a, b, c, d - 1]));
        assert_eq!(largest[31], 0x50, "n - 2 becomes n - 1");
    }
}
