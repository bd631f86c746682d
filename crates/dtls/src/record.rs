//! Record headers (RFC 6347 4.1).

/// Length of a record header.
pub const HEADER_LEN: usize = 13;
/// DTLS 1.2.
pub const VERSION: [u8; 2] = [0xfe, 0xfd];
/// DTLS 1.0, which some peers put into the header of their first record.
const VERSION_1_0: [u8; 2] = [0xfe, 0xff];
/// Content type of change_cipher_spec.
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// Content type of alerts.
pub const ALERT: u8 = 21;
/// Content type of handshake messages.
pub const HANDSHAKE: u8 = 22;
/// Content type of application data.
pub const APPLICATION_DATA: u8 = 23;
/// Highest record number of an epoch.
pub const MAX_NUMBER: u64 = (1 << 48) - 1;

/// A record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Content type.
    pub content: u8,
    /// 0 in the clear, 1 under the keys of the handshake.
    pub epoch: u16,
    /// Number within the epoch, below 2^48.
    pub number: u64,
}

impl Header {
    /// The header's bytes for a body of `len` bytes.
    pub fn encode(self, len: u16) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.content;
        bytes[1..3].copy_from_slice(&VERSION);
        bytes[3..11].copy_from_slice(&self.counter().to_be_bytes());
        bytes[11..].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    /// Epoch and number as the one 64-bit number that is authenticated.
    pub const fn counter(self) -> u64 {
        (self.epoch as u64) << 48 | self.number
    }
}

/// Takes the first record off `datagram`: its header and body. `None`, and an empty rest, when what is
/// left is not a record.
pub fn next<'a>(datagram: &mut &'a mut [u8]) -> Option<(Header, &'a mut [u8])> {
    let rest = std::mem::take(datagram);
    let (header, rest) = rest.split_first_chunk_mut::<HEADER_LEN>()?;
    let [content, v0, v1, c0, c1, c2, c3, c4, c5, c6, c7, l0, l1] = *header;
    let counter = u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
    let epoch = (counter >> 48) as u16;
    let version = [v0, v1];
    if version != VERSION && !(epoch == 0 && version == VERSION_1_0) {
        return None;
    }
    let (body, rest) = rest.split_at_mut_checked(u16::from_be_bytes([l0, l1]).into())?;
    *datagram = rest;
    Some((Header { content, epoch, number: counter & MAX_NUMBER }, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let header = Header { content: HANDSHAKE, epoch: 1, number: MAX_NUMBER };
        let mut bytes = header.encode(2).to_vec();
        bytes.extend_from_slice(&[8, 9]);
        let mut rest = &mut bytes[..];
        assert_eq!(next(&mut rest), Some((header, &mut [8, 9][..])));
        assert!(rest.is_empty() && next(&mut rest).is_none());
    }

    #[test]
    fn what_is_no_record_ends_the_datagram() {
        let good = Header { content: ALERT, epoch: 0, number: 1 }.encode(2);
        for len in 0..good.len() + 2 {
            let mut bytes = [&good[..], &[1, 2]].concat();
            let mut rest = &mut bytes[..len];
            assert_eq!(next(&mut rest), None);
            assert!(rest.is_empty());
        }
        for (epoch, version, accepted) in
            [(0, [254, 255], true), (1, [254, 255], false), (0, [3, 3], false)]
        {
            let mut bytes = Header { content: HANDSHAKE, epoch, number: 0 }.encode(0);
            bytes[1..3].copy_from_slice(&version);
            assert_eq!(next(&mut &mut bytes[..]).is_some(), accepted);
        }
    }
}
