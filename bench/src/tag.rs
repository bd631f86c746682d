//! Rows of the tag check.

use crate::measure::{Row, nanoseconds};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::hint::black_box;

/// Candidates that are checked together.
pub(crate) const BATCH: usize = 64;
/// Length of a typical record with a tag.
const RECORD: usize = 600;

/// Station keys, records with nothing in them, and a point.
struct Setting {
    keys: Vec<keys::StationKey>,
    private: [u8; 32],
    records: Vec<Vec<u8>>,
    point: [u8; 32],
}

impl Setting {
    fn new(count: usize) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut private = [0; 32];
        let keys = (0..count)
            .map(|_| {
                rng.fill_bytes(&mut private);
                keys::StationKey::from_private(&private).expect("random bytes are a key")
            })
            .collect();
        let records = (0..BATCH)
            .map(|_| {
                let mut record = vec![0; RECORD];
                rng.fill_bytes(&mut record);
                record[0] = 0x17;
                record
            })
            .collect();
        let mut point = [0; 32];
        rng.fill_bytes(&mut point);
        Self { keys, private, records, point }
    }

    /// Checks all records, one after the other in their batches.
    fn check(self, kernel: Option<keys::Kernel>) -> impl FnMut() {
        let Self { keys, records, .. } = self;
        let checker = tag::TagChecker::with_kernel(keys, kernel);
        move || {
            let payloads: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            checker.check_batch(&payloads, |_, outcome| {
                black_box(outcome.is_ok());
            });
        }
    }
}

/// One check that fails, with one key, in batches of 64, by the fastest code of this processor.
pub(crate) fn miss() -> Row {
    against_dalek(keys::Kernel::detect())
}

/// The same with AVX2, whatever else there is.
pub(crate) fn miss_avx2() -> Result<Row, String> {
    Ok(against_dalek(Some(avx2()?)))
}

/// The kernel of that name, or what is missing for it.
pub(crate) fn avx2() -> Result<keys::Kernel, String> {
    let kernel = keys::Kernel::Avx2;
    if kernel.is_available() { Ok(kernel) } else { Err("a processor with AVX2".to_owned()) }
}

/// A batch of checks that fail, with this many keys.
pub(crate) fn checks(keys: usize, kernel: Option<keys::Kernel>) -> impl FnMut() {
    Setting::new(keys).check(kernel)
}

/// The same, one point after the other.
pub(crate) fn miss_portable() -> Row {
    against_dalek(None)
}

fn against_dalek(kernel: Option<keys::Kernel>) -> Row {
    let setting = Setting::new(1);
    let (private, mut point) = (setting.private, setting.point);
    Row {
        unit: "ns",
        baseline_name: "one x25519-dalek multiplication",
        ours: nanoseconds(BATCH, setting.check(kernel)),
        baseline: Ok(nanoseconds(BATCH, move || {
            for _ in 0..BATCH {
                point = black_box(x25519_dalek::x25519(private, point));
            }
        })),
        plausible: None,
    }
}

/// What a second key adds to a check that fails, against the whole check with one key.
pub(crate) fn second_key() -> Row {
    let kernel = keys::Kernel::detect();
    let mut both = nanoseconds(BATCH, checks(2, kernel));
    let mut one = nanoseconds(BATCH, checks(1, kernel));
    let first = nanoseconds(BATCH, checks(1, kernel));
    Row {
        unit: "ns",
        baseline_name: "the check with one key",
        ours: Box::new(move || both() - one()),
        baseline: Ok(first),
        plausible: None,
    }
}
