//! `registrar-amp.json`: armor, paths, cache URLs.

use registration::amp::{self, armor};
use sha2::{Digest, Sha256};
use vectors::{Tally, Value, hex, load};

const FILE: &str = "registrar-amp.json";

fn cases<'a>(file: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    file[name].as_array().unwrap().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn armor_both_ways() {
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    let (head, tail) = (text(&file["head"]), text(&file["tail"]));
    for case in cases(&file, "encode") {
        let length = case["len"].as_u64().unwrap() as usize;
        // The rule of the file.
        let data: Vec<u8> = (0..length).map(|i| (7 * i + i / 256) as u8).collect();
        let document = armor::encode(&data);
        assert_eq!(document.len() as u64, case["armored_len"].as_u64().unwrap(), "{length}");
        assert_eq!(Sha256::digest(&document)[..], hex(&case["armored_sha256"]), "{length}");
        if let Some(inside) = case["inside_body"].as_str() {
            assert_eq!(document, format!("{head}{inside}{tail}"));
        }
        assert_eq!(armor::decode(document.as_bytes()), Ok(data));
        tally.pass();
    }
    for case in cases(&file, "decode") {
        let decoded = armor::decode(text(&case["html"]).as_bytes()).ok();
        let expected = case["data"].as_str().map(|data| data.as_bytes().to_vec());
        assert_eq!(decoded, expected, "{case}");
        tally.pass();
    }
    tally.finish();
}

#[test]
fn paths_and_urls() {
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    for case in cases(&file, "path_decode") {
        match amp::decode_path(text(&case["path"])) {
            Ok(data) => assert_eq!(data, text(&case["data"]).as_bytes(), "{case}"),
            Err(error) => assert_eq!(error.to_string(), text(&case["error"]), "{case}"),
        }
        tally.pass();
    }
    for case in cases(&file, "path_encode") {
        let breaker = hex(&case["breaker"]).try_into().unwrap();
        assert_eq!(amp::encode_path(&hex(&case["data"]), &breaker), text(&case["path"]));
        tally.pass();
    }
    for case in cases(&file, "cache_url") {
        let url =
            amp::cache_url(text(&case["publisher"]), text(&case["cache"]), text(&case["type"]));
        assert_eq!(url.as_deref(), Ok(text(&case["url"])), "{case}");
        tally.pass();
    }
    for case in cases(&file, "cache_url_errors") {
        let url = amp::cache_url(text(&case[0]), text(&case[1]), text(&case[2]));
        assert!(url.is_err(), "{case}: {url:?}");
        tally.pass();
    }
    for case in cases(&file, "domain_prefix") {
        assert_eq!(amp::domain_prefix(text(&case[0])), text(&case[1]));
        tally.pass();
    }
    for case in cases(&file, "domain_prefix_fallback") {
        assert_eq!(amp::domain_prefix_fallback(text(&case[0])), text(&case[1]));
        tally.pass();
    }
    tally.finish();
}
