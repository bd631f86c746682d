//! `ingest_zbalance_format.json`.

use std::time::Duration;

use vectors::{Tally, load};
use zbalance::format::{Details, Snapshot, count, duration, rate};

#[test]
fn ingest_zbalance_format() {
    let file = load("ingest_zbalance_format.json");
    let mut tally = Tally::new("ingest_zbalance_format.json");
    for case in file["numbers"].as_array().unwrap() {
        let value = case["value"].as_f64().unwrap();
        assert_eq!(count(value), case["plain"].as_str().unwrap());
        assert_eq!(rate(value), case["decimals"].as_str().unwrap());
        tally.pass();
    }
    for case in file["durations"].as_array().unwrap() {
        let ms = Duration::from_millis(case["ms"].as_u64().unwrap());
        assert_eq!(duration(ms), case["text"].as_str().unwrap());
        tally.pass();
    }
    for case in file["round_up_pow2"].as_array().unwrap() {
        let n = case[0].as_u64().unwrap() as u32;
        assert_eq!(u64::from(n.next_power_of_two()), case[1].as_u64().unwrap());
        tally.pass();
    }
    for case in file["stats_files"].as_array().unwrap() {
        let number = |name: &str| case[name].as_u64().unwrap();
        let pair =
            |value: &vectors::Value| (value[0].as_u64().unwrap(), value[1].as_u64().unwrap());
        let sets = case["apps"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32);
        let snapshot = Snapshot {
            cluster: number("cluster") as u32,
            sets: sets.collect(),
            duration: Duration::from_millis(number("duration_ms")),
            received: number("received"),
            forwarded: number("sent"),
            processed: number("processed"),
            details: case.get("queues").map(|queues| Details {
                prefiltered: None,
                passed: None,
                interface: pair(&case["interface"]),
                queues: queues.as_array().unwrap().iter().map(pair).collect(),
            }),
        };
        assert_eq!(snapshot.text(), case["text"].as_str().unwrap());
        tally.pass();
    }
    tally.finish();
}
