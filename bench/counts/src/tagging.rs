//! The tag check of candidates that carry none.

use crate::Round;
use keys::{Kernel, StationKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::hint::black_box;
use tag::TagChecker;

/// Candidates of one round, which are checked together.
pub(crate) const CANDIDATES: u64 = 16;
/// Length of a typical record with a tag.
const RECORD: usize = 600;

/// One point after the other.
pub(crate) fn portable() -> Result<Round, String> {
    check(None, 1)
}

/// Four points at a time with AVX2.
pub(crate) fn avx2() -> Result<Round, String> {
    check_with_avx2(1)
}

/// The same with two station keys.
pub(crate) fn two_keys() -> Result<Round, String> {
    check_with_avx2(2)
}

fn check_with_avx2(keys: usize) -> Result<Round, String> {
    if !Kernel::Avx2.is_available() {
        return Err("needs a processor with AVX2".to_owned());
    }
    check(Some(Kernel::Avx2), keys)
}

fn check(kernel: Option<Kernel>, keys: usize) -> Result<Round, String> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut private = [0; 32];
    rng.fill_bytes(&mut private);
    let keys: Result<Vec<StationKey>, _> = (1..=keys)
        .map(|n| {
            private[0] ^= n.to_le_bytes()[0] << 3;
            StationKey::from_private(&private)
        })
        .collect();
    let keys = keys.map_err(|e| e.to_string())?;
    let records: Vec<Vec<u8>> = (0..CANDIDATES)
        .map(|_| {
            let mut record = vec![0; RECORD];
            rng.fill_bytes(&mut record);
            record[0] = 0x17;
            record
        })
        .collect();
    let checker = TagChecker::with_kernel(keys, kernel);
    Ok(Box::new(move || {
        let payloads: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        checker.check_batch(&payloads, |_, outcome| {
            black_box(outcome.is_ok());
        });
    }))
}
