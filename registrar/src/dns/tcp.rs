//! Queries over TCP (RFC 7766): each behind its length in two bytes.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use registration::dns::Over;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::DnsService;
use crate::metrics::Counter;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of one address at one time; large resolvers use a few.
const MAX_PER_PEER: usize = 64;
/// Time for one query to arrive, from the last reply on, and for one reply to leave.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest query; a registration needs less than 300 bytes.
const MAX_QUERY: usize = 4096;

/// Connections by peer.
#[derive(Debug, Default)]
struct Peers(Mutex<(usize, HashMap<IpAddr, usize>)>);

impl Peers {
    fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let mut table = self.0.lock();
        let (all, by_peer) = &mut *table;
        let own = by_peer.get(&peer).copied().unwrap_or(0);
        if *all >= MAX_CONNECTIONS || own >= MAX_PER_PEER {
            return None;
        }
        *all += 1;
        by_peer.insert(peer, own + 1);
        Some(Seat { peers: Arc::clone(self), peer })
    }
}

/// The place of one connection.
struct Seat {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.peers.0.lock();
        let (all, by_peer) = &mut *table;
        *all -= 1;
        if let Some(own) = by_peer.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

/// Answers connections of `listener` for ever.
pub(super) async fn serve(service: Arc<DnsService>, listener: Arc<TcpListener>) {
    let peers = Arc::new(Peers::default());
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or the peer left while it waited.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(seat) = peers.enter(peer.ip()) else {
            service.processor().metrics.add(Counter::ConnectionsRefused);
            continue;
        };
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            if connection(&service, stream, seat.peer).await.is_err_and(|e| timed_out(&e)) {
                service.processor().metrics.add(Counter::ConnectionsTimedOut);
            }
            drop(seat);
        });
    }
}

fn timed_out(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

async fn connection(service: &DnsService, mut stream: TcpStream, peer: IpAddr) -> io::Result<()> {
    // Replies are small and whole; waiting for more bytes would only delay them.
    stream.set_nodelay(true)?;
    let mut query = Vec::new();
    while let Some(length) = timeout(LIMIT, read(&mut stream, &mut query)).await?? {
        // Queries that get no reply over UDP get none here either.
        if let Some(reply) = service.answer(&query[..length], Over::Tcp, peer) {
            let length = u16::try_from(reply.len()).unwrap_or(0).to_be_bytes();
            let framed = [&length[..], &reply].concat();
            timeout(LIMIT, stream.write_all(&framed)).await??;
        }
    }
    Ok(())
}

/// Reads one query; `None` when the peer is done or sends one that is too long.
async fn read(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        return Ok(None);
    }
    query.resize(length, 0);
    stream.read_exact(query).await?;
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_every_place() {
        let peers = Arc::new(Peers::default());
        let one = IpAddr::from([192, 0, 2, 1]);
        let mut seats: Vec<Seat> = (0..MAX_PER_PEER).map(|_| peers.enter(one).unwrap()).collect();
        assert!(peers.enter(one).is_none());
        seats.pop();
        seats.push(peers.enter(one).unwrap());
        for last in 0..255u8 {
            while let Some(seat) = peers.enter(IpAddr::from([192, 0, 3, last])) {
                seats.push(seat);
            }
        }
        assert_eq!(seats.len(), MAX_CONNECTIONS);
        seats.clear();
        assert_eq!(peers.0.lock().0, 0);
        assert!(peers.0.lock().1.is_empty());
    }
}
