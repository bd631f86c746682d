//! Destination ports chosen by the seed (`spec/core.md` 6.1).

use crate::stream::HkdfStream;
use std::ops::Range;

/// Info string of the port draw.
const PORT_INFO: &[u8] = b"phantom-select-dst-port";

/// Ports of Min, Prefix and DTLS; the end is never drawn.
pub const PORTS: Range<u16> = 1024..65535;
/// Ports of obfs4; the end is never drawn.
pub const OBFS4_PORTS: Range<u16> = 22..65535;

/// The port that `seed` selects in `range` (end excluded); the start for an empty range.
pub fn seeded_port(seed: &[u8], range: Range<u16>) -> u16 {
    let width = range.end.saturating_sub(range.start);
    let mut stream = HkdfStream::new(seed, b"", PORT_INFO);
    // The stream holds 4,080 draws, each of which succeeds with probability above one half.
    let offset = stream.uniform(u128::from(width)).unwrap_or(0);
    range.start + u16::try_from(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_constants() {
        assert_eq!(seeded_port(&[0; 17], PORTS), 58047);
        assert_eq!(seeded_port(&[0; 17], OBFS4_PORTS), 57045);
        assert_eq!(seeded_port(&[], 7..7), 7);
    }
}
