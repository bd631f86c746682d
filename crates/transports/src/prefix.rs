//! Prefix: bytes of a well-known protocol, an obfuscated tag, then raw bytes
//! (`spec/transports.md` 6).

use crate::obfuscator::{Obfuscator, WorthlessStationKey, reveal_ctr};
use keys::{SharedSecret, StationKey, elligator};
use rand_core::CryptoRng;

/// Length of the obfuscated tag.
pub const TAG_LEN: usize = 64;
/// Id by which a client asks for a random prefix; it is resolved before registering.
pub const RANDOM_ID: i32 = -1;
/// Flush policy: the one of the prefix.
pub const FLUSH_DEFAULT: i32 = 0;
/// Flush policy: prefix and tag in one write.
pub const FLUSH_NONE: i32 = 1;
/// Flush policy: prefix and tag in a write each.
pub const FLUSH_AFTER_PREFIX: i32 = 2;

/// One prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// Id in messages.
    pub id: i32,
    /// Name in statistics.
    pub name: String,
    /// The bytes that a connection starts with; the tag follows them.
    pub bytes: Vec<u8>,
    /// Destination port without randomisation.
    pub default_port: u16,
    /// The client's flush policy.
    pub flush: i32,
}

impl Prefix {
    /// Bytes before the raw part of a connection.
    pub const fn header_len(&self) -> usize {
        self.bytes.len() + TAG_LEN
    }
}

/// The prefixes a station serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixTable {
    prefixes: Vec<Prefix>,
}

/// The table of the reference: id, name, bytes, default port.
const DEFAULTS: [(i32, &str, &[u8], u16); 10] = [
    (0, "Min", b"", 443),
    (1, "GetLong", b"GET / HTTP/1.1\r\n", 80),
    (2, "PostLong", b"POST / HTTP/1.1\r\n", 80),
    (3, "HTTPResp", b"HTTP/1.1 200\r\n", 80),
    (4, "TLSClientHello", b"\x16\x03\x03\x40\x00\x01", 443),
    (5, "TLSServerHello", b"\x16\x03\x03\x40\x00\x02\r\n", 443),
    (6, "TLSAlertWarning", b"\x15\x03\x01\x00\x02", 443),
    (7, "TLSAlertFatal", b"\x15\x03\x02\x00\x02", 443),
    (8, "DNSOverTCP", b"\x05\xdc\x5f\xe0\x01\x20", 53),
    (9, "OpenSSH2", b"SSH-2.0-OpenSSH_8.9p1", 22),
];

impl Default for PrefixTable {
    fn default() -> Self {
        let prefix = |&(id, name, bytes, default_port): &(i32, &str, &[u8], u16)| Prefix {
            id,
            name: name.to_owned(),
            bytes: bytes.to_vec(),
            default_port,
            flush: FLUSH_NONE,
        };
        Self::new(DEFAULTS.iter().map(prefix))
    }
}

impl PrefixTable {
    /// A table of `prefixes`; of several with one id, the first counts.
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut table = Self { prefixes: Vec::new() };
        for prefix in prefixes {
            if table.by_id(prefix.id).is_none() {
                table.prefixes.push(prefix);
            }
        }
        table
    }

    /// A station that serves no prefix (`disable_default_prefixes`).
    pub const fn empty() -> Self {
        Self { prefixes: Vec::new() }
    }

    /// The prefix `id`.
    pub fn by_id(&self, id: i32) -> Option<&Prefix> {
        self.prefixes.iter().find(|prefix| prefix.id == id)
    }

    /// All prefixes.
    pub fn iter(&self) -> impl Iterator<Item = &Prefix> {
        self.prefixes.iter()
    }

    /// A uniformly random prefix, as registrars and clients with id -1 draw it: bytes masked to
    /// the next power of two, until one is an index. `None` for an empty table.
    pub fn random<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> Option<&Prefix> {
        let mask = self.prefixes.len().checked_next_power_of_two()? - 1;
        if self.prefixes.is_empty() {
            return None;
        }
        loop {
            let mut byte = [0];
            rng.fill_bytes(&mut byte);
            if let Some(prefix) = self.prefixes.get(usize::from(byte[0]) & mask) {
                return Some(prefix);
            }
        }
    }
}

/// What a client writes before its own bytes: one write, or two when `flush` says so. `bytes` are
/// those of the prefix or, after a registrar's override, those of the response.
///
/// # Errors
/// When the station's public key is of low order.
pub fn opening<R: CryptoRng + ?Sized>(
    bytes: &[u8],
    flush: i32,
    secret: &SharedSecret,
    station_public: &[u8; 32],
    rng: &mut R,
) -> Result<Vec<Vec<u8>>, WorthlessStationKey> {
    let tag = Obfuscator::Ctr.obfuscate(&secret.prefix_identifier(), station_public, rng)?;
    Ok(if flush == FLUSH_AFTER_PREFIX && !bytes.is_empty() {
        vec![bytes.to_vec(), tag]
    } else {
        vec![[bytes, &tag].concat()]
    })
}

/// Tags that one connection has revealed. The bytes of a tag do not change when more arrive, so
/// the curve arithmetic is done once per position.
#[derive(Debug, Default)]
pub(crate) struct Revealed {
    positions: Vec<(usize, Vec<[u8; 32]>)>,
}

impl Revealed {
    /// The identifiers under all `keys` of the tag at `offset`, which has arrived whole.
    pub(crate) fn at(
        &mut self,
        received: &[u8],
        offset: usize,
        keys: &[StationKey],
    ) -> &[[u8; 32]] {
        let known = self.positions.iter().position(|(at, _)| *at == offset);
        let index = known.unwrap_or_else(|| {
            let identifiers = tag_at(received, offset).map_or_else(Vec::new, |(rep, masked)| {
                let u = elligator::decode(rep);
                keys.iter().filter_map(|key| reveal_ctr(&u, masked, key)).collect()
            });
            self.positions.push((offset, identifiers));
            self.positions.len() - 1
        });
        &self.positions[index].1
    }
}

fn tag_at(received: &[u8], offset: usize) -> Option<(&[u8; 32], &[u8; 32])> {
    let (representative, rest) = received.get(offset..)?.split_first_chunk()?;
    Some((representative, rest.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    #[test]
    fn ids_are_unique_and_the_first_counts() {
        let mut second = PrefixTable::default().by_id(9).unwrap().clone();
        second.name = "Other".to_owned();
        let table = PrefixTable::new(PrefixTable::default().iter().cloned().chain([second]));
        assert_eq!(table.by_id(9).unwrap().name, "OpenSSH2");
        assert_eq!(table.iter().count(), 10);
        assert!(PrefixTable::empty().by_id(0).is_none());
    }

    #[test]
    fn random_draws_reach_every_prefix() {
        let table = PrefixTable::default();
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let mut seen = [false; 10];
        for _ in 0..500 {
            seen[table.random(&mut rng).unwrap().id as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert!(PrefixTable::empty().random(&mut rng).is_none());
    }

    #[test]
    fn flush_policies() {
        let secret = SharedSecret::new(b"secret");
        let station = StationKey::from_private(&[3; 32]).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(6);
        let mut lengths = |bytes: &[u8], flush| -> Vec<usize> {
            let writes = opening(bytes, flush, &secret, station.public(), &mut rng).unwrap();
            writes.iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(b"GET", FLUSH_NONE), [67]);
        assert_eq!(lengths(b"GET", FLUSH_DEFAULT), [67]);
        assert_eq!(lengths(b"GET", FLUSH_AFTER_PREFIX), [3, 64]);
        assert_eq!(lengths(b"", FLUSH_AFTER_PREFIX), [64]);
    }
}
