//! Every case of `detector-stego.json`, `detector-tags.json` and `detector-upstream.json`, and the
//! decoy registrations of `core-keys.json`.

use keys::{Kernel, StationKey};
use std::net::IpAddr;
use tag::{MIN_PAYLOAD, Reject, Tag, TagChecker, registration_message};
use vectors::{Tally, Value, hex, load};

fn cases<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    file[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

fn checker<'a>(keys: impl IntoIterator<Item = &'a Value>) -> TagChecker {
    let key = |value| StationKey::from_private(&hex(value).try_into().unwrap()).unwrap();
    TagChecker::new(keys.into_iter().map(key).collect())
}

fn address(value: &Value) -> IpAddr {
    let bytes = hex(value);
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(bytes).unwrap().into(),
    }
}

fn reason(reject: Reject) -> &'static str {
    match reject {
        Reject::TooShort => "record_too_short",
        Reject::LowOrder => "low order",
        Reject::FixedAuth => "fsp_auth",
        Reject::SizeTooSmall => "vsp_size_too_small",
        Reject::SizeNotMultipleOf3 => "vsp_size_not_multiple_of_3",
        Reject::DoesNotFit => "vsp_does_not_fit",
        Reject::VariableAuth => "vsp_auth",
        Reject::Payload => "c2s_parse",
    }
}

#[test]
fn detector_stego() {
    let file = load("detector-stego.json");
    let mut tally = Tally::new("detector-stego.json");
    for case in cases(&file, "vectors") {
        let secret = hex(&case["secret"]);
        let ciphertext = hex(&case["ciphertext"]);
        let mut found = vec![0; ciphertext.len() / 4 * 3];
        tag::decode_stego(&ciphertext, &mut found);
        assert!(found.starts_with(&secret[..secret.len() / 3 * 3]), "{}", case["name"]);
        let keystream = hex(&case["keystream"]);
        let plaintext = tag::encode_stego(&secret, &keystream);
        assert_eq!(plaintext, hex(&case["plaintext"]), "{}", case["name"]);
        let sent: Vec<u8> = plaintext.iter().zip(&keystream).map(|(p, k)| p ^ k).collect();
        assert_eq!(sent, ciphertext, "{}", case["name"]);
        tally.pass();
    }
    for case in cases(&file, "aes_128_gcm") {
        use aes_gcm::aead::{Aead, KeyInit};
        let key: [u8; 16] = hex(&case["key"]).try_into().unwrap();
        let nonce: [u8; 12] = hex(&case["iv"]).try_into().unwrap();
        let cipher = aes_gcm::Aes128Gcm::new(&key.into());
        let sealed = cipher.encrypt(&nonce.into(), hex(&case["plaintext"]).as_slice()).unwrap();
        assert_eq!(sealed, hex(&case["ciphertext_and_tag"]));
        tally.pass();
    }
    tally.finish();
}

fn accepted(case: &Value, tag: &Tag) {
    let detail = &case["detail"];
    assert_eq!(tag.shared_secret.as_slice(), hex(&detail["shared_secret"]), "{}", case["name"]);
    assert_eq!(tag.fixed.as_slice(), hex(&detail["fsp_plaintext"]), "{}", case["name"]);
    assert_eq!(tag.client_to_station, hex(&detail["c2s"]), "{}", case["name"]);
    assert_eq!(tag.key_index as u64, case["key_index"].as_u64().unwrap(), "{}", case["name"]);
    let message = registration_message(tag, address(&case["flow_src"]), address(&case["flow_dst"]));
    // The reference re-serialises; where that changes the payload, ours keeps the client's bytes
    // (`spec/detector.md` 10.1).
    let name = case["name"].as_str().unwrap();
    if ["unknown-c2s-fields", "c2s-repeated-scalar", "c2s-unknown-group"].contains(&name) {
        let raw = signalling::raw::embedded(&message, 3).unwrap().unwrap();
        assert_eq!(raw.as_ref(), hex(&detail["c2s"]), "{name}");
    } else {
        assert_eq!(message, hex(&case["zmq_message"]), "{name}");
    }
}

#[test]
fn detector_tags() {
    let file = load("detector-tags.json");
    let mut tally = Tally::new("detector-tags.json");
    for case in cases(&file, "vectors") {
        let checker = checker(cases(case, "station_private_keys"));
        for (key, public) in checker.keys().iter().zip(cases(case, "station_public_keys")) {
            assert_eq!(key.public().as_slice(), hex(public));
        }
        let payload = hex(&case["tcp_payload"]);
        let result = checker.check(&payload);
        // Batches give the same, wherever the candidate stands in them.
        let other = [0x17u8; 200];
        let mut batch = vec![other.as_slice(); 20];
        batch[17] = &payload;
        for kernel in [None, Kernel::detect(), Some(Kernel::Avx2Plain), Some(Kernel::IfmaPlain)] {
            let checker = TagChecker::with_kernel(checker.keys().to_vec(), kernel);
            let mut seen = 0;
            checker.check_batch(&batch, |i, outcome| {
                assert_eq!(i, seen, "in order");
                seen += 1;
                if i == 17 {
                    assert_eq!(outcome, result, "{} with {kernel:?}", case["name"]);
                } else {
                    assert_eq!(outcome, Err(Reject::FixedAuth));
                }
            });
            assert_eq!(seen, 20);
        }
        let expect = case.get("hardened_expect").unwrap_or(&case["expect"]);
        match (expect.as_str().unwrap(), result) {
            ("accept", Ok(tag)) => accepted(case, &tag),
            ("reject", Err(reject)) if case.get("hardened_expect").is_some() => {
                assert_eq!(reject, Reject::LowOrder, "{}", case["name"]);
            }
            // Lengths below the shortest possible tag are refused before any arithmetic.
            ("reject", Err(Reject::TooShort)) => assert!(payload.len() < MIN_PAYLOAD),
            ("reject", Err(reject)) => {
                assert_eq!(reason(reject), case["reason"].as_str().unwrap(), "{}", case["name"]);
            }
            (expect, result) => panic!("{}: expected {expect}, got {result:?}", case["name"]),
        }
        tally.pass();
    }
    tally.finish();
}

#[test]
fn core_keys_decoy_registrations() {
    let file = load("core-keys.json");
    let mut tally = Tally::new("core-keys.json");
    for case in cases(&file, "decoy_registrations") {
        let checker = checker([&case["station_private"]]);
        let tag = checker.check(&hex(&case["tls_record"])).unwrap();
        assert_eq!(tag.shared_secret.as_slice(), hex(&case["shared_secret"]));
        assert_eq!(tag.fixed.as_slice(), hex(&case["fixed_size_payload"]));
        assert_eq!(tag.client_to_station, hex(&case["client_to_station"]));
        tally.pass();
    }
    tally.finish();
}

#[test]
fn detector_upstream() {
    let file = load("detector-upstream.json");
    let mut tally = Tally::new("detector-upstream.json");
    let all = cases(&file, "vectors");
    for case in all {
        let record = hex(&case["tls_record"]);
        for other in all {
            let result = checker([&other["station_private_key"]]).check(&record);
            if other["name"] == case["name"] {
                assert!(result.is_ok(), "{}", case["name"]);
            } else {
                assert_eq!(result, Err(Reject::FixedAuth), "{}", case["name"]);
            }
        }
        tally.pass();
    }
    tally.finish();
}
