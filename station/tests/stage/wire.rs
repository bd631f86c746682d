//! Packets into a tun device, and what leaves by the uplink.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use capture::tun::Tun;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

/// A TCP segment as it leaves the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
}

/// Listens on the peer's end of the uplink from now on.
pub(crate) fn listen() -> Receiver<Segment> {
    let (sender, receiver) = channel();
    let (ready, started) = channel();
    std::thread::spawn(move || {
        super::stage::enter_peer();
        let mut source = capture::open("out0").unwrap();
        ready.send(()).unwrap();
        loop {
            let mut note = |frame: capture::Frame<'_>| {
                if let Some(segment) = read(frame.data) {
                    // The test may have ended.
                    let _ = sender.send(segment);
                }
            };
            source.burst(64, Duration::from_millis(20), &mut note).unwrap();
        }
    });
    started.recv().unwrap();
    receiver
}

fn read(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    Some(Segment {
        source: (from, tcp.source_port()).into(),
        destination: (to, tcp.destination_port()).into(),
        syn: tcp.syn(),
        ack: tcp.ack(),
    })
}

/// Sends a SYN from `client` to `phantom` as a detector does.
pub(crate) fn syn(tun: &Tun, client: SocketAddr, phantom: SocketAddr) {
    let packet = match (client.ip(), phantom.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 60),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 60),
        _ => panic!("two families: {client} {phantom}"),
    };
    let packet = packet.tcp(client.port(), phantom.port(), 1000, 64_000).syn();
    let mut bytes = Vec::new();
    packet.write(&mut bytes, &[]).unwrap();
    tun.send(&bytes).unwrap();
}

/// The first segment to `client` within `limit`.
pub(crate) fn answer(
    heard: &Receiver<Segment>,
    client: SocketAddr,
    limit: Duration,
) -> Option<Segment> {
    let start = Instant::now();
    while let Some(left) = limit.checked_sub(start.elapsed()) {
        match heard.recv_timeout(left) {
            Ok(segment) if segment.destination == client => return Some(segment),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}
