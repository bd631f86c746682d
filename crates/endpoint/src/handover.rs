//! One socket, two processes: the new one reads it, and passes on what belongs to sessions that the old
//! one still has. Both send on it.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;

use crate::socket::Path;

/// Bytes before a datagram: address and port of the peer, local address; each address 16 bytes behind its
/// family.
const HEADER: usize = 17 + 2 + 17;
/// Longest message: a header and the longest datagram.
pub(crate) const MAX_MESSAGE: usize = HEADER + 65_536;

/// The old process, as the new one sees it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    socket: UnixDatagram,
    paths: HashSet<Path>,
}

impl Predecessor {
    /// Reads the list of paths that [`encode_paths`] wrote; what is none is left out.
    pub(crate) fn new(socket: UnixDatagram, paths: &[u8]) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let paths = paths.chunks_exact(HEADER).filter_map(decode_path).collect();
        Ok(Self { socket, paths })
    }

    /// Whether the old process has a session on `path`.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.paths.contains(path) || self.paths.contains(&Path { local: None, ..*path })
    }

    /// Passes a datagram on; an error means that the old process has left.
    pub(crate) fn pass(&self, path: Path, datagram: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + datagram.len());
        encode_path(&path, &mut message);
        message.extend_from_slice(datagram);
        match self.socket.send(&message) {
            // Lost like any other datagram that nobody reads in time.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}

/// Writes `paths` for [`Predecessor::new`].
pub(crate) fn encode_paths<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<u8> {
    let mut out = Vec::new();
    paths.for_each(|path| encode_path(path, &mut out));
    out
}

/// Takes a message of [`Predecessor::pass`] apart.
pub(crate) fn decode(message: &mut [u8]) -> Option<(Path, &mut [u8])> {
    let (header, datagram) = message.split_at_mut_checked(HEADER)?;
    Some((decode_path(header)?, datagram))
}

fn encode_path(path: &Path, out: &mut Vec<u8>) {
    encode_address(Some(path.peer.ip()), out);
    out.extend(path.peer.port().to_be_bytes());
    encode_address(path.local, out);
}

fn encode_address(address: Option<IpAddr>, out: &mut Vec<u8>) {
    let (family, bytes) = match address {
        None => (0, [0; 16]),
        Some(IpAddr::V4(v4)) => (4, v4.to_ipv6_mapped().octets()),
        Some(IpAddr::V6(v6)) => (6, v6.octets()),
    };
    out.push(family);
    out.extend(bytes);
}

fn decode_path(bytes: &[u8]) -> Option<Path> {
    let (peer, rest) = bytes.split_first_chunk::<17>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let local = rest.first_chunk::<17>()?;
    let peer = SocketAddr::new(decode_address(peer)?, u16::from_be_bytes(*port));
    Some(Path { peer, local: decode_address(local) })
}

fn decode_address(bytes: &[u8; 17]) -> Option<IpAddr> {
    let (family, octets) = bytes.split_first()?;
    let octets: [u8; 16] = octets.try_into().ok()?;
    match family {
        4 => Some(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]).into()),
        6 => Some(Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paths() -> Vec<Path> {
        vec![
            Path { peer: "192.0.2.1:443".parse().unwrap(), local: None },
            Path {
                peer: "[2001:db8::1]:9".parse().unwrap(),
                local: Some("2001:db8::2".parse().unwrap()),
            },
        ]
    }

    #[test]
    fn a_datagram_arrives_with_its_path() {
        let (new, old) = UnixDatagram::pair().unwrap();
        let predecessor = Predecessor::new(new, &encode_paths(paths().iter())).unwrap();
        let [first, second] = <[Path; 2]>::try_from(paths()).unwrap();
        let elsewhere = Path { local: Some("192.0.2.9".parse().unwrap()), ..first };
        assert!(predecessor.has(&first) && predecessor.has(&second) && predecessor.has(&elsewhere));
        assert!(!predecessor.has(&Path { local: None, ..second }));
        predecessor.pass(second, b"hello").unwrap();
        let mut message = vec![0; MAX_MESSAGE];
        let length = old.recv(&mut message).unwrap();
        let (path, datagram) = decode(&mut message[..length]).unwrap();
        assert_eq!((path, &*datagram), (second, &b"hello"[..]));
        drop(old);
        assert!(predecessor.pass(first, b"nobody").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&mut bytes);
        }
    }
}
