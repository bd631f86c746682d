//! The Internet checksum (RFC 1071).

/// A sum in progress. Parts are added in any order; all but the last have an even length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes`; an odd last byte counts as the upper half of a word.
    ///
    /// The sum is the same in any byte order, so words are read as the machine has them and eight at
    /// a time, which compilers turn into vectors.
    #[inline]
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut lanes = [0u64; 8];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        let mut sum: u64 = lanes.iter().sum();
        for pair in pairs {
            sum += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        // No packet is long enough to fill the upper half.
        Self(self.0 + sum)
    }

    /// Adds a number that stands in the packet in network byte order.
    #[inline]
    #[must_use]
    pub fn and_u16(self, number: u16) -> Self {
        self.and(&number.to_be_bytes())
    }

    /// The sum in 16 bits, in network byte order: what a field holds whose checksum somebody else
    /// completes.
    #[inline]
    pub const fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum, in network byte order.
    #[inline]
    pub const fn checksum(self) -> [u8; 2] {
        let [high, low] = self.folded();
        [!high, !low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// The example of RFC 1071, 3.
    #[test]
    fn example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().and(&bytes).folded(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_two_parts(bytes in prop::collection::vec(any::<u8>(), 0..3000), at: u16) {
            let at = (usize::from(at) % (bytes.len() + 1)) & !1;
            let sum = Sum::default().and(&bytes[..at]).and(&bytes[at..]);
            prop_assert_eq!(sum.checksum(), plain(&bytes).to_be_bytes());
        }
    }
}
