//! The STUN server of the demo (RFC 5389): tells clients of the channels that hide their address
//! what it is.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// Port of STUN.
const PORT: u16 = 3478;
const HEAD: usize = 20;
const MAGIC: u32 = 0x2112_a442;

/// Answers on `address` of the decoy's node for as long as the process lives.
pub(super) fn start(address: Ipv4Addr) -> io::Result<SocketAddr> {
    let socket = lab::Node::Decoy.run(|| UdpSocket::bind((address, PORT)))?;
    let server = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut request = [0; 1500];
        // Errors are those of clients that have gone.
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut request) else { continue };
            if let Some(response) = respond(&request[..length], peer) {
                let _ = socket.send_to(&response, peer);
            }
        }
    });
    Ok(server)
}

/// The binding response to a binding request of `peer`.
fn respond(request: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
    let head = request.first_chunk::<HEAD>()?;
    let SocketAddr::V4(peer) = peer else { return None };
    if head[..2] != [0, 1] || head[4..8] != MAGIC.to_be_bytes() {
        return None;
    }
    let mut response = vec![1, 1, 0, 12];
    response.extend_from_slice(&head[4..]);
    // XOR-MAPPED-ADDRESS of 8 bytes, IPv4.
    response.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    response.extend_from_slice(&(peer.port() ^ (MAGIC >> 16) as u16).to_be_bytes());
    response.extend_from_slice(&(u32::from(*peer.ip()) ^ MAGIC).to_be_bytes());
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response of RFC 5769, 2.2, without its software, integrity and fingerprint.
    #[test]
    fn the_address_is_told() {
        let mut request = vec![0, 1, 0, 0];
        request.extend_from_slice(&MAGIC.to_be_bytes());
        let transaction = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        request.extend_from_slice(&transaction);
        let response = respond(&request, "192.0.2.1:32853".parse().unwrap()).unwrap();
        assert_eq!(response[8..20], transaction);
        assert_eq!(response[20..], *b"\0\x20\0\x08\0\x01\xa1\x47\xe1\x12\xa6\x43");
        assert_eq!(respond(&request[..19], "192.0.2.1:1".parse().unwrap()), None);
        request[0] = 1;
        assert_eq!(respond(&request, "192.0.2.1:1".parse().unwrap()), None);
    }
}
