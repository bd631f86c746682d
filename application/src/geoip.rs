//! Country and network of an address (`spec/application.md` 14).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::{PathElement, Reader};

/// Country code and autonomous system of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Origin {
    /// ISO 3166 country code, `None` when unknown.
    pub country: Option<[u8; 2]>,
    /// Autonomous system number, 0 when unknown.
    pub asn: u32,
}

impl Origin {
    /// The country code as text; empty when unknown.
    pub fn country(&self) -> &str {
        self.country.as_ref().and_then(|c| std::str::from_utf8(c).ok()).unwrap_or("")
    }
}

/// A database that was asked for and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("geoip database {path}: {cause} (fix the path, or leave it empty to do without)")]
pub struct GeoIpError {
    path: PathBuf,
    cause: maxminddb::MaxMindDbError,
}

/// The two optional databases.
#[derive(Debug, Default)]
pub struct GeoIp {
    country: Option<Reader<Vec<u8>>>,
    asn: Option<Reader<Vec<u8>>>,
}

impl GeoIp {
    /// Opens the databases whose paths are not empty.
    ///
    /// # Errors
    /// When a named file cannot be read or is no database.
    pub fn open(country: &Path, asn: &Path) -> Result<Self, GeoIpError> {
        let open = |path: &Path| {
            if path.as_os_str().is_empty() {
                return Ok(None);
            }
            Reader::open_readfile(path)
                .map(Some)
                .map_err(|cause| GeoIpError { path: path.to_owned(), cause })
        };
        Ok(Self { country: open(country)?, asn: open(asn)? })
    }

    /// The reference's warning about what is missing.
    pub const fn missing(&self) -> Option<&'static str> {
        match (&self.country, &self.asn) {
            (None, None) => Some("no asn or cc db files"),
            (None, Some(_)) => Some("no cc db file"),
            (Some(_), None) => Some("no asn db file"),
            (Some(_), Some(_)) => None,
        }
    }

    /// Looks `address` up. An address without a record, of a family that the database does not
    /// have, or in a broken record, is unknown.
    pub fn origin(&self, address: IpAddr) -> Origin {
        let address = address.to_canonical();
        let country = self.country.as_ref().and_then(|reader| {
            let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
            let code = reader.lookup(address).ok()?.decode_path::<&str>(&path).ok()??;
            code.as_bytes().try_into().ok()
        });
        let asn = self.asn.as_ref().and_then(|reader| {
            let path = [PathElement::Key("autonomous_system_number")];
            reader.lookup(address).ok()?.decode_path::<u32>(&path).ok()?
        });
        Origin { country, asn: asn.unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_databases_everything_is_unknown() {
        let geoip = GeoIp::open(Path::new(""), Path::new("")).unwrap();
        assert_eq!(geoip.origin([10, 0, 0, 1].into()), Origin::default());
        assert_eq!(geoip.missing(), Some("no asn or cc db files"));
    }

    #[test]
    fn a_named_file_that_is_no_database_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cc.mmdb");
        std::fs::write(&path, "not a database").unwrap();
        let error = GeoIp::open(&path, Path::new("")).unwrap_err().to_string();
        assert!(error.contains("cc.mmdb"), "{error}");
    }
}
