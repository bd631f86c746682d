//! Rows of the tag check.

use crate::measure::{Row, nanoseconds};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::hint::black_box;

/// Candidates that are checked together.
const BATCH: usize = 64;
/// Length of a typical record with a tag.
const RECORD: usize = 600;

/// One check that fails, with one key, in batches of 64.
pub(crate) fn miss() -> Row {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut private = [0; 32];
    rng.fill_bytes(&mut private);
    let key = keys::StationKey::from_private(&private).expect("random bytes are a key");
    let checker = tag::TagChecker::new(vec![key]);
    let records: Vec<Vec<u8>> = (0..BATCH)
        .map(|_| {
            let mut record = vec![0; RECORD];
            rng.fill_bytes(&mut record);
            record[0] = 0x17;
            record
        })
        .collect();
    let mut point = [0; 32];
    rng.fill_bytes(&mut point);
    Row {
        unit: "ns",
        baseline_name: "one x25519-dalek multiplication",
        ours: nanoseconds(BATCH, move || {
            let payloads: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            checker.check_batch(&payloads, |_, outcome| {
                black_box(outcome.is_ok());
            });
        }),
        baseline: Ok(nanoseconds(BATCH, move || {
            for _ in 0..BATCH {
                point = black_box(x25519_dalek::x25519(private, point));
            }
        })),
        plausible: None,
    }
}
