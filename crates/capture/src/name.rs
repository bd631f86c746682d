//! Names of sources.

use std::path::PathBuf;
use std::str::FromStr;

use crate::XdpName;

/// What a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// An interface, read as well as it can be.
    Auto(String),
    /// An interface, read through `AF_PACKET`.
    Interface(String),
    /// An interface, read through `AF_XDP`.
    Xdp(XdpName),
    /// A capture file.
    File(PathBuf),
}

/// A text that names no source of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error(
        "no source given; expected an interface, afp:INTERFACE, xdp:INTERFACE[@QUEUE] or pcap:FILE"
    )]
    Empty,
    /// An option was taken for a source.
    #[error("found {0:?} where a source is expected; is a variable empty?")]
    Option(String),
    /// A back end that this version does not have.
    #[error(
        "{0}: this version captures with AF_PACKET, AF_XDP and from files; use afp:INTERFACE, \
         xdp:INTERFACE or pcap:FILE"
    )]
    Backend(String),
    /// What follows the @ is no number of a receive queue.
    #[error("{0}: expected the number of a receive queue after @, as in xdp:eth0@1")]
    Queue(String),
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
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.starts_with('-') {
            return Err(NameError::Option(text.to_owned()));
        }
        match text.split_once(':') {
            Some((_, "")) => Err(NameError::Empty),
            Some(("pcap", path)) => Ok(Self::File(path.into())),
            Some(("afp", name)) => interface(name).map(Self::Interface),
            Some(("xdp", name)) => {
                let (name, queue) = match name.split_once('@') {
                    Some((name, queue)) => {
                        let queue = queue.parse().map_err(|_| NameError::Queue(text.to_owned()))?;
                        (name, Some(queue))
                    }
                    None => (name, None),
                };
                Ok(Self::Xdp(XdpName { interface: interface(name)?, queue }))
            }
            Some(("vde", _)) => Err(NameError::Backend(text.to_owned())),
            _ => interface(text).map(Self::Auto),
        }
    }
}

fn interface(name: &str) -> Result<String, NameError> {
    if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '\0']) {
        return Err(NameError::Interface(name.to_owned()));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let interface = |name: &str| Ok(Name::Interface(name.to_owned()));
        let auto = |name: &str| Ok(Name::Auto(name.to_owned()));
        let xdp = |name: &str, queue| Ok(Name::Xdp(XdpName { interface: name.to_owned(), queue }));
        assert_eq!("eth0".parse(), auto("eth0"));
        assert_eq!("afp:eth0".parse(), interface("eth0"));
        assert_eq!("zc:afp:eth0".parse(), interface("eth0"));
        assert_eq!("pcap:/tmp/a.pcap".parse(), Ok(Name::File("/tmp/a.pcap".into())));
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert_eq!("pcap:".parse::<Name>(), Err(NameError::Empty));
        assert!(matches!("-c".parse::<Name>(), Err(NameError::Option(_))));
        assert_eq!("zc:eth0".parse(), auto("eth0"));
        // An alias of old has a colon in its name.
        assert_eq!("eth0:1".parse(), auto("eth0:1"));
        assert_eq!("xdp:eth0".parse(), xdp("eth0", None));
        assert_eq!("zc:xdp:eth0@3".parse(), xdp("eth0", Some(3)));
        assert!(matches!("xdp:eth0@x".parse::<Name>(), Err(NameError::Queue(_))));
        assert!(matches!("xdp:@1".parse::<Name>(), Err(NameError::Interface(_))));
        assert!(matches!("vde:/tmp/x".parse::<Name>(), Err(NameError::Backend(_))));
        assert!(matches!("a-name-of-16-byte".parse::<Name>(), Err(NameError::Interface(_))));
    }
}
