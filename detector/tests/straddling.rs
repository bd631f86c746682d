//! A tagged record whose segments are cut anywhere is found, whatever else the detector checks.

#[allow(dead_code)]
mod frames;

use arc_swap::ArcSwap;
use detector::candidates::{Bell, Candidates};
use detector::checker::{Checkers, Inlet};
use detector::clock::Millis;
use detector::counters::{Counters, Snapshot};
use detector::outlets::{Discard, Outlets, Passage};
use detector::pending::Pending;
use detector::sessions::Sessions;
use detector::worker::{Bounds, Shared, Worker};
use frames::{tcp4, tcp6};
use keys::StationKey;
use parking_lot::Mutex;
use std::sync::Arc;
use tag::TagChecker;
use vectors::{hex, load};

const CLIENT: [u8; 4] = [192, 0, 2, 77];
const DECOY: [u8; 4] = [198, 51, 100, 9];
const SYN: u8 = 0x02;
const ACK: u8 = 0x18;

struct Detector {
    worker: Worker<Outlets>,
    checkers: Checkers,
    published: Arc<Mutex<Vec<Vec<u8>>>>,
    counters: Arc<Counters>,
}

impl Detector {
    fn new(keys: Vec<StationKey>, straddling: usize) -> Self {
        let (sessions, counters): (Arc<Sessions>, Arc<Counters>) = Default::default();
        let bell = Arc::new(Bell::default());
        let candidates = Arc::new(Candidates::new(Arc::clone(&bell)));
        let published: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let sink = Arc::clone(&published);
        let checkers = Checkers::new(
            Arc::new(ArcSwap::from_pointee(TagChecker::new(keys))),
            vec![Inlet { candidates: Arc::clone(&candidates), counters: Arc::clone(&counters) }],
            bell,
            Box::new(move |message| sink.lock().push(message)),
        );
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
        let shared = Shared { sessions, filter: Arc::default(), counters: Arc::clone(&counters) };
        let bounds = Bounds { flows: 1024, straddling };
        Self { worker: Worker::new(shared, 0, bounds, outlets), checkers, published, counters }
    }

    /// A connection whose client sends `segments` one after the other; what is published then.
    fn connection(&mut self, six: bool, segments: &[&[u8]]) -> Vec<Vec<u8>> {
        let frame = |flags, sequence: u32, payload: &[u8]| {
            let mut frame = if six {
                tcp6(([7; 16], 4000), ([8; 16], 443), flags, payload)
            } else {
                tcp4((CLIENT, 4000), (DECOY, 443), flags, payload)
            };
            let at = frame.len() - payload.len() - 20 + 4;
            frame[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
            frame
        };
        // Close to where sequence numbers begin anew.
        let mut sequence = u32::MAX - 300;
        self.worker.packet(&frame(SYN, sequence.wrapping_sub(1), &[]), Millis(1));
        for segment in segments {
            self.worker.packet(&frame(ACK, sequence, segment), Millis(2));
            sequence = sequence.wrapping_add(segment.len() as u32);
        }
        while self.checkers.check_some(0, &mut Vec::new()) {}
        std::mem::take(&mut *self.published.lock())
    }

    fn counted(&mut self) -> Snapshot {
        self.worker.clean(Millis(3));
        self.counters.snapshot()
    }
}

/// The tagged records of `detector-tags.json` that are one whole TLS record, with the keys for them.
fn records() -> Vec<(Vec<StationKey>, Vec<u8>)> {
    let key = |value| StationKey::from_private(&hex(value).try_into().unwrap()).unwrap();
    let whole = |payload: &[u8]| {
        payload[..2] == [0x17, 3]
            && payload.len() == 5 + usize::from(u16::from_be_bytes([payload[3], payload[4]]))
    };
    let file = load("detector-tags.json");
    let accepted = file["vectors"].as_array().unwrap().iter();
    accepted
        .filter(|v| v["expect"] == "accept" && v["hardened_expect"].is_null())
        .map(|v| {
            let keys = v["station_private_keys"].as_array().unwrap().iter().map(key).collect();
            (keys, hex(&v["tcp_payload"]))
        })
        .filter(|(_, payload)| whole(payload))
        .collect()
}

#[test]
fn records_that_are_cut_anywhere_are_found() {
    let records = records();
    assert!(records.len() >= 10, "{}", records.len());
    for (number, (keys, record)) in records.iter().enumerate() {
        let mut detector = Detector::new(keys.clone(), 64);
        let whole = detector.connection(false, &[record]);
        assert_eq!(whole.len(), 1);
        // Every byte of some, and every seventh of the others.
        let step = if number < 4 { 1 } else { 7 };
        let mut cuts = 0;
        for cut in (1..record.len()).step_by(step) {
            let (first, second) = record.split_at(cut);
            let six = cut % 5 == 0;
            let joined = detector.connection(six, &[first, second]);
            assert_eq!(joined.len(), 1, "cut at {cut} of {}", record.len());
            // The addresses of IPv6 make another message.
            assert!(six || joined == whole, "cut at {cut} of {}", record.len());
            cuts += 1;
        }
        let counted = detector.counted();
        assert_eq!((counted.straddling, counted.joined), (cuts, cuts));
        assert_eq!(counted.straddling_lost, 0);
        assert_eq!(counted.tags, cuts + 1);
    }
}

#[test]
fn three_segments_and_what_follows() {
    let (keys, record) = &records()[0];
    let mut detector = Detector::new(keys.clone(), 64);
    for cut in (2..record.len()).step_by(7) {
        let (first, second) = record[..cut].split_at(cut / 2);
        let last = [&record[cut..], b"\x17\x03\x03\x00\x30 the next record"].concat();
        let found = detector.connection(false, &[first, second, &last]);
        assert_eq!(found.len(), 1, "cut at {cut}");
    }
    // A segment that was sent again, and one that overtook the others.
    let (first, second) = record.split_at(200);
    assert_eq!(detector.connection(false, &[first, &[], second]).len(), 1);
}

#[test]
fn what_is_found_without_joining_is_found_with_it() {
    for (keys, record) in &records() {
        let mut detector = Detector::new(keys.clone(), 64);
        // Its header announces more than there is, which the reference does not look at.
        let mut longer = record.clone();
        longer[3..5].copy_from_slice(&(record.len() as u16 + 100).to_be_bytes());
        assert_eq!(detector.connection(false, &[&longer]).len(), 1);
        // A short start with the type of an application record does not use up the check.
        assert_eq!(detector.connection(false, &[&[0x17, 3, 3], record]).len(), 1);
    }
}

#[test]
fn without_room_nothing_is_kept() {
    let (keys, record) = &records()[0];
    let mut detector = Detector::new(keys.clone(), 0);
    let (first, second) = record.split_at(300);
    assert_eq!(detector.connection(false, &[first, second]).len(), 0);
    let counted = detector.counted();
    assert_eq!((counted.straddling, counted.candidates, counted.tracked), (0, 1, 0));
}
