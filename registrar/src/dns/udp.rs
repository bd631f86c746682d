//! Queries over UDP.

use std::sync::Arc;
use std::time::Duration;

use registration::dns::Over;
use tokio::net::UdpSocket;

use super::DnsService;

/// Longest query that is read; what is longer is cut, as in the reference.
const BUFFER: usize = 4096;

/// Answers queries of `socket` for ever.
pub(super) async fn work(service: Arc<DnsService>, socket: Arc<UdpSocket>) {
    let mut buffer = [0; BUFFER];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => {
                let reply = service.answer(&buffer[..length], Over::Udp, peer.ip());
                if let Some(reply) = reply {
                    // A reply that cannot be sent is lost like any other datagram.
                    let _ = socket.send_to(&reply, peer).await;
                }
            }
            // An error of the socket belongs to an earlier datagram, or memory is short.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
