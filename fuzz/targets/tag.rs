//! TLS records in which the detector looks for a tag. Whatever one check says, the batch says too.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tag::TagChecker;

static CHECKER: LazyLock<TagChecker> = LazyLock::new(|| {
    let keys = [[1; 32], [2; 32]].map(|key| keys::StationKey::from_private(&key));
    TagChecker::new(keys.into_iter().map(|key| key.expect("a private key")).collect())
});

fuzz_target!(|payload: &[u8]| {
    let alone = format!("{:?}", CHECKER.check(payload));
    let half = &payload[..payload.len() / 2];
    CHECKER.check_batch(&[half, payload], |index, result| {
        if index == 1 {
            assert_eq!(format!("{result:?}"), alone);
        }
    });
});
