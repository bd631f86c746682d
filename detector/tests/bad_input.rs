//! Truncated and mutated frames: no panic, bounded memory, a counter.

#[allow(dead_code)]
mod frames;

use arc_swap::ArcSwap;
use detector::candidates::{Bell, Candidates};
use detector::checker::{Checkers, Inlet};
use detector::clock::Millis;
use detector::counters::Counters;
use detector::outlets::{Discard, Outlets, Passage};
use detector::pending::Pending;
use detector::sessions::Sessions;
use detector::worker::{Bounds, Shared, Worker};
use frames::{tcp4, tcp6, udp4};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use session::{Proto, SessionKey};
use std::sync::Arc;
use std::time::Duration;
use tag::TagChecker;

const BOUNDS: Bounds = Bounds { flows: 1024, straddling: 64 };

struct Bench {
    worker: Worker<Outlets>,
    checkers: Checkers,
    counters: Arc<Counters>,
}

fn bench(tunnel_offset: usize) -> Bench {
    let sessions = Arc::new(Sessions::new());
    let counters = Arc::new(Counters::default());
    let bell = Arc::new(Bell::default());
    let candidates = Arc::new(Candidates::new(Arc::clone(&bell)));
    let inlet = Inlet { candidates: Arc::clone(&candidates), counters: Arc::clone(&counters) };
    let key = keys::StationKey::from_private(&[0x11; 32]).unwrap();
    let checker = Arc::new(ArcSwap::from_pointee(TagChecker::new(vec![key])));
    let checkers = Checkers::new(checker, vec![inlet], bell, Box::new(|_| ()));
    let outlets = Outlets {
        worker: 0,
        queue: 0,
        sink: Arc::new(Discard),
        candidates,
        pending: Arc::new(Pending::default()),
        sessions: Arc::clone(&sessions),
        patient: false,
        passage: Passage::default(),
    };
    for (proto, phantom) in [(Proto::Tcp, "192.122.190.7"), (Proto::Udp, "2001:db8::7")] {
        let phantom = phantom.parse().unwrap();
        let key = SessionKey::new(proto, phantom, [203, 0, 113, 9].into(), 443).unwrap();
        sessions.upsert(&key, Duration::from_secs(600), Millis(0));
    }
    let shared = Shared { sessions, filter: Arc::default(), counters: Arc::clone(&counters) };
    Bench { worker: Worker::new(shared, tunnel_offset, BOUNDS, outlets), checkers, counters }
}

fn samples() -> Vec<Vec<u8>> {
    let (client, phantom, decoy) = ([203, 0, 113, 9], [192, 122, 190, 7], [198, 51, 100, 1]);
    let vlan = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    let record = [&[0x17, 3, 3, 2, 0][..], &[0xa5; 512]].concat();
    let plain = vec![
        tcp4((client, 4000), (decoy, 443), 0x02, &[]),
        tcp4((client, 4000), (decoy, 443), 0x18, &[0x16, 3, 1, 0, 1, 0]),
        tcp4((client, 4000), (decoy, 443), 0x18, &record),
        tcp4((client, 4000), (decoy, 443), 0x11, &[]),
        tcp4((client, 4000), (phantom, 443), 0x18, b"to a phantom"),
        tcp6(([7; 16], 4000), ([8; 16], 443), 0x02, &[]),
        tcp6(([7; 16], 4000), ([8; 16], 443), 0x18, &record),
        udp4((client, 4000), (decoy, 53), detector::test_strings::UDP),
    ];
    let tagged: Vec<_> = plain.iter().map(|frame| vlan(frame)).collect();
    plain.into_iter().chain(tagged).collect()
}

#[test]
fn frames_of_every_length() {
    for offset in [0, 42] {
        let mut bench = bench(offset);
        let mut sent = 0;
        for frame in samples() {
            for len in 0..=frame.len() {
                bench.worker.packet(&frame[..len], Millis(sent));
                bench.worker.finish();
                sent += 1;
            }
            while bench.checkers.check_some(0, &mut Vec::new()) {}
        }
        let counters = bench.counters.snapshot();
        assert_eq!(counters.packets, sent);
        assert!(counters.truncated > 100, "{counters:?}");
    }
}

#[test]
fn a_million_mutated_packets() {
    let mut bench = bench(0);
    let mut rng = ChaCha20Rng::seed_from_u64(2026);
    let samples = samples();
    let mut batch = Vec::new();
    for i in 0..1_000_000u64 {
        let mut frame = samples[rng.next_u32() as usize % samples.len()].clone();
        for _ in 0..1 + rng.next_u32() % 4 {
            let at = rng.next_u32() as usize % frame.len();
            // Headers matter most, so half of the changes go there.
            let at = if rng.next_u32() & 1 == 0 { at % 60.min(frame.len()) } else { at };
            frame[at] = rng.next_u32() as u8;
        }
        if rng.next_u32() & 7 == 0 {
            frame.truncate(rng.next_u32() as usize % (frame.len() + 1));
        }
        bench.worker.packet(&frame, Millis(i / 100));
        bench.worker.finish();
        if i % 64 == 0 {
            bench.worker.clean(Millis(i / 100));
        }
        if i % 4096 == 0 {
            bench.checkers.check_some(0, &mut batch);
        }
    }
    let counters = bench.counters.snapshot();
    assert_eq!(counters.packets, 1_000_000);
    assert!(counters.forwarded > 1000 && counters.candidates > 1000, "{counters:?}");
    assert!(counters.candidates_dropped > 0, "the candidate queue is bounded");
    assert!(bench.worker.flows().tracked() <= 1024 + 256);
}
