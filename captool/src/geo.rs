//! Where a client is: AS number, country, and the prefix that its network has in the database.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::{PathElement, Reader};

/// What the databases say of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// AS number, 0 when unknown.
    pub asn: u32,
    /// Country code, empty when unknown.
    pub country: String,
    /// Length of the prefix of the client's network; 0 when unknown, so that nothing of its address is
    /// kept.
    pub prefix_len: u8,
}

/// The two databases.
#[derive(Debug)]
pub struct Geo {
    asn: Reader<Vec<u8>>,
    country: Reader<Vec<u8>>,
}

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{option} {path}: {cause} (name a GeoLite2 database with {option})", path = path.display())]
pub struct GeoError {
    option: &'static str,
    path: PathBuf,
    cause: maxminddb::MaxMindDbError,
}

impl Geo {
    /// Opens both.
    ///
    /// # Errors
    /// When one cannot be read or is no database.
    pub fn open(asn: &Path, country: &Path) -> Result<Self, GeoError> {
        let open = |option, path: &Path| {
            Reader::open_readfile(path).map_err(|cause| GeoError {
                option,
                path: path.to_owned(),
                cause,
            })
        };
        Ok(Self { asn: open("--asn-db", asn)?, country: open("--cc-db", country)? })
    }

    /// Looks `client` up.
    pub fn place(&self, client: IpAddr) -> Place {
        let mut place = Place { asn: 0, country: String::new(), prefix_len: 0 };
        if let Ok(found) = self.asn.lookup(client) {
            let path = [PathElement::Key("autonomous_system_number")];
            if let Ok(Some(asn)) = found.decode_path::<u32>(&path) {
                place.asn = asn;
                place.prefix_len = found.network().map_or(0, |network| network.prefix());
            }
        }
        if let Ok(found) = self.country.lookup(client) {
            let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
            if let Ok(Some(code)) = found.decode_path::<String>(&path) {
                place.country = code;
            }
        }
        place
    }
}
