//! The detector's packet path.

use crate::{Round, frames};
use capture::tun::Sent;
use detector::clock::Millis;
use detector::counters::Counters;
use detector::flows::Flow;
use detector::pending::Outcome;
use detector::sessions::{Match, PackedKey, Sessions};
use detector::worker::{Bounds, Endpoints, Exits, Shared, TestString, Worker};
use session::{Proto, SessionKey};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Packets of one round.
pub(crate) const PACKETS: u64 = 4096;
/// Frames that a source hands over at one time.
const BURST: usize = 32;
/// Look-ups of one round, half of them of sessions.
pub(crate) const LOOKUPS: u64 = 2 * SESSIONS as u64;
const SESSIONS: u32 = 2000;
/// Flows that are followed.
const TRACKED: u32 = 2000;

/// Exits of a worker that is not expected to use them.
struct Closed;

impl Exits for Closed {
    fn forward(&mut self, _: &[u8]) {}

    fn finish(&mut self) -> Sent {
        Sent::default()
    }

    fn candidate(&mut self, _: Endpoints, _: &[u8]) -> bool {
        false
    }

    fn hold(&mut self, _: PackedKey, _: &[u8], _: Millis) -> Outcome {
        Outcome::Ignored
    }

    fn test_string(&mut self, _: TestString, _: SocketAddr, _: SocketAddr) {}
}

/// Session number `i`, to a phantom of its own.
fn session_key(i: u32) -> SessionKey {
    SessionKey {
        proto: Proto::Tcp,
        phantom: Ipv4Addr::from(0xc07a_0000 | i).into(),
        client: Some(Ipv4Addr::from(i.wrapping_mul(2_654_435_761))),
        dst_port: 443,
    }
}

fn sessions() -> Sessions {
    let sessions = Sessions::new();
    for i in 0..SESSIONS {
        sessions.upsert(&session_key(i), Duration::from_secs(3600), Millis(0));
    }
    sessions
}

/// Packets of no interest, half of them to port 80 and half to port 443 on flows that are not followed.
pub(crate) fn uninteresting() -> Result<Round, String> {
    Ok(packets([80, 443], 0))
}

/// Packets to port 443 on flows that are not followed while others are.
pub(crate) fn untracked() -> Result<Round, String> {
    Ok(packets([443, 443], TRACKED))
}

fn packets(ports: [u16; 2], tracked: u32) -> Round {
    let shared = Shared {
        sessions: Arc::new(sessions()),
        filter: Arc::default(),
        counters: Arc::new(Counters::default()),
    };
    let mut worker = Worker::new(shared, 0, Bounds::default(), Closed);
    for i in 0..tracked {
        let (source, destination) = (i.to_be_bytes(), (!i).to_be_bytes());
        worker.flows().start(&Flow::V4 { source, destination, port: 7 }, Millis(0));
    }
    let frames: Vec<Vec<u8>> = (0..PACKETS as u32)
        .map(|n| frames::segment(n + 1, ports[n as usize % ports.len()]))
        .collect();
    Box::new(move || {
        for burst in frames.chunks_exact(BURST) {
            let burst: [&[u8]; BURST] = std::array::from_fn(|i| burst[i].as_slice());
            worker.packets(&burst, Millis(1));
        }
    })
}

/// Looks up every session, and as many phantoms that have none.
pub(crate) fn lookup() -> Result<Round, String> {
    let sessions = sessions();
    let keys: Vec<PackedKey> =
        (0..2 * SESSIONS).map(|i| PackedKey::from(&session_key(i))).collect();
    Ok(Box::new(move || {
        let found = keys.iter().filter(|key| sessions.lookup(**key, Millis(1)) == Match::Live);
        assert_eq!(found.count(), SESSIONS as usize, "a session was not found");
    }))
}
