//! Rows of the detector's packet path.

use crate::measure::{Row, Side, nanoseconds};
use capture::tun::Sent;
use detector::clock::Millis;
use detector::counters::Counters;
use detector::flows::Flow;
use detector::pending::Outcome;
use detector::sessions::{Match, PackedKey, Sessions};
use detector::worker::{Bounds, Endpoints, Exits, Shared, TestString, Worker};
use etherparse::PacketBuilder;
use packet::{Frame, Ip, Transport};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use session::{Proto, SessionKey};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Distinct frames: together far larger than the near caches.
pub(crate) const FRAMES: usize = 64 * 1024;
/// Frames that a source hands over at one time.
const BURST: usize = 32;
/// Bytes of each frame: a short segment, the shortest that links carry.
const FRAME: usize = 60;
const SESSIONS: u32 = 100_000;
/// Flows that are followed.
const TRACKED: u32 = 100_000;
/// Look-ups of one round, half of them of sessions.
pub(crate) const LOOKUPS: u64 = 4000;

/// Bytes from the start of one frame to that of the next: a cache line each.
const STRIDE: usize = 64;

/// Frames of no interest to distinct addresses, on flows that are not followed.
#[derive(Clone)]
struct Frames {
    memory: Rc<[u8]>,
    /// Where the first frame starts, so that each starts a cache line.
    first: usize,
}

impl Frames {
    /// Frames to these ports in turn.
    fn to(ports: &[u16]) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(443);
        let mut memory: Rc<[u8]> = vec![0; FRAMES * STRIDE + 64].into();
        let first = memory.as_ptr().align_offset(64);
        let slots = Rc::make_mut(&mut memory)[first..].chunks_exact_mut(STRIDE);
        for (i, mut slot) in slots.enumerate() {
            let port = ports[i % ports.len()];
            let (source, destination) = (rng.next_u32(), rng.next_u32());
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4(source.to_be_bytes(), destination.to_be_bytes(), 64)
                .tcp(rng.next_u32() as u16, port, 7, 1024)
                .ack(9)
                .write(&mut slot, &[0x55; FRAME - 54])
                .expect("a frame fits its slot");
        }
        Self { memory, first }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.memory[self.first..].chunks_exact(STRIDE).map(|slot| &slot[..FRAME])
    }
}

fn session_key(i: u32) -> SessionKey {
    let phantom = Ipv4Addr::from(0xc07a_0000 | (i & 0xffff));
    let client = Ipv4Addr::from(i.wrapping_mul(2_654_435_761));
    SessionKey { proto: Proto::Tcp, phantom: phantom.into(), client: Some(client), dst_port: 443 }
}

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

/// A flow that is followed: the addresses and the client's port.
fn tracked_flow(i: u32) -> ([u8; 4], [u8; 4], u16) {
    let source = i.wrapping_mul(0x9e37_79b1) ^ 0x5bd1_e995;
    let destination = i.wrapping_mul(0x85eb_ca6b);
    (source.to_be_bytes(), destination.to_be_bytes(), (i >> 3) as u16)
}

/// This many sessions.
fn sessions(count: u32) -> Sessions {
    let sessions = Sessions::new();
    for i in 0..count {
        sessions.upsert(&session_key(i), Duration::from_secs(3600), Millis(0));
    }
    sessions
}

/// A worker with 100,000 sessions that follows `tracked` flows; one round is all frames.
fn round(frames: Frames, tracked: u32) -> impl FnMut() {
    let sessions = Arc::new(sessions(SESSIONS));
    let shared =
        Shared { sessions, filter: Arc::default(), counters: Arc::new(Counters::default()) };
    let mut worker = Worker::new(shared, 0, Bounds::default(), Closed);
    for (source, destination, port) in (0..tracked).map(tracked_flow) {
        worker.flows().start(&Flow::V4 { source, destination, port }, Millis(0));
    }
    move || {
        let mut frames = frames.iter();
        loop {
            let burst: [&[u8]; BURST] = std::array::from_fn(|_| frames.next().unwrap_or_default());
            if burst[0].is_empty() {
                break;
            }
            worker.packets(&burst, Millis(1));
        }
    }
}

fn ours(frames: Frames, tracked: u32) -> Side {
    nanoseconds(FRAMES, round(frames, tracked))
}

/// Packets of no interest, as in the row of that name.
pub(crate) fn uninteresting_round() -> impl FnMut() {
    round(Frames::to(&[80, 443]), 0)
}

/// Packets to port 443 of flows that are not followed, as in the row of that name.
pub(crate) fn untracked_round() -> impl FnMut() {
    round(Frames::to(&[443]), TRACKED)
}

/// Looks up every session, and as many phantoms that have none.
pub(crate) fn lookups() -> impl FnMut() {
    let count = LOOKUPS as u32 / 2;
    let sessions = sessions(count);
    let keys: Vec<PackedKey> = (0..2 * count).map(|i| PackedKey::from(&session_key(i))).collect();
    move || {
        let found = keys.iter().filter(|key| sessions.lookup(**key, Millis(1)) == Match::Live);
        assert_eq!(found.count(), count as usize, "a session was not found");
    }
}

/// The reference's lookups: a text key per packet, twice for port 443, and there the set of
/// `tracked` flows.
fn replica(frames: Frames, tracked: u32) -> Side {
    let text = |source: IpAddr, destination: IpAddr, port: u16| {
        format!("t-{source}-{destination}-:{port}")
    };
    let table: HashMap<String, u128> = (0..SESSIONS)
        .map(session_key)
        .map(|key| {
            let client = key.client.unwrap_or(Ipv4Addr::UNSPECIFIED);
            (text(client.into(), key.phantom, key.dst_port), 0)
        })
        .collect();
    let table = RwLock::new(table);
    let flows: HashSet<(IpAddr, IpAddr, u16)> = (0..tracked)
        .map(tracked_flow)
        .map(|(source, destination, port)| (source.into(), destination.into(), port))
        .collect();
    nanoseconds(FRAMES, move || {
        for frame in frames.iter() {
            let Ok(frame) = Frame::parse(frame, 0) else { continue };
            let Transport::Tcp(tcp) = frame.transport() else { continue };
            let port = tcp.destination_port();
            let (source, destination) = (frame.ip.source(), frame.ip.destination());
            for _ in 0..1 + usize::from(port == 443) {
                let key = text(source, destination, port);
                let table = table.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                black_box(table.get(&key));
            }
            if port == 443 && tracked > 0 {
                black_box(flows.contains(&(source, destination, tcp.source_port())));
            }
        }
    })
}

/// A packet of no interest among 64 Ki distinct frames, half of them to port 80 and half to port
/// 443 on flows that are not followed, with 100,000 sessions.
pub(crate) fn uninteresting() -> Row {
    let frames = Frames::to(&[80, 443]);
    Row {
        unit: "ns",
        baseline_name: "replica of the reference's lookup",
        ours: ours(frames.clone(), 0),
        baseline: Ok(replica(frames, 0)),
        // Twice either way of the mean of 390-417 ns (port 80) and 732-753 ns (port 443).
        plausible: Some((280.0, 1150.0)),
    }
}

/// A packet to port 443 of a flow that is not followed while 100,000 others are, with 100,000
/// sessions.
pub(crate) fn untracked() -> Row {
    let frames = Frames::to(&[443]);
    Row {
        unit: "ns",
        baseline_name: "replica of the reference's lookups",
        ours: ours(frames.clone(), TRACKED),
        baseline: Ok(replica(frames, TRACKED)),
        // Twice either way of 732-753 ns.
        plausible: Some((365.0, 1500.0)),
    }
}

/// The same packet against the least that any lookup costs.
pub(crate) fn floor() -> Row {
    let lines = 64 * 1024 * 1024 / 64;
    let memory: Vec<[u64; 8]> = (0..lines as u64).map(|i| [i; 8]).collect();
    let frames = Frames::to(&[80, 443]);
    let ours = ours(frames.clone(), 0);
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let order: Vec<usize> = (0..FRAMES).map(|_| rng.next_u32() as usize % lines).collect();
    let baseline = nanoseconds(FRAMES, move || {
        for (frame, &line) in frames.iter().zip(&order) {
            let mut hasher = DefaultHasher::new();
            if let Ok(Frame { ip: Ip::V4(ip), .. }) = Frame::parse(frame, 0) {
                hasher.write(&ip.addresses());
                hasher.write(&frame[34..38]);
            }
            black_box(memory[line][0] ^ hasher.finish());
        }
    });
    Row {
        unit: "ns",
        baseline_name: "one cold cache line and one SipHash-1-3 of 12 bytes",
        ours,
        baseline: Ok(baseline),
        plausible: None,
    }
}
