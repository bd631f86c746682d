//! The client's own address, asked from a STUN server (RFC 5389, `spec/registrar.md` 11.1).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Server of released clients when the ClientConf names none.
pub(crate) const DEFAULT_SERVER: &str = "stun.voip.blackberry.com:3478";
/// Waits before a request is sent again, or given up.
const WAITS: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(2),
];

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_RESPONSE: u16 = 0x0101;
const MAGIC: u32 = 0x2112_a442;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const HEAD: usize = 20;

/// The STUN server cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "STUN server {server}: {cause}; name another one with --stun-server, or the address itself with \
     --client-address"
)]
pub struct StunError {
    server: String,
    cause: io::Error,
}

/// How a client learns the address that the registration carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAddress {
    /// From this STUN server, or from the ClientConf's.
    Stun(Option<String>),
    /// It is known.
    Known(IpAddr),
}

/// The address as `server` sees it; `None` when it does not answer.
///
/// # Errors
/// When the server's name or address cannot be used at all.
pub(crate) async fn mapped_address(server: &str) -> Result<Option<Ipv4Addr>, StunError> {
    let failed = |cause| StunError { server: server.to_owned(), cause };
    let found = tokio::net::lookup_host(server).await.map_err(failed)?.find(SocketAddr::is_ipv4);
    let found = found.ok_or_else(|| failed(io::Error::other("it has no IPv4 address")))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(failed)?;
    Ok(mapped(&socket, found).await.and_then(|address| match address.ip() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }))
}

/// The address of `socket` as the server at `server` sees it; `None` when it does not answer.
pub(crate) async fn mapped(socket: &UdpSocket, server: SocketAddr) -> Option<SocketAddr> {
    let mut transaction = [0; 12];
    rand::rng().fill_bytes(&mut transaction);
    let mut request = Vec::with_capacity(HEAD);
    request.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    request.extend_from_slice(&[0; 2]);
    request.extend_from_slice(&MAGIC.to_be_bytes());
    request.extend_from_slice(&transaction);
    for wait in WAITS {
        if socket.send_to(&request, server).await.is_err() {
            continue;
        }
        let answer = async {
            let mut reply = [0; 1500];
            loop {
                let (length, peer) = socket.recv_from(&mut reply).await.ok()?;
                if peer != server {
                    continue;
                }
                if let Some(address) = read(&reply[..length], &transaction) {
                    return Some(address);
                }
            }
        };
        if let Ok(Some(address)) = timeout(wait, answer).await {
            return Some(address);
        }
    }
    None
}

/// The mapped address in a response to `transaction`.
fn read(reply: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let head = reply.first_chunk::<HEAD>()?;
    let u16_at =
        |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    if u16_at(head, 0)? != BINDING_RESPONSE
        || head[4..8] != MAGIC.to_be_bytes()
        || head[8..] != transaction[..]
    {
        return None;
    }
    let mut rest = reply[HEAD..].get(..usize::from(u16_at(head, 2)?))?;
    while let (Some(kind), Some(length)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let value = rest.get(4..4 + usize::from(length))?;
        if kind == XOR_MAPPED_ADDRESS {
            let port = u16_at(value, 2)? ^ (MAGIC >> 16) as u16;
            let ip: IpAddr = match value.get(1)? {
                1 => {
                    let bits = u32::from_be_bytes(value.get(4..8)?.try_into().ok()?);
                    Ipv4Addr::from(bits ^ MAGIC).into()
                }
                2 => {
                    let mut mask = [0; 16];
                    mask[..4].copy_from_slice(&MAGIC.to_be_bytes());
                    mask[4..].copy_from_slice(transaction);
                    let bits = u128::from_be_bytes(value.get(4..20)?.try_into().ok()?);
                    Ipv6Addr::from(bits ^ u128::from_be_bytes(mask)).into()
                }
                _ => return None,
            };
            return Some(SocketAddr::new(ip, port));
        }
        // Attributes are padded to a multiple of four.
        rest = rest.get(4 + usize::from(length).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one request with an odd attribute before the address.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut request = [0; 100];
            let (length, peer) = socket.recv_from(&mut request).await.unwrap();
            assert_eq!(length, HEAD);
            let mut reply = b"\x01\x01\0\x14".to_vec();
            reply.extend_from_slice(&request[4..20]);
            reply.extend_from_slice(b"\x80\x22\0\x03abc\0");
            reply.extend_from_slice(b"\0\x20\0\x08\0\x01\0\0");
            let IpAddr::V4(v4) = peer.ip() else { panic!("{peer}") };
            reply.extend_from_slice(&(u32::from(v4) ^ MAGIC).to_be_bytes());
            socket.send_to(b"junk", peer).await.unwrap();
            socket.send_to(&reply, peer).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn the_mapped_address_is_read() {
        let server = server().await.to_string();
        assert_eq!(mapped_address(&server).await.unwrap(), Some(Ipv4Addr::LOCALHOST));
        let error = mapped_address("no-port").await.unwrap_err().to_string();
        assert!(error.contains("--stun-server"), "{error}");
    }

    #[test]
    fn cut_replies_are_no_answer() {
        let mut reply = b"\x01\x01\0\x0c\x21\x12\xa4\x42".to_vec();
        reply.extend_from_slice(&[7; 12]);
        reply.extend_from_slice(b"\0\x20\0\x08\0\x01\0\0\x21\x12\xa4\x43");
        assert_eq!(read(&reply, &[7; 12]), Some("0.0.0.1:8466".parse().unwrap()));
        let mut v6 = b"\x01\x01\0\x18\x21\x12\xa4\x42".to_vec();
        v6.extend_from_slice(&[7; 12]);
        v6.extend_from_slice(b"\0\x20\0\x14\0\x02\x31\x72\x21\x12\xa4\x42");
        v6.extend_from_slice(&[7; 11]);
        v6.push(6);
        assert_eq!(read(&v6, &[7; 12]), Some("[::1]:4192".parse().unwrap()));
        assert_eq!(read(&reply, &[8; 12]), None);
        for length in 0..reply.len() {
            assert_eq!(read(&reply[..length], &[7; 12]), None);
        }
    }
}
