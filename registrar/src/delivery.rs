//! The ClientConf for outdated clients, serialized and compressed once per reload
//! (`spec/registrar.md` 7.4 and 15.4).

use std::io::Write as _;

use flate2::{Compression, Crc, write::DeflateEncoder};
use signalling::raw;

/// Field of a `RegistrationResponse` that carries the ClientConf.
const CLIENT_CONF: u32 = 6;
/// Magic, deflate, no flags, no time, unknown system (RFC 1952 2.3).
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Longest content of a stored block (RFC 1951 3.2.4).
const STORED: usize = 0xffff;

/// A ClientConf ready to be appended to responses.
#[derive(Debug)]
pub struct Delivery {
    /// The whole field.
    field: Vec<u8>,
    /// The field as the last blocks of a deflate stream.
    deflated: Vec<u8>,
    crc: Crc,
}

impl Delivery {
    /// Prepares the serialized `client_conf`.
    pub fn new(client_conf: &[u8]) -> Self {
        let mut field = Vec::with_capacity(client_conf.len() + 8);
        raw::put_bytes(&mut field, CLIENT_CONF, client_conf);
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        // Writing to memory does not fail; an incomplete stream would not pass its checksum.
        let _ = encoder.write_all(&field);
        let deflated = encoder.finish().unwrap_or_default();
        let mut crc = Crc::new();
        crc.update(&field);
        Self { field, deflated, crc }
    }

    /// `response` with the ClientConf behind it.
    pub fn append(&self, mut response: Vec<u8>) -> Vec<u8> {
        response.extend_from_slice(&self.field);
        response
    }

    /// The same as one gzip member: the response in a stored block, then the prepared blocks. `None`
    /// when the response is too long for one block, which none is.
    pub fn append_compressed(&self, response: &[u8]) -> Option<Vec<u8>> {
        if response.len() > STORED || self.deflated.is_empty() {
            return None;
        }
        let length = response.len() as u16;
        let mut crc = Crc::new();
        crc.update(response);
        crc.combine(&self.crc);
        let mut out = Vec::with_capacity(response.len() + self.deflated.len() + 32);
        out.extend_from_slice(&GZIP_HEAD);
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(response);
        out.extend_from_slice(&self.deflated);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&crc.amount().to_le_bytes());
        Some(out)
    }
}

/// Whether an `Accept-Encoding` header admits gzip: named, or `*`, with a quality above 0.
pub fn accepts_gzip(header: &str) -> bool {
    header.split(',').any(|element| {
        let mut parts = element.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let refused = parts.any(|p| {
            p.strip_prefix("q=").is_some_and(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0))
        });
        (coding.eq_ignore_ascii_case("gzip") || coding == "*") && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read as _;

    #[test]
    fn the_compressed_reply_is_the_plain_one() {
        let conf: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let delivery = Delivery::new(&conf);
        for response in [&b""[..], b"response", &[7; 3000]] {
            let compressed = delivery.append_compressed(response).unwrap();
            assert!(compressed.len() < conf.len() / 10);
            let mut plain = Vec::new();
            GzDecoder::new(&compressed[..]).read_to_end(&mut plain).unwrap();
            assert_eq!(plain, delivery.append(response.to_vec()));
        }
    }

    #[test]
    fn gzip_is_taken_only_where_it_is_offered() {
        for yes in ["gzip", "deflate, GZIP;q=0.5", "br;q=1.0, *", "identity;q=0, gzip; q=1"] {
            assert!(accepts_gzip(yes), "{yes}");
        }
        for no in ["", "br", "gzip;q=0", "deflate, gzip; q=0.0", "x-gzip"] {
            assert!(!accepts_gzip(no), "{no}");
        }
    }
}
