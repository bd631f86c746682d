//! `ingest_hash.json`: the symmetric hash, the sum it replaces, and how both spread traffic.
//! `ingest_tunnels.json`: which addresses of a frame are hashed, tunnels and fragments included.

use std::net::IpAddr;

use packet::distribution::frame_hash;
use packet::hash::{additive, queue};
use packet::tunnel::{self, Follow};
use packet::walk::{self, Pair};
use packet::{Mode, SymmetricHash};
use vectors::{Tally, Value};

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

fn address(value: &Value) -> IpAddr {
    value.as_str().unwrap().parse().unwrap()
}

fn word(value: &Value) -> u32 {
    u32::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn ingest_hash() {
    let file = vectors::load("ingest_hash.json");
    let mut tally = Tally::new("ingest_hash.json");
    let hash = SymmetricHash::new(SEED);
    for case in file["cases"].as_array().unwrap() {
        let (got, sum) = match (address(&case["a"]), address(&case["b"])) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (hash.v4(a.octets(), b.octets()), Some(additive(a.octets(), b.octets())))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (hash.v6(a.octets(), b.octets()), None),
            _ => panic!("families differ: {case}"),
        };
        assert_eq!(got, word(&case["sym_hash"]), "{case}");
        for (queues, expected) in case["queue"].as_object().unwrap() {
            let expected = expected.as_u64().unwrap();
            assert_eq!(u64::from(queue(got, queues.parse().unwrap())), expected, "{case}");
        }
        assert_eq!(case["additive"].is_null(), sum.is_none(), "{case}");
        if let Some(sum) = sum {
            assert_eq!(sum, word(&case["additive"]), "{case}");
            for (queues, expected) in case["additive_queue"].as_object().unwrap() {
                let queues: u32 = queues.parse().unwrap();
                assert_eq!(u64::from(sum % queues), expected.as_u64().unwrap(), "{case}");
            }
        }
        tally.pass();
    }
    for row in file["spread"].as_array().unwrap() {
        spread(&hash, row);
        tally.pass();
    }
    tally.finish();
}

fn counts(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

/// The kind of traffic whose addresses are known, so that every count must be equal.
const MIRRORED: &str = "mirrored low bits";

/// The file names each kind of traffic without listing its addresses: rebuild traffic of that kind
/// and compare the shapes. The sum's shape is exact where the kind fixes the sum's low bits, and
/// the symmetric hash must be as even as the vector's own numbers are.
fn spread(hash: &SymmetricHash, row: &Value) {
    let queues = u32::try_from(row["queues"].as_u64().unwrap()).unwrap();
    let flows = traffic(row["traffic"].as_str().unwrap());
    let mut sums = vec![0u64; queues as usize];
    let mut symmetric = vec![0u64; queues as usize];
    for (a, b) in &flows {
        let (a, b) = (a.to_be_bytes(), b.to_be_bytes());
        sums[(additive(a, b) % queues) as usize] += 1;
        symmetric[queue(hash.v4(a, b), queues) as usize] += 1;
    }
    let (want_sums, want_symmetric) = (counts(&row["additive"]), counts(&row["sym_hash"]));
    assert_eq!(flows.len() as u64, want_sums.iter().sum::<u64>(), "{row}");
    assert_eq!(flows.len() as u64, want_symmetric.iter().sum::<u64>(), "{row}");
    if want_sums.contains(&0) {
        assert_eq!(sums, want_sums, "{row}");
    } else {
        assert!(even(&sums) && even(&want_sums), "{row}");
    }
    if row["traffic"] == MIRRORED {
        assert_eq!(symmetric, want_symmetric, "{row}");
    }
    assert!(even(&symmetric), "{row}: {symmetric:?}");
    assert!(even(&want_symmetric), "{row}");
}

/// True when every count is within six standard deviations of the mean of a fair draw.
fn even(counts: &[u64]) -> bool {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    counts.iter().all(|&c| (c as f64 - mean).abs() <= 6.0 * mean.sqrt())
}

fn traffic(kind: &str) -> Vec<(u32, u32)> {
    const CLIENTS: u32 = 0x0a00_0000;
    const PHANTOMS: u32 = 0xc07a_be00;
    match kind {
        "correlated low bits" => (0..1024).map(|i| (CLIENTS + i, PHANTOMS + i)).collect(),
        MIRRORED => (0..1024).map(|i| (CLIENTS + i, PHANTOMS + (255 - (i & 255)))).collect(),
        "random clients, one /24 of phantoms" => {
            let mut state = 0x2545_f491_4f6c_dd1d_u64;
            let mut draw = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u32
            };
            (0..20_000).map(|_| (draw(), PHANTOMS + (draw() & 255))).collect()
        }
        other => panic!("unknown kind of traffic: {other}"),
    }
}

#[test]
fn ingest_tunnels() {
    let file = vectors::load("ingest_tunnels.json");
    let mut tally = Tally::new("ingest_tunnels.json");
    let hash = SymmetricHash::new(SEED);
    for case in file["cases"].as_array().unwrap() {
        let frame = vectors::hex(&case["frame"]);
        let mode: Mode = case["mode"].as_str().unwrap().parse().unwrap();
        let walked = match mode {
            Mode::Ip => walk::outer(&frame),
            Mode::Gre => tunnel::inner(&frame, Follow::GRE),
            Mode::Gtp => tunnel::inner(&frame, Follow::GTP),
            Mode::Erspan => tunnel::inner(&frame, Follow::ERSPAN),
            other => panic!("no case for {other}: {case}"),
        };
        assert_eq!(walked.map(|o| o.offset as u64), case["inner_l3_offset"].as_u64(), "{case}");
        let hashed = frame_hash(mode, &hash, &frame);
        if let Some(walked) = walked {
            let (a, b) = match walked.pair {
                Pair::V4(a, b) => (IpAddr::from(a), IpAddr::from(b)),
                Pair::V6(a, b) => (IpAddr::from(a), IpAddr::from(b)),
            };
            assert_eq!((a, b), (address(&case["a"]), address(&case["b"])), "{case}");
            assert_eq!(hashed, word(&case["sym_hash"]), "{case}");
        }
        assert_eq!(u64::from(queue(hashed, 4)), case["queue_of_4"].as_u64().unwrap(), "{case}");
        // A frame that one kind of tunnel leads into, every walk that follows all kinds enters too.
        let all = tunnel::inner(&frame, Follow::ALL).map(|o| o.pair);
        assert_eq!(all, walked.map(|o| o.pair), "{case}");
        tally.pass();
    }
    tally.finish();
}
