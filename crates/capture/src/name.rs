//! Names of sources.

use std::path::PathBuf;
use std::str::FromStr;

/// What a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// An interface, read through `AF_PACKET`.
    Interface(String),
    /// A capture file.
    File(PathBuf),
}

/// A text that names no source of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("no source given; expected an interface, afp:INTERFACE or pcap:FILE")]
    Empty,
    /// An option was taken for a source.
    #[error("found {0:?} where a source is expected; is a variable empty?")]
    Option(String),
    /// A back end that this version does not have.
    #[error(
        "{0}: this version captures with AF_PACKET and from files; use afp:INTERFACE or pcap:FILE"
    )]
    Backend(String),
    /// Not an interface name.
    #[error("{0:?} is no interface name: 1 to 15 bytes without slash or space are expected")]
    Interface(String),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // The reference's start script puts `zc:` before every element of CJ_IFACE; without PF_RING
        // it means the same as nothing (`spec/ingest.md` 8.2).
        let text = text.strip_prefix("zc:").unwrap_or(text);
        let text = text.strip_prefix("afp:").unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.starts_with('-') {
            return Err(NameError::Option(text.to_owned()));
        }
        if let Some(path) = text.strip_prefix("pcap:") {
            return if path.is_empty() {
                Err(NameError::Empty)
            } else {
                Ok(Self::File(path.into()))
            };
        }
        for backend in ["xdp:", "vde:"] {
            if text.starts_with(backend) {
                return Err(NameError::Backend(text.to_owned()));
            }
        }
        if text.len() > 15 || text.contains(['/', ' ', '\0']) {
            return Err(NameError::Interface(text.to_owned()));
        }
        Ok(Self::Interface(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let interface = |name: &str| Ok(Name::Interface(name.to_owned()));
        assert_eq!("eth0".parse(), interface("eth0"));
        assert_eq!("afp:eth0".parse(), interface("eth0"));
        assert_eq!("zc:afp:eth0".parse(), interface("eth0"));
        assert_eq!("pcap:/tmp/a.pcap".parse(), Ok(Name::File("/tmp/a.pcap".into())));
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert_eq!("pcap:".parse::<Name>(), Err(NameError::Empty));
        assert!(matches!("-c".parse::<Name>(), Err(NameError::Option(_))));
        assert_eq!("zc:eth0".parse(), interface("eth0"));
        assert!(matches!("xdp:eth0".parse::<Name>(), Err(NameError::Backend(_))));
        assert!(matches!("a-name-of-16-byte".parse::<Name>(), Err(NameError::Interface(_))));
    }
}
