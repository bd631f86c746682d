//! In the steady state the packet path allocates nothing: packets of no interest, of followed flows
//! and of sessions.

#[allow(dead_code)]
mod frames;

use detector::candidates::Candidates;
use detector::clock::Millis;
use detector::counters::Counters;
use detector::outlets::{Discard, Outlets, Passage};
use detector::pending::Pending;
use detector::sessions::Sessions;
use detector::worker::{Bounds, Shared, Worker};
use frames::{tcp4, tcp6, udp4};
use session::{Proto, SessionKey};
use std::sync::Arc;
use std::time::Duration;

const CLIENT: [u8; 4] = [203, 0, 113, 9];
const PHANTOM: [u8; 4] = [192, 122, 190, 7];
const DECOY: [u8; 4] = [198, 51, 100, 1];
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

#[test]
fn no_allocation_per_packet() {
    let sessions = Arc::new(Sessions::new());
    let counters = Arc::new(Counters::default());
    let shared = Shared {
        sessions: Arc::clone(&sessions),
        filter: Arc::default(),
        counters: Arc::clone(&counters),
    };
    let outlets = Outlets {
        worker: 0,
        queue: 0,
        sink: Arc::new(Discard),
        candidates: Arc::new(Candidates::new(Arc::default())),
        pending: Arc::new(Pending::default()),
        sessions: Arc::clone(&sessions),
        patient: false,
        passage: Passage::default(),
    };
    let mut worker = Worker::new(shared, 0, Bounds::default(), outlets);
    let key = SessionKey::new(Proto::Tcp, PHANTOM.into(), CLIENT.into(), 443).unwrap();
    sessions.upsert(&key, Duration::from_secs(600), Millis(0));
    let handshake = [0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5];
    let untracked = [
        tcp4((CLIENT, 4000), (DECOY, 80), ACK, b"GET / HTTP/1.1\r\n"),
        tcp4((DECOY, 443), (CLIENT, 4000), ACK, &[7; 1400]),
        tcp4((CLIENT, 4001), (DECOY, 443), ACK, &[0x17; 600]),
        tcp6(([1; 16], 5), ([2; 16], 443), ACK, &[0x17; 600]),
        udp4((CLIENT, 4000), (DECOY, 443), &[1; 1200]),
        udp4((CLIENT, 4000), (DECOY, 53), &[1; 300]),
        vec![0xff; 60],
    ];
    let syn = tcp4((CLIENT, 5000), (DECOY, 443), SYN, &[]);
    let tracked = tcp4((CLIENT, 5000), (DECOY, 443), ACK, &handshake);
    let forwarded = tcp4((CLIENT, 6000), (PHANTOM, 443), ACK, &[9; 1400]);
    let mut round = |now: u64| {
        for frame in &untracked {
            worker.packet(frame, Millis(now));
        }
        worker.packet(&syn, Millis(now));
        worker.packet(&tracked, Millis(now));
        worker.packet(&forwarded, Millis(now));
        worker.finish();
        worker.clean(Millis(now));
    };
    round(0);
    let allocated = allocation_counter::measure(|| (1..10_000).for_each(&mut round));
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
    let counted = counters.snapshot();
    assert_eq!((counted.forwarded, counted.syns, counted.tracked), (10_000, 10_000, 1));
    assert_eq!(counted.packets, 100_000);
    // The measurement itself would notice an allocation.
    assert!(
        allocation_counter::measure(|| drop(std::hint::black_box(Box::new(counted.packets))))
            .count_total
            > 0
    );
}
