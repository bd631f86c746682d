//! Paths of strangers to the AMP endpoints, documents of caches to a client, and the URLs of both.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registration::amp::{self, armor};

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = armor::decode(data) {
        assert!(message.len() <= data.len());
    }
    assert_eq!(armor::decode(armor::encode(data).as_bytes()).as_deref(), Ok(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some((_, encoded)) = amp::endpoint(text) {
        let _ = amp::read("GET", encoded);
    }
    let _ = amp::read("GET", text);
    let (publisher, cache) = text.split_once(' ').unwrap_or((text, "https://cdn.example/"));
    let _ = amp::cache_url(publisher, cache, "c");
});
